"""What labelers say of the patients, drawn from known noise or read by real labelers, and the channels that can be known of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from methods import Method
from numpy.typing import NDArray
from patients import FINDINGS, SIZE, Patients, World
from sources import LABELERS, Noise, draw_noise, looked, speak, true_channels
from training import Labels

from hybridpt.data.sources import Sources
from labelers import LabelTable, Vocabulary, read_table
from labelers.channel import ChannelSet, estimate_channels
from labelers.io.reading import Gold
from labelers.types import POSITIVE
from labelers.votes import SILENT, collect_votes

GOLD = 200
READ = "read"
"""The "noise" of labels that real labelers read."""
JUDGED = ("gold from images", "gold from reports")
"""What their gold is read from, in the place of a kind of noise."""
READERS = ("context", "keywords", "coders")


@dataclass(eq=False)
class Labelled:
    """What S labelers say of everybody.

    Attributes:
        world: The patients.
        seed: Of the choice of gold, and of training.
        labelers: S names.
        train: Codes of ``labelers.STATES``, ``SILENT`` where a labeler did not look, (S, N, K) int8.
        val: Likewise.
        gold: Of the judged patients, likewise.
        gold_rows: Which of the judged patients those are.
        truth: What is known of them, (GOLD, K) float32 with nan for not judged.
        of_images: Whether that was read from the images.
        noise: How the labels were drawn, None if they were read.
    """

    world: World
    seed: int
    labelers: tuple[str, ...]
    train: NDArray[np.int8]
    val: NDArray[np.int8]
    gold: NDArray[np.int8]
    gold_rows: NDArray[np.int64]
    truth: NDArray[np.float32]
    of_images: bool = True
    noise: Noise | None = None
    _known: dict[str, ChannelSet] = field(default_factory=dict)

    def channels(self, which: str) -> ChannelSet:
        """Return what is known of the labelers: ``gold200``, ``em``, ``true``, ``half`` or ``double``."""
        if which not in self._known:
            self._known[which] = self._estimate(which)
        return self._known[which]

    def _estimate(self, which: str) -> ChannelSet:
        mine = self.world.train.study_id
        if which == "gold200":
            ids = self.world.judged.study_id[self.gold_rows]
            tables = self._tables(np.concatenate([self.gold, self.train], axis=1), np.concatenate([ids, mine]))
            return estimate_channels(tables, Gold(ids, FINDINGS, self.truth), "images" if self.of_images else "reports")
        if which == "em":
            return estimate_channels(self._tables(self.train, mine), None)
        assert self.noise is not None
        measured = self.channels("gold200")
        exact = true_channels(self.noise, {"true": 1.0, "half": 0.5, "double": 2.0}[which])
        return replace(exact, prior=measured.prior, fusion=measured.fusion, pool=measured.pool)

    def _tables(self, state: NDArray[np.int8], ids: NDArray[np.object_]) -> list[LabelTable]:
        vocabulary, read = Vocabulary.of(list(FINDINGS), name="phantom"), (state != SILENT).any(axis=2)
        return [
            LabelTable.from_states(list(ids[mine]), vocabulary, codes[mine], source=name)
            for name, codes, mine in zip(self.labelers, state, read, strict=True)
        ]

    def of(self, method: Method, inputs: dict[str, NDArray[Any]]) -> tuple[Sources, Labels, Labels]:
        """Return what a method is told: findings and channels, training labels, validation labels."""
        if method.truth:
            train, val = true_states(self.world.train), true_states(self.world.val)
            sources = sources_of(("truth",), self.world.train.truth.mean(0))
        else:
            train, val, sources = self.train, self.val, self._told(method)
        return sources, Labels(inputs["train"], train), Labels(inputs["val"], val)

    def _told(self, method: Method) -> Sources:
        if not method.channels:
            positive, judged = (self.train == POSITIVE).sum((0, 1)), (self.train != SILENT).sum((0, 1))
            return sources_of(self.labelers, (positive + 0.5) / (judged + 1))
        known = self.channels(method.channels)
        return sources_of(self.labelers, np.array([known.prior[name] for name in FINDINGS]), known)


def draw_labels(world: World, level: str, kind: str, seed: int) -> Labelled:
    """Let labelers of known noise read everybody."""
    rng = np.random.default_rng([seed, *level.encode(), *kind.encode()])
    noise, rows = draw_noise(level, kind, rng), gold_rows(world, seed)
    judged = world.judged.part(rows)
    train, val = (
        np.where(looked(len(p.truth), kind)[..., None], speak(noise, p, rng), SILENT).astype(np.int8)
        for p in (world.train, world.val)
    )
    gold = speak(noise, judged, rng)
    return Labelled(world, seed, LABELERS, train, val, gold, rows, judged.truth.astype(np.float32), noise=noise)


def read_labels(world: World, judged_by: str, seed: int, folder: Path) -> Labelled:
    """Take what real labelers read in the phantom's reports, and its hospitals' coders put down; gold from images or from reports."""
    tables = [read_table(path) for path in _table_paths(folder)]
    said = [_said(tables, part.study_id) for part in (world.train, world.val, world.judged)]
    of_images = judged_by == JUDGED[0]
    rows = gold_rows(world, seed, of_images)
    truth = world.judged.truth[rows].astype(np.float32) if of_images else _stated(folder, world.judged.study_id[rows])
    return Labelled(world, seed, READERS, said[0], said[1], said[2][:, rows], rows, truth, of_images)


def run_labelers(folder: Path) -> None:
    """Run the labelers on the phantom's reports."""
    reports = folder / "data" / "reports.csv"
    for name, path in zip(READERS[:2], _table_paths(folder), strict=False):
        if not path.exists():
            words = [sys.executable, "-m", "labelers", "run", str(reports), "--labeler", name, "-o", str(path)]
            status = subprocess.run(words, check=False).returncode
            if status:
                raise SystemExit(status)


def _table_paths(folder: Path) -> list[Path]:
    return [*(folder / f"{name}.parquet" for name in READERS[:2]), folder / "data" / "labels.csv"]


def _said(tables: list[LabelTable], ids: NDArray[np.object_]) -> NDArray[np.int8]:
    votes = collect_votes(tables, list(FINDINGS))
    place = {name: row for row, name in enumerate(votes.report_ids)}
    rows = np.array([place.get(name, -1) for name in ids])
    found: NDArray[np.int8] = np.where((rows >= 0)[:, None], votes.state[:, rows], SILENT).astype(np.int8)
    return found


def _stated(folder: Path, ids: NDArray[np.object_]) -> NDArray[np.float32]:
    """What a careful reader of the reports would say, nan where they hedge; (N, K)."""
    details = pd.read_csv(folder / "data" / "truth_details.csv", usecols=["report_id", "finding", "stated"], dtype=str)
    mine = details[details["report_id"].isin(set(ids))].pivot(index="report_id", columns="finding", values="stated")
    wide = mine.loc[ids, list(FINDINGS)]
    return np.where(wide == "uncertain", np.nan, wide == "positive").astype(np.float32)


def gold_rows(world: World, seed: int, of_images: bool = True) -> NDArray[np.int64]:
    """Draw the judged patients of a seed, for gold from reports of those that have one."""
    there = np.flatnonzero(of_images | (world.judged.report != ""))
    return there[np.random.default_rng([seed, 99]).permutation(len(there))[:GOLD]]


def true_states(patients: Patients) -> NDArray[np.int8]:
    """Return the truth as what one labeler says, (1, N, K)."""
    return (~patients.truth).astype(np.int8)[None]


def sources_of(
    labelers: tuple[str, ...],
    prevalence: NDArray[np.float64],
    channels: ChannelSet | None = None,
    hospitals: tuple[str, ...] = ("phantom",),
) -> Sources:
    """Return findings and labelers as the package wants them."""
    return Sources(FINDINGS, labelers, hospitals, tuple(float(p) for p in prevalence), SIZE, channels=channels)
