"""Trains one network by one method, with the package's own modules but for reading files: the data lie in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hybridpt.batch import Batch
from hybridpt.data.sources import Sources
from hybridpt.encoders import ImageEncoder, ImageFeatures, TextEncoder
from hybridpt.module import HybridModule
from hybridpt.objectives import Objective
from hybridpt.optimization import parameter_groups, warmup_cosine
from labelers.types import POSITIVE
from labelers.votes import SILENT

__all__ = ["Features", "Labels", "Recipe", "SmallNetwork", "Texts", "criterion", "encode", "fit", "predict"]

WIDTH = 16
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DEGREES, ZOOM, SHIFT, CONTRAST = 7.0, 0.1, 0.05, 0.15


class SmallNetwork(ImageEncoder):
    """Five convolutions, 0.14 million weights: some 4,000 pictures a second and core.

    Args:
        width: Channels of the first; the last has eight times as many.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        sizes = [(1, width, 5, 2), (width, 2 * width, 3, 2), (2 * width, 4 * width, 3, 2), (4 * width, 4 * width, 3, 1)]
        sizes.append((4 * width, 8 * width, 3, 2))
        steps = [
            nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
            for i, o, k, s in sizes
        ]
        self.steps = nn.Sequential(*steps).to(memory_format=torch.channels_last)
        self.width = 8 * width
        self.even = nn.BatchNorm1d(self.width, affine=False)  # heads learn twice as fast on features of one size

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode (B, 1, H, W) float32 in [0, 1]."""
        x = self.steps(((image - 0.5) / 0.25).contiguous(memory_format=torch.channels_last))
        pooled = self.even(x.mean(dim=(2, 3)).float())
        return ImageFeatures(pooled, x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3]))


class Features(ImageEncoder):
    """Features that were computed before, (B, D, 1, 1), as they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, image: Tensor) -> ImageFeatures:
        """Return (B, D)."""
        return ImageFeatures(image.flatten(1), image.flatten(2).transpose(1, 2), (1, 1))


@dataclass(frozen=True)
class Texts:
    """Report texts as a contrast wants them, one of a report's drawn at each step.

    Attributes:
        tokens: The M distinct texts, (M, T) int64.
        mask: Where they stand, (M, T) bool.
        said: Numbers of the texts of each report, (N, U) int64, -1 beyond the last, and nothing else where there is no report.
    """

    tokens: Tensor
    mask: Tensor
    said: Tensor


@dataclass(frozen=True)
class Labels:
    """Images with what is known of them.

    Attributes:
        images: (N, H, W) uint8, or features (N, D) float32.
        state: Codes of ``labelers.STATES`` or ``SILENT``, (S, N, K) int8.
        truth: Gold that is trained on, (N, K) float32 with nan for none; None for none at all.
        texts: Report texts, where the images have them.
        hospital: Number of the hospital, (N,) int64; None for one.
        probability: P(present) as a labeler gives it, (S, N, K) float32; None for 1 and 0 by the state.
    """

    images: NDArray[Any]
    state: NDArray[np.int8]
    truth: NDArray[np.float32] | None = None
    texts: Texts | None = None
    hospital: NDArray[np.int64] | None = None
    probability: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Recipe:
    """How long and how fast: ``epochs``, ``batch``, peak ``lr``, ``decay``, and how strongly pictures are ``augmented`` (0: not at all)."""

    epochs: int
    batch: int = 128
    lr: float = 3e-3
    decay: float = 0.05
    augmented: float = 1.0


@dataclass
class _Pool:
    """Tensors of all rows, and the batches cut from them."""

    labels: Labels
    tensors: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        labels = self.labels
        state = torch.from_numpy(np.ascontiguousarray(labels.state.transpose(1, 0, 2)))
        shape = (len(state), state.shape[2])
        truth = torch.full(shape, torch.nan) if labels.truth is None else torch.from_numpy(labels.truth)
        images = torch.from_numpy(labels.images)
        images = images[:, :, None, None] if images.ndim == 2 else images[:, None]
        given = labels.state == POSITIVE if labels.probability is None else labels.probability
        probability = torch.from_numpy(np.ascontiguousarray(given.transpose(1, 0, 2), np.float32))
        self.tensors = {
            "probability": probability.to(DEVICE),
            "image": images.to(DEVICE),
            "state": state.to(DEVICE),
            "truth": truth.to(DEVICE),
        }

    def batch(self, rows: Tensor, augmented: float = 0.0) -> Batch:
        rows = rows.to(DEVICE)
        image = self.tensors["image"][rows]
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        code = self.tensors["state"][rows].long()
        texts, n = self.labels.texts, len(rows)
        none = torch.zeros(n, 0, dtype=torch.int64, device=DEVICE)
        told = rows.cpu()
        said = told[:, None] if texts is None else texts.said[told]
        words = said[:, 0]
        if said.shape[1] > 1:
            words = said.gather(1, (torch.rand(n, 1) * (said >= 0).sum(1, keepdim=True)).long()).squeeze(1)
        reported = torch.zeros(n, dtype=torch.bool) if texts is None else words >= 0
        width = 0 if texts is None else int(texts.mask[words].sum(1).max())
        hospital = (
            torch.zeros(n, dtype=torch.int64) if self.labels.hospital is None else torch.from_numpy(self.labels.hospital)[told]
        )
        return Batch(
            image=_moved(image, augmented) if augmented else image,
            views={},
            tokens=none if texts is None else texts.tokens[words, :width].to(DEVICE),
            token_mask=none.bool() if texts is None else texts.mask[words, :width].to(DEVICE),
            has_text=reported.to(DEVICE),
            state=code.clamp(max=SILENT - 1),
            probability=self.tensors["probability"][rows],
            looked=code != SILENT,
            truth=self.tensors["truth"][rows],
            dataset=hospital.to(DEVICE),
            study=rows,
            words=words.to(DEVICE),
            said=said.to(DEVICE),
            row=rows,
        )


def _moved(image: Tensor, strength: float) -> Tensor:
    """Turn, zoom, shift and re-expose at random."""
    n = len(image)
    angle, zoom, right, down, contrast, brightness = strength * (torch.rand(6, n, device=image.device) * 2 - 1)
    angle, zoom = angle * torch.pi * DEGREES / 180, 1 + zoom * ZOOM
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([cos, -sin, right * 2 * SHIFT, sin, cos, down * 2 * SHIFT], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    contrast, brightness = (1 + CONTRAST * x.view(n, 1, 1, 1) for x in (contrast, brightness))
    return ((image - 0.5) * contrast + 0.5 * brightness).clamp(0, 1)


def fit(
    encoder: ImageEncoder,
    objective: Objective,
    sources: Sources,
    train: Labels,
    val: Labels | None,
    recipe: Recipe,
    text_encoder: TextEncoder | None = None,
    beside: Objective | None = None,
) -> HybridModule:
    """Train, and return the model of the epoch with the least validation loss, or the last without validation.

    What stands ``beside`` the objective is trained on too; epochs are chosen by the objective alone.
    """
    objectives = {"objective": objective} | ({} if beside is None else {"beside": beside})
    model = HybridModule(encoder, objectives, text_encoder, lr=recipe.lr, weight_decay=recipe.decay)
    model.build(sources)
    model.to(DEVICE)
    frozen = isinstance(encoder, Features)
    optimizer = torch.optim.AdamW(parameter_groups(model, encoder, recipe.lr, recipe.decay), lr=recipe.lr)
    pool = _Pool(train)
    held = None if val is None else _Pool(val)
    steps = recipe.epochs * (len(train.images) // recipe.batch)
    schedule = warmup_cosine(optimizer, steps, 0.05)
    best, kept, done = float("inf"), None, 0
    for _ in range(recipe.epochs):
        model.train()
        for rows in torch.randperm(len(train.images)).split(recipe.batch):
            if len(rows) < recipe.batch:
                continue
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=not frozen):
                loss = model.losses(pool.batch(rows, 0.0 if frozen else recipe.augmented), done / steps)["loss"]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            for each in objectives.values():
                each.after_step(model.encoders)
            done += 1
        if held is not None:
            now = _criterion(model, held)
            if now < best:
                best, kept = now, copy.deepcopy(model.state_dict())
    if kept is not None:
        model.load_state_dict(kept)
    return model.eval()


def criterion(model: HybridModule, labels: Labels) -> float:
    """Return the validation loss, by which epochs are chosen."""
    return _criterion(model, _Pool(labels))


@torch.no_grad()
def _criterion(model: HybridModule, pool: _Pool) -> float:
    model.eval()
    total = 0.0
    for rows in _chunks(len(pool.labels.images)):
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=not isinstance(model.encoders.image, Features)):
            losses = model.losses(pool.batch(rows))
        total += len(rows) * float(losses.get("objective/nll", losses["loss"]))
    return total


@torch.no_grad()
def predict(model: HybridModule, images: NDArray[Any]) -> NDArray[np.float32]:
    """Return P(present), (N, K)."""
    pool = _Pool(Labels(images, np.full((1, len(images), 1), SILENT, np.int8)))
    return np.concatenate([model.scores(pool.batch(rows))["objective"].cpu().numpy() for rows in _chunks(len(images))])


@torch.no_grad()
def encode(encoder: ImageEncoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pooled features, (N, D)."""
    encoder.to(DEVICE).eval()
    pixels = torch.from_numpy(images)[:, None].to(DEVICE)
    return np.concatenate([encoder(pixels[rows].float() / 255).pooled.cpu().numpy() for rows in _chunks(len(images))])


def _chunks(count: int, size: int = 500) -> Iterator[Tensor]:
    yield from torch.arange(count).split(size)
