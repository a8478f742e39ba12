"""What lifts a network that learns its own features from strong noise further, beside the channel; README.md beside this."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process a core

import numpy as np
import pandas as pd
import torch
from cells import FULL, PUBLISHED, Cells, Contrast, told_by
from labelled import Labelled, draw_labels, sources_of
from methods import METHODS
from numpy.typing import NDArray
from patients import FINDINGS, HOSPITALS, load
from tables import interval, scores, share
from training import WIDTH, Labels, SmallNetwork, fit, predict

from hybridpt.data.sources import Sources
from hybridpt.encoders import TextEncoder
from hybridpt.functional.pool import pooled_evidence
from hybridpt.module import HybridModule
from hybridpt.noise import log_channels, pool_of
from hybridpt.objectives import Clip, Objective, Supervised
from labelers.console import progress
from labelers.io import atomic_path
from labelers.votes import SILENT

NOISE, KIND = "strong", "class-conditional"
COLUMNS = ["lift", "method", "seed", "auprc", "nll", "ece"]


@dataclass(frozen=True)
class Lift:
    """What is done beside the method.

    Attributes:
        setting: How the network starts and how long it is trained: ``scratch`` or ``pretrained``.
        longer: How many times as many epochs.
        augmented: How many times as strongly the pictures are augmented.
        width: Channels of the first convolution.
        gold: Whether the judged patients are trained on too, and on their truth.
        again: Whether the network is a teacher: networks on either half tell, with what the labelers say through the channels, how likely
            each label of the other half is; a third learns from that, from the start.
        unlabeled: Whether it learns also from 11,000 pictures without labels, from what the teachers see there.
        start: What a pre-trained network was contrasted with.
        beside: Trained together with an image-text contrast on the reports of the same patients (the hybrid); None for the labels alone.
    """

    setting: str = "scratch"
    longer: int = 1
    augmented: float = 1.0
    width: int = WIDTH
    gold: bool = False
    again: bool = False
    unlabeled: bool = False
    start: Contrast = PUBLISHED
    beside: Contrast | None = None


WEIGHT = 0.1
"""Of the contrast beside the labels, as in ``configs/fit/hybrid.yaml``."""
BCE, CHANNEL = "bce", "channel_gold200"
LIFTS = {
    "nothing": (Lift(), ("oracle", BCE, CHANNEL)),
    "gold rows": (Lift(gold=True), (BCE, CHANNEL)),
    "twice as long": (Lift(longer=2), ("oracle", BCE, CHANNEL)),
    "four times as long": (Lift(longer=4), (BCE, CHANNEL)),
    "pre-training": (Lift("pretrained"), ("oracle", BCE, CHANNEL)),
    "pre-training, twice as long": (Lift("pretrained", longer=2), ("oracle", BCE, CHANNEL)),
    "pre-training, own hospital": (Lift("pretrained", start=Contrast("report")), ("oracle", BCE, CHANNEL)),
    "pre-training, own hospital, sentences": (Lift("pretrained", start=Contrast()), ("oracle", BCE, CHANNEL)),
    "a contrast beside the labels": (Lift(beside=Contrast()), ("oracle", BCE, CHANNEL)),
    "the same with all hospitals": (Lift(beside=Contrast(negatives="all")), (CHANNEL,)),
    "the same with whole reports": (Lift(beside=Contrast("report")), (CHANNEL,)),
    "no augmentation": (Lift(augmented=0), (CHANNEL,)),
    "twice the augmentation": (Lift(augmented=2), (CHANNEL,)),
    "twice as wide": (Lift(width=2 * WIDTH), (CHANNEL,)),
    "teachers": (Lift(again=True), (BCE, CHANNEL)),
    "teachers, unlabeled pictures": (Lift(again=True, unlabeled=True), (BCE, CHANNEL)),
    "pre-training, teachers, unlabeled pictures": (Lift("pretrained", again=True, unlabeled=True), (CHANNEL,)),
}
"""Each with the methods that it is tried with."""

Row = tuple[float, float, float]


@dataclass(frozen=True)
class _Trial:
    cells: Cells
    labels: Labelled
    method: str
    lift: Lift

    def run(self) -> Row:
        world = self.labels.world
        if self.lift == Lift(self.lift.setting):  # a cell of the table
            about = (self.lift.setting, NOISE, KIND, self.labels.seed)
            self.cells.run(*about, [self.method])
            with np.load(self.cells.path(*about, self.method)) as kept:
                return scores(world.test.truth, kept["test"])
        model = self._taught() if self.lift.again else self._plain()
        return scores(world.test.truth, predict(model, world.test.pixels))

    def _plain(self) -> HybridModule:
        world, labels = self.labels.world, self.labels
        sources, train, val = labels.of(METHODS[self.method], {"train": world.train.pixels, "val": world.val.pixels})
        if self.lift.gold:
            none = np.full(world.train.truth.shape, np.nan, np.float32)
            pixels = np.concatenate([train.images, world.judged.pixels[labels.gold_rows]])
            state = np.concatenate([train.state, labels.gold], axis=1)
            train = Labels(pixels, state, np.concatenate([none, labels.truth]))
        objective = Supervised(head="linear", **METHODS[self.method].options)
        if self.lift.beside is None:
            return self._fit(objective, sources, train, val)
        torch.manual_seed(labels.seed)
        text_encoder, texts = told_by([world.train], self.lift.beside.unit)
        train = replace(train, texts=texts, hospital=world.train.hospital)
        clip = Clip(dim=128, weight=WEIGHT, negatives=self.lift.beside.negatives)
        return self._fit(objective, replace(sources, datasets=HOSPITALS), train, val, text_encoder, clip)

    def _taught(self) -> HybridModule:
        labels, method = self.labels, METHODS[self.method]
        world = labels.world
        sources, train, val = labels.of(method, {"train": world.train.pixels, "val": world.val.pixels})
        halves = [np.arange(len(world.train.truth)) % 2 == half for half in (0, 1)]
        held, unseen = np.empty(world.train.truth.shape, np.float32), []
        for mine, other in (halves, halves[::-1]):
            part = Labels(train.images[mine], train.state[:, mine])
            teacher = self._fit(Supervised(head="linear", **method.options), sources, part, val)
            held[other] = predict(teacher, train.images[other])
            unseen.append(predict(teacher, world.others.pixels))
        if method.channels:
            held = _posterior(labels, held)
        images, target = train.images, held
        if self.lift.unlabeled:
            images, target = np.concatenate([images, world.others.pixels]), np.concatenate([held, np.mean(unseen, axis=0)])
        taught = Labels(images, np.zeros((1, *target.shape), np.int8), probability=target[None])
        prior = sources_of(("teachers",), target.mean(0))
        return self._fit(Supervised(label_term="soft", head="linear"), prior, taught, None)

    def _fit(
        self,
        objective: Supervised,
        sources: Sources,
        train: Labels,
        val: Labels | None,
        text_encoder: TextEncoder | None = None,
        beside: Objective | None = None,
    ) -> HybridModule:
        torch.manual_seed(self.labels.seed)
        encoder = SmallNetwork(self.lift.width)
        if self.lift.setting == "pretrained":
            encoder.load_state_dict(torch.load(self.cells.start(self.labels.seed, self.lift.start), map_location="cpu"))
        recipe = self.cells.recipes.settings[self.lift.setting]
        recipe = replace(recipe, epochs=self.lift.longer * recipe.epochs, augmented=self.lift.augmented)
        return fit(encoder, objective, sources, train, val, recipe, text_encoder, beside)


def _posterior(labels: Labelled, seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """P(present) given what a network sees and what the labelers say, (N, K)."""
    channels = labels.channels("gold200")
    log_channel = log_channels(channels, labels.labelers, ("phantom",), FINDINGS)[0]
    code = torch.from_numpy(labels.train.astype(np.int64)).transpose(0, 1)
    ratio = (log_channel[..., 1, :] - log_channel[..., 0, :]).expand(len(code), *log_channel.shape[:2], 4)
    pool = pool_of(channels, labels.labelers, FINDINGS)
    evidence = pooled_evidence(code.clamp(max=SILENT - 1), ratio, code != SILENT, pool)
    return torch.sigmoid(torch.logit(torch.from_numpy(seen), eps=1e-6) + evidence).numpy()


@cache
def _cells(output: Path) -> Cells:
    return Cells(output, load(output / "data", 10_000), FULL)


def _start(output: Path, seed: int, contrast: Contrast) -> None:
    torch.set_num_threads(1)
    _cells(output).text(seed, contrast)


def _run(output: Path, lift: str, method: str, seed: int) -> tuple[str, str, int, Row]:
    torch.set_num_threads(1)
    cells = _cells(output)
    labels = draw_labels(cells.world, NOISE, KIND, seed)
    return lift, method, seed, _Trial(cells, labels, method, LIFTS[lift][0]).run()


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lifts", nargs="*", metavar="NAME", help=f"only these: {', '.join(LIFTS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/noise"), help="folder in which run.py has been")
    given = parser.parse_args()
    for lift in given.lifts:
        if lift not in LIFTS:
            parser.error(f"expected names among {', '.join(LIFTS)}, got '{lift}'")
    path: Path = given.output / "lifts.csv"
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    done = set(frame[COLUMNS[:3]].itertuples(index=False, name=None))
    asked = [(lift, method, seed) for lift in given.lifts or LIFTS for seed in given.seeds for method in LIFTS[lift][1]]
    todo = [trial for trial in asked if trial not in done]
    starts = {(seed, LIFTS[lift][0].start) for lift, _, seed in todo if LIFTS[lift][0].setting == "pretrained"}
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:  # a GPU cannot be used after a fork
        for start in [pool.submit(_start, given.output, *which) for which in sorted(starts, key=str)]:
            start.result()
        futures = [pool.submit(_run, given.output, *trial) for trial in todo]
        with progress("trials", len(futures)) as tick:
            for future in as_completed(futures):
                *about, row = future.result()
                frame.loc[len(frame)] = [*about, *row]
                with atomic_path(path) as temporary:
                    frame.to_csv(temporary, index=False, float_format="%.5f")
                tick(1)
    _show(frame)
    print(f"\nall rows: {path}")


def _show(frame: pd.DataFrame) -> None:
    """Print what comes back of what ``bce`` alone loses to ``oracle`` alone, in percent, over the seeds that all three have.

    ``more`` is what the lift adds to the method alone, seed by seed; all with 95 % intervals (Student's t) where there are two seeds.
    """
    wide = frame.pivot_table(index="seed", columns=["lift", "method"], values=["auprc", "nll", "ece"])
    out = []
    for lift, (_, methods) in LIFTS.items():
        for method in methods:
            if (lift, method) not in wide["auprc"]:
                continue
            mine = wide.loc[wide["auprc"][lift, method].dropna().index]
            cells = []
            for measure in ("auprc", "nll"):
                values = mine[measure]
                base = values["nothing", BCE]
                back, half = share(values[lift, method] - base, values["nothing", "oracle"] - base)
                more, margin = interval(values[lift, method] - values["nothing", method])
                cells += [values[lift, method].mean(), f"{back + 0.0:.0f} ± {half:.0f}", f"{more:+.3f} ± {margin:.3f}"]
            out.append((lift, method, *cells, mine["ece"][lift, method].mean(), len(mine)))
    names = ["AUPRC", "back, %", "more", "NLL", "back, %", "more", "ECE"]
    print("\n" + pd.DataFrame(out, columns=["lift", "method", *names, "seeds"]).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
