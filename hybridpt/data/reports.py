"""Reports and what labelers say of them, without images: the data of a report labeler."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hybridpt.data.datamodule import HybridDataModule
from hybridpt.data.dataset import Key, Sample
from hybridpt.data.labels import JoinedLabels
from hybridpt.data.manifest import SPLITS, read_manifest
from hybridpt.data.sources import Sources
from hybridpt.data.text import report_text
from labelers.channel import ALL_DATASETS, channel_information
from labelers.errors import InputError
from labelers.io.reports import read_reports, rows_of_csv
from labelers.types import UNMENTIONED, Finding, Vocabulary

__all__ = ["ReportDataModule", "read_report_rows", "split_of"]

KNOWN = ("patient_id", "dataset", "split")
DATASET = "reports"
"""Name of the data set of reports that tell none."""
VALIDATION = 0.1
"""Share of the patients that a file without the column ``split`` is validated on."""
LEAST = 5
"""Training reports that mention a finding at the least; a head cannot learn from fewer, and unknown is not unmentioned."""
PRIOR_WEIGHT = 16.0
"""Cells that the mean over all findings counts for in what the training labels of one finding are like, as in ``labelers.channel``."""
WORTH = (0.95, 0.05, 0.5, 0.1)
"""P(present | state) of a state that no training label has."""


def split_of(patient: str) -> str:
    """Return ``val`` for a tenth of the patients and ``train`` for the rest, by a hash: the same in every run and on every machine."""
    number = int.from_bytes(hashlib.blake2b(patient.encode(), digest_size=8).digest(), "big")
    return "val" if number < VALIDATION * 2**64 else "train"


def read_report_rows(path: str | Path) -> pd.DataFrame:
    """Read reports with the patient, data set and split that the file knows.

    Args:
        path: Whatever ``labelers run`` reads; a CSV or Parquet file may also have the columns patient_id, dataset and split. Or a
            manifest, whose studies are taken once each.

    Returns:
        One row a report: study_id (the report's id), report, patient_id (the id again where unknown), dataset, split, and an empty
        image. Without a column ``split``, patients are split by ``split_of``.

    Raises:
        InputError: As ``read_reports`` or ``read_manifest``; a split of another name; an empty patient; a patient in two splits; or a
            study of a manifest with two texts. The message names the row and no identifiers.
    """
    path = Path(path)
    told = _told(path)
    if "image" in told:
        return _studies(path)
    reports = list(read_reports(path))
    ids = [report.report_id for report in reports]
    rows = pd.DataFrame({"study_id": ids, "report": [report.text for report in reports]}, dtype=object)
    if rows.empty:
        raise InputError(f"{path}: expected one report or more, found none")
    rows["image"] = ""
    rows["patient_id"] = told.get("patient_id", ids)
    rows["dataset"] = told.get("dataset", DATASET)
    _check(rows["patient_id"].str.strip() == "", path, "the column 'patient_id' is empty; fill it, or leave the column out")
    _check(rows["dataset"].str.strip() == "", path, "the column 'dataset' is empty; fill it, or leave the column out")
    rows["split"] = told.get("split") or [split_of(patient) for patient in rows["patient_id"]]
    _check(~rows["split"].isin(SPLITS), path, f"expected a split of {', '.join(SPLITS)}, got another; correct the cell")
    first = rows.groupby("patient_id")["split"].transform("first")
    _check(first != rows["split"], path, "the patient of an earlier row in another split; give every patient one split")
    return rows


def _told(path: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV or Parquet file that say more than text and id, and ``image`` where it is a manifest."""
    wanted = (*KNOWN, "image")
    if not path.is_file():
        return {}
    if path.suffix.lower() == ".csv":
        rows = rows_of_csv(path)
        _, header = next(rows)
        places = {name: header.index(name) for name in wanted if name in header}
        body = [[row[place] for place in places.values()] for _, row in rows] if places else []
        return {name: [row[i] for row in body] for i, name in enumerate(places)}
    if path.suffix.lower() != ".parquet":
        return {}
    try:
        names = [name for name in pq.read_schema(path).names if name in wanted]
        table = pq.read_table(path, columns=list(dict.fromkeys(names)))
        return {name: list(table.column(name).cast(pa.string()).fill_null("").to_pylist()) for name in dict.fromkeys(names)}
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None


def _check(bad: pd.Series, path: Path, message: str) -> None:
    if bad.any():
        raise InputError(f"{path}, report {int(bad.to_numpy().argmax()) + 1}: {message}")


def _studies(path: Path) -> pd.DataFrame:
    rows = read_manifest(path)
    if "report" not in rows:
        raise InputError(f"{path}: expected a column 'report' in the manifest, found none; give a file of reports")
    study = rows.groupby(["dataset", "study_id"])
    _check(
        study["report"].transform("first") != rows["report"], path, "the study of an earlier row with another text; correct one"
    )
    rows = rows[rows["report"].str.strip() != ""].drop_duplicates(["dataset", "study_id"]).reset_index(drop=True)
    if rows.empty:
        raise InputError(f"{path}: expected one report or more, found none")
    return rows.assign(image="")


class _Reports(Dataset[Sample]):
    """Rows whose images have no pixels: all that is known of a report comes from the table."""

    def __getitem__(self, key: Key) -> Sample:
        return Sample(key, torch.zeros(1, 0, 0), {}, "")


class ReportDataModule(HybridDataModule):
    """Reports with what labelers say of them. A report that is longer than the encoder reads is learned from its beginning alone.

    Args:
        reports: Whatever ``labelers run`` reads; a CSV or Parquet file may have the columns patient_id, dataset and split (train, val,
            test). Without ``split`` a tenth of the patients (of the reports, where no patient is known) is validated on. Or a
            manifest.
        labels: Label tables, of one labeler, of several, or one fused from them; ``DATASET=PATH`` binds one to a data set.
        channels: CHANNELS.json of ``labelers noise``; the probability is then trained by the likelihood of what the labelers said.
        gold: CSV with a report id and a column a finding (1, 0 or empty). No fit trains on it or calibrates by it: a fit draws
            its scores against that of val reports, validate and test score against that of theirs.
        findings: Findings to learn; by default all that five training reports or more mention.
        batch_size: Reports a batch and process.
        num_workers: Processes that turn text into tokens.
        seed: Seed of the order.
    """

    def __init__(
        self,
        reports: str,
        labels: list[str] | None = None,
        channels: str | None = None,
        gold: str | None = None,
        findings: list[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(reports, labels, channels, gold, findings, batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.image_size = 0
        self._fitting = False

    def setup(self, stage: str) -> None:
        """Read and join everything."""
        self._fitting = stage == "fit"
        super().setup(stage)

    def _read_rows(self) -> pd.DataFrame:
        return read_report_rows(self.manifest)

    def _dataset(self) -> Dataset[Sample]:
        return _Reports()

    def _texts(self, reports: Sequence[str]) -> list[tuple[str, ...]]:
        return [(text,) if text else () for text in map(report_text, reports)]  # whole: labels may rest on a comparison

    def _join(self, known: Sources | None) -> JoinedLabels:
        if known is not None:  # the findings that were left out when the training began stay out
            self.findings = self.findings or list(known.findings)
        joined = super()._join(known)
        if self._fitting:
            self.rows.loc[~joined.looked.any(axis=(1, 2)), "split"] = ""  # a report without labels teaches nothing
        return joined if self.findings is not None else self._mentioned(joined)

    def _mentioned(self, joined: JoinedLabels) -> JoinedLabels:
        """Keep the findings that enough training reports mention, and say how many are left out."""
        train = (self.rows["split"] == "train").to_numpy()
        mentioned = ((joined.state != UNMENTIONED) & joined.looked)[train].any(axis=1).sum(axis=0)
        kept = np.flatnonzero(mentioned >= LEAST)
        if train.any() and not len(kept):
            raise InputError(
                f"expected findings that {LEAST} training reports or more mention, found none; give more reports, or name the findings "
                "with --data.findings"
            )
        if len(kept) < len(joined.findings):
            self._say(
                f"note: {len(kept)} of {len(joined.findings)} findings are learned; the others are mentioned in fewer than {LEAST} "
                "training reports and will be unknown to the labeler"
            )
        return replace(
            joined,
            findings=tuple(joined.findings[k] for k in kept),
            state=joined.state[..., kept],
            probability=joined.probability[..., kept],
            looked=joined.looked[..., kept],
        )

    def _check_fit(self, train: np.ndarray[Any, Any]) -> None:
        for split in ("train", "val"):
            if not (self.rows["split"] == split).any():
                raise InputError(
                    f"{self.manifest}: expected labelled reports in the split '{split}', found none; a fit needs train and val; give more "
                    "reports, or say in a column 'split' which are which"
                )

    def vocabulary(self) -> Vocabulary:
        """Return the findings of the model as a vocabulary: that of the tables, or a joined one where they differ."""
        names = {(v.name, v.version) for v in self.vocabularies}
        name, version = names.pop() if len(names) == 1 else ("joined", "1")
        parents = {f.name: f.parent for v in reversed(self.vocabularies) for f in v.findings}
        kept = self.sources.findings

        def nearest(finding: str) -> str | None:
            parent = parents.get(finding)
            while parent is not None and parent not in kept:
                parent = parents.get(parent)
            return parent

        return Vocabulary(name, version, tuple(Finding(finding, nearest(finding)) for finding in kept))

    def beginning(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what the training labels are like by finding, kept near the mean over all findings where they are few.

        Returns:
            Share of each state, and P(present | state): the mean of the labelers' probabilities or, where a channel is known, what prior
            and channel make of the state for the labeler that tells most of the finding. Each (K, 4) in (0, 1).
        """
        labels, train = self._table.labels, (self.rows["split"] == "train").to_numpy()
        state, looked = labels.state[train], labels.looked[train]
        count, present = (np.zeros((len(labels.findings), 4)) for _ in range(2))
        for code in range(4):
            cells = looked & (state == code)
            count[:, code] = cells.sum(axis=(0, 1))
            present[:, code] = (labels.probability[train] * cells).sum(axis=(0, 1))
        total = count.sum(axis=0)
        share = (count + PRIOR_WEIGHT * total / total.sum()) / (count.sum(axis=1, keepdims=True) + PRIOR_WEIGHT)
        mean = np.where(total > 0, present.sum(axis=0) / np.maximum(total, 1), WORTH)
        worth = (present + PRIOR_WEIGHT * mean) / (count + PRIOR_WEIGHT)
        for k, finding in enumerate(labels.findings):
            prior, matrix = self.sources.prevalence[k], self._best_channel(finding, self.sources.prevalence[k])
            if matrix is not None:
                joint = matrix * [[1 - prior], [prior]]
                worth[k] = joint[1] / joint.sum(axis=0)
        return np.clip(share, 1e-4, 1.0), np.clip(worth, 1e-3, 1 - 1e-3)

    def _best_channel(self, finding: str, prior: float) -> NDArray[np.float64] | None:
        """The channel of the labeler whose states tell most of a finding, (2, 4), or None where nobody measured one."""
        if self.channel_set is None:
            return None
        found = [self.channel_set.find(labeler, ALL_DATASETS, finding) for labeler in self._table.labels.labelers]
        known = [channel.matrix for channel in found if channel is not None]
        return max(known, key=lambda matrix: channel_information(matrix, prior), default=None)
