"""Label tables and gold, joined to the rows of a manifest by data set and study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labelers.errors import InputError
from labelers.io import Gold, read_table
from labelers.types import NEGATIVE, POSITIVE, UNMENTIONED, LabelTable

__all__ = ["JoinedLabels", "Overlap", "bind", "join_gold", "join_labels", "overlap", "read_tables", "truth_of_states"]

SHOWN = 10
"""Names listed in a message at the most."""


@dataclass(frozen=True, eq=False)
class JoinedLabels:
    """What S labelers say of N images and K findings.

    Attributes:
        findings: K names.
        labelers: S names.
        state: Codes of ``labelers.STATES``, (N, S, K) int8.
        probability: P(present), (N, S, K) float32.
        looked: True where the labeler judged the study and knows the finding, (N, S, K) bool.
    """

    findings: tuple[str, ...]
    labelers: tuple[str, ...]
    state: NDArray[np.int8]
    probability: NDArray[np.float32]
    looked: NDArray[np.bool_]

    def positive_share(self, rows: NDArray[np.bool_]) -> tuple[float, ...]:
        """Share of the judged cells among some rows that are positive, by finding; kept within [0.005, 0.995]."""
        looked = self.looked[rows].sum(axis=(0, 1))
        positive = (self.looked[rows] & (self.state[rows] == POSITIVE)).sum(axis=(0, 1))
        return tuple(float(p) for p in np.clip((positive + 0.5) / (looked + 1), 0.005, 0.995))


def bind(path: str) -> tuple[str | None, str]:
    """Take ``DATASET=PATH`` apart; a plain path, or one that exists as it is written, is bound to no data set."""
    dataset, equals, file = path.partition("=")
    return (dataset, file) if equals and not Path(path).exists() else (None, path)


def read_tables(paths: Sequence[str]) -> list[tuple[str | None, LabelTable]]:
    """Read label tables; a path may be written ``DATASET=PATH`` to bind the table to one data set.

    Raises:
        InputError: As ``labelers.read_table``; two tables name different versions of one vocabulary; or a fused table stands beside
            one that it was made of.
    """
    bound = [bind(path) for path in paths]
    tables = [(dataset, read_table(path)) for dataset, path in bound]
    versions: dict[str, str] = {}
    for _, table in tables:
        name, version = table.vocabulary.name, table.vocabulary.version
        if versions.setdefault(name, version) != version:
            raise InputError(
                f"the labels of '{table.source}' name version {version} of the vocabulary '{name}', others version {versions[name]}; "
                "a finding may mean two things, write all tables with one version"
            )
    sources = {t.source for _, t in tables}
    for _, table in tables:
        both = sources & set(table.parents)
        if both:
            raise InputError(
                f"the fused labels '{table.source}' were made of '{sorted(both)[0]}', which is given too; "
                "its errors would count twice, give one of them"
            )
    return tables


def join_labels(tables: Sequence[tuple[str | None, LabelTable]], manifest: pd.DataFrame, findings: Sequence[str]) -> JoinedLabels:
    """Join tables to the images of a manifest.

    Args:
        tables: Each table, with the data set it is bound to or None; several tables of one labeler become one row.
        manifest: Checked rows with ``dataset`` and ``study_id``.
        findings: K names to keep, in order.

    Raises:
        InputError: A finding that no table knows, a table that meets no study, a study id of two data sets in an unbound table, or
            a cell that two tables of one labeler fill.
    """
    known = {n for _, t in tables for n in t.vocabulary.names}
    unknown = [f for f in findings if f not in known]
    if tables and unknown:
        raise InputError(
            f"no label table knows the finding '{unknown[0]}'; the tables know: {', '.join(sorted(known)[:20])}; correct the name or add its table"
        )
    labelers = tuple(dict.fromkeys(t.source for _, t in tables))
    shape = (len(manifest), len(labelers), len(findings))
    state = np.full(shape, UNMENTIONED, np.int8)
    probability = np.zeros(shape, np.float32)
    looked = np.zeros(shape, bool)
    for dataset, table in tables:
        rows, reports = _meet(dataset, list(table.report_ids), f"the labels of '{table.source}'", manifest)
        s = labelers.index(table.source)
        shared = [(k, table.vocabulary.index(f)) for k, f in enumerate(findings) if f in table.vocabulary]
        twice = int(looked[rows, s][:, [k for k, _ in shared]].any(axis=1).sum())
        if twice:
            raise InputError(
                f"two tables of '{table.source}' label the same {twice:,} images; give one of them, or bind each to its data set "
                "with DATASET=PATH"
            )
        for k, column in shared:
            state[rows, s, k] = table.state[reports, column]
            probability[rows, s, k] = table.probability[reports, column]
            looked[rows, s, k] = True
    return JoinedLabels(tuple(findings), labelers, state, probability, looked)


@dataclass(frozen=True)
class Overlap:
    """How far the ids of a file and the studies of a manifest meet.

    Attributes:
        ids: Ids of the file.
        studies: Studies of the manifest, in the data set that the file is bound to, or in all that it meets.
        both: Those that stand in both.
    """

    ids: int
    studies: int
    both: int

    def __str__(self) -> str:
        return f"{self.both:,} of {self.studies:,} studies met, {self.ids - self.both:,} of {self.ids:,} ids not in the manifest"

    @property
    def partial(self) -> bool:
        """Whether either side has something that the other lacks."""
        return self.both < max(self.ids, self.studies)


def overlap(dataset: str | None, ids: Sequence[str], manifest: pd.DataFrame) -> Overlap:
    """Count what a file bound to a data set, or to None, shares with a manifest."""
    studies = manifest.drop_duplicates(["dataset", "study_id"])
    met = studies["study_id"].isin(set(ids))
    mine = studies["dataset"].isin([dataset] if dataset is not None else studies["dataset"][met].unique())
    return Overlap(len(ids), int(mine.sum()), int((met & mine).sum()))


def _meet(
    dataset: str | None, ids: Sequence[str], what: str, manifest: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the manifest rows whose study is among some ids, and the position of each one's id."""
    known = manifest["dataset"].unique()
    if dataset is not None and dataset not in known:
        raise InputError(
            f"{what} are bound to the data set '{dataset}', which the manifest lacks; it has: {', '.join(sorted(known)[:SHOWN])}"
        )
    position = {study: i for i, study in enumerate(ids)}
    mine = manifest["dataset"].isin(known if dataset is None else [dataset])
    rows = np.flatnonzero((mine & manifest["study_id"].isin(position)).to_numpy())
    if not len(rows):
        where = "" if dataset is None else f" of {dataset}"
        studies = manifest["study_id"][mine].nunique()
        raise InputError(
            f"{what} and the manifest share no study ({len(ids)} ids against {studies} studies{where}); "
            "check that both use the same ids"
        )
    met = manifest.iloc[rows]
    if dataset is None and (met.groupby("study_id")["dataset"].nunique() > 1).any():
        raise InputError(f"{what} hold a study id that two data sets use; bind the file to one of them with DATASET=PATH")
    return rows, np.array([position[i] for i in met["study_id"]], np.int64)


def join_gold(dataset: str | None, gold: Gold, manifest: pd.DataFrame, findings: Sequence[str]) -> NDArray[np.float32]:
    """Join gold to the images of a manifest: (N, K) float32, nan where not judged.

    Args:
        dataset: The data set that the gold is bound to, or None.
        gold: What was judged.
        manifest: Checked rows with ``dataset`` and ``study_id``.
        findings: K names to keep, in order.

    Raises:
        InputError: Gold and manifest share no study or no finding, or a study id belongs to two data sets.
    """
    rows, judged = _meet(dataset, list(gold.report_ids), "the gold", manifest)
    shared = [(k, gold.findings.index(f)) for k, f in enumerate(findings) if f in gold.findings]
    if not shared:
        raise InputError(f"the gold judges none of the findings {', '.join(findings[:5])} ...; rename its columns")
    truth = np.full((len(manifest), len(findings)), np.nan, np.float32)
    for k, column in shared:
        truth[rows, k] = gold.truth[judged, column]
    return truth


def truth_of_states(state: NDArray[np.int8], looked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Take what labelers assert as truth: (N, S, K) to (N, K); uncertain and unmentioned are not known.

    Where several labelers judged a cell, the first of them counts.
    """
    truth = np.full((state.shape[0], state.shape[2]), np.nan, np.float32)
    for s in reversed(range(state.shape[1])):
        truth[looked[:, s]] = np.nan
        truth[looked[:, s] & (state[:, s] == POSITIVE)] = 1
        truth[looked[:, s] & (state[:, s] == NEGATIVE)] = 0
    return truth
