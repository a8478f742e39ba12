"""One cell of the table: a world of labelers, a way to start, a method; its scores are kept in a file, so that nothing is run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labelled import READ, Labelled, draw_labels, read_labels, sources_of, true_states
from methods import METHODS
from numpy.typing import NDArray
from patients import FINDINGS, HOSPITALS, Patients, World
from torch.nn.utils.rnn import pad_sequence
from training import Features, Labels, Recipe, SmallNetwork, Texts, encode, fit, predict

from hybridpt.data.text import TextUnit, contrastive_units
from hybridpt.encoders import ByteEncoder, ImageEncoder
from hybridpt.objectives import Clip, Supervised
from hybridpt.objectives.contrast import Negatives
from labelers.io import atomic_path
from labelers.votes import SILENT

SETTINGS = ("features", "scratch", "pretrained")
GOLD = 200


@dataclass(frozen=True)
class Recipes:
    """How long everything is trained."""

    reference: Recipe
    text: Recipe
    settings: dict[str, Recipe]


FULL = Recipes(
    Recipe(32, 64, 1e-2),
    Recipe(16, 128, 3e-3),
    {"features": Recipe(20, 256, 2e-2, 0.2), "scratch": Recipe(32, 64, 1e-2), "pretrained": Recipe(16, 64, 3e-3)},
)


def quick(recipes: Recipes) -> Recipes:
    """Return recipes of a third of the epochs."""
    short = {name: replace(recipe, epochs=max(3, recipe.epochs // 3)) for name, recipe in recipes.settings.items()}
    short["features"] = recipes.settings["features"]
    return Recipes(replace(recipes.reference, epochs=8), replace(recipes.text, epochs=3), short)


@dataclass(frozen=True)
class Contrast:
    """What an image is contrasted with before the labels: a ``unit`` of its report, and whose others (``negatives``)."""

    unit: TextUnit = "sentence"
    negatives: Negatives = "dataset"


PUBLISHED = Contrast("report", "all")
"""The setting ``pretrained``: whole reports, over all hospitals."""


@dataclass(frozen=True)
class Cells:
    """All cells of one draw of the phantom.

    Attributes:
        folder: Where scores, channels and starting weights are kept.
        world: The patients.
        recipes: How long everything is trained.
    """

    folder: Path
    world: World
    recipes: Recipes

    def reference(self) -> None:
        """Train the network that gives the frozen features, on the truth of other patients, and encode everybody."""
        path = self.folder / "features.npz"
        if path.exists():
            return
        torch.manual_seed(0)
        others, val = self.world.others, self.world.val
        parts = Labels(others.pixels, true_states(others)), Labels(val.pixels, true_states(val))
        encoder = SmallNetwork()
        fit(
            encoder,
            Supervised(label_term="bce", head="linear"),
            sources_of(("truth",), others.truth.mean(0)),
            *parts,
            self.recipes.reference,
        )
        sets = {name: encode(encoder, getattr(self.world, name).pixels) for name in ("train", "val", "judged", "test")}
        _save(path, _standardized(sets))

    def text(self, seed: int, contrast: Contrast = PUBLISHED) -> None:
        """Pre-train a network on the reports of the training patients and of the others, and keep its zero-shot scores of the test."""
        path = self.start(seed, contrast)
        if path.exists():
            return
        torch.manual_seed(seed)
        both = (self.world.train, self.world.others)
        text_encoder, texts = told_by(both, contrast.unit)
        reported = np.flatnonzero((texts.said >= 0).any(1))
        texts = replace(texts, said=texts.said[reported])
        pixels, hospital = (
            np.concatenate([getattr(patients, what) for patients in both])[reported] for what in ("pixels", "hospital")
        )
        silence = np.full((1, len(reported), len(FINDINGS)), SILENT, np.int8)
        labels = Labels(pixels, silence, texts=texts, hospital=hospital)
        sources = sources_of(("none",), np.full(len(FINDINGS), 0.1), hospitals=HOSPITALS)
        encoder = SmallNetwork()
        model = fit(encoder, Clip(dim=128, negatives=contrast.negatives), sources, labels, None, self.recipes.text, text_encoder)
        _save(path.with_suffix(".npz"), {"test": predict(model, self.world.test.pixels)})
        with atomic_path(path) as temporary:
            torch.save(encoder.state_dict(), temporary)

    def start(self, seed: int, contrast: Contrast = PUBLISHED) -> Path:
        """Where the weights of a pre-trained network are kept."""
        return self.folder / "starts" / f"{contrast.unit}-{contrast.negatives}-{seed}.pt"

    def path(self, setting: str, level: str, kind: str, seed: int, method: str) -> Path:
        """Where the scores of a cell are kept."""
        return self.folder / "cells" / setting / f"{level}-{kind}-{seed}-{method}.npz"

    def run(self, setting: str, level: str, kind: str, seed: int, wanted: list[str]) -> list[str]:
        """Run the methods whose scores are not there yet; returns which."""
        missing = [m for m in wanted if not METHODS[m].platt and not self.path(setting, level, kind, seed, m).exists()]
        if not missing:
            return []
        torch.set_num_threads(1)
        labels = read_labels(self.world, kind, seed, self.folder) if level == READ else draw_labels(self.world, level, kind, seed)
        missing = [
            name for name in missing if labels.noise is not None or METHODS[name].channels not in ("true", "half", "double")
        ]
        for method in sorted(missing, key=lambda name: METHODS[name].frozen):  # after the one whose features they take
            self._method(setting, labels, method, self.path(setting, level, kind, seed, method))
        return missing

    def _method(self, setting: str, labels: Labelled, name: str, path: Path) -> None:
        method = METHODS[name]
        inputs = self.inputs(setting)
        encoder = self._encoder(setting, labels.seed, inputs)
        recipe = self.recipes.settings[setting]
        frozen = method.frozen and setting != "features"
        if frozen:
            trained = path.with_name(path.name.replace(name, method.like)).with_suffix(".pt")
            encoder.load_state_dict(torch.load(trained, map_location="cpu"))
            inputs = _standardized({part: encode(encoder, pixels) for part, pixels in inputs.items()})
            encoder, recipe = Features(encoder.width), self.recipes.settings["features"]
        torch.manual_seed(labels.seed)
        model = fit(encoder, Supervised(head="linear", **method.options), *labels.of(method, inputs), recipe)
        gold = inputs["judged"][labels.gold_rows]
        if setting != "features" and any(other.frozen and other.like == name for other in METHODS.values()):
            with atomic_path(path.with_suffix(".pt")) as temporary:
                torch.save(encoder.state_dict(), temporary)
        _save(path, {"gold": predict(model, gold), "truth": labels.truth, "test": predict(model, inputs["test"])})

    def inputs(self, setting: str) -> dict[str, NDArray[Any]]:
        """Return what a network of a setting is shown, by set of patients."""
        if setting == "features":
            with np.load(self.folder / "features.npz") as kept:
                return dict(kept)
        return {name: getattr(self.world, name).pixels for name in ("train", "val", "judged", "test")}

    def _encoder(self, setting: str, seed: int, inputs: dict[str, NDArray[Any]]) -> ImageEncoder:
        torch.manual_seed(seed)
        if setting == "features":
            return Features(inputs["train"].shape[1])
        encoder = SmallNetwork()
        if setting == "pretrained":
            encoder.load_state_dict(torch.load(self.start(seed), map_location="cpu"))
        return encoder


def told_by(groups: Sequence[Patients], unit: TextUnit) -> tuple[ByteEncoder, Texts]:
    """Return an encoder that is yet to learn, and what the reports of some patients tell it, in their order."""
    units = contrastive_units([text for patients in groups for text in patients.report], unit)
    numbers: dict[str, int] = {}
    said = [torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], dtype=torch.int64) for texts in units]
    encoder = ByteEncoder(width=64, depth=1, max_length=384)
    return encoder, Texts(*encoder.tokenizer(list(numbers)), pad_sequence(said, batch_first=True, padding_value=-1))


def _standardized(sets: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    mean, std = sets["train"].mean(0), sets["train"].std(0) + 1e-6
    return {name: (x - mean) / std for name, x in sets.items()}


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
