"""What the image-text contrasts share: a space of their own, pairs joined over processes, and zero-shot scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, NamedTuple, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridpt.data.sources import Sources
from hybridpt.encoders import Projection
from hybridpt.functional.gather import Shard, gather, meet
from hybridpt.functional.pool import heard
from hybridpt.functional.posterior import label_posterior
from hybridpt.functional.weights import relative_weights
from hybridpt.noise import sibling_matrix
from hybridpt.objectives.base import Encoders, Objective, Step, cap_scale, inverse_temperature, widened
from labelers.errors import UsageError

__all__ = ["LabelPosterior", "Negatives", "Pairs", "TextContrast", "scale_gradient"]

Negatives = Literal["dataset", "all"]
"""Whose reports an image is told from."""

PRESENT = ("{}.", "There is {}.", "Findings of {}.")
ABSENT = ("No {}.", "There is no {}.", "No evidence of {}.")


def scale_gradient(x: Tensor, share: float) -> Tensor:
    """Return a tensor unchanged, of whose gradient only a share passes."""
    return x if share == 1 else x.detach() + share * (x - x.detach()) if share else x.detach()


class Pairs(NamedTuple):
    """Images of this process and texts of all, as the losses of ``hybridpt.functional`` want them.

    Attributes:
        image: Unit vectors, (n, D) float32.
        text: Unit vectors, (N, D) float32.
        study: Number of the study, (N,) int64.
        words: Number of the distinct text, (N,) int64.
        said: Numbers of all texts that the report could have been drawn as, (N, U) int64, -1 beyond the last.
        anchor: What the pair counts for, (N,) float32 in [0, 1]; None where all count alike.
        dataset: Number of its data set, (N,) int64; None where pairs of all data sets meet.
        shard: Where this process's rows lie.
    """

    image: Tensor
    text: Tensor
    study: Tensor
    words: Tensor
    said: Tensor
    anchor: Tensor | None
    dataset: Tensor | None
    shard: Shard


class LabelPosterior(nn.Module):
    """What the labelers make of the findings of a batch; those that share their errors do not count twice.

    Args:
        sources: Whose prevalence is the prior, and whose channels name the siblings.
    """

    prior: Tensor
    siblings: Tensor

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self.register_buffer("prior", torch.tensor(sources.prevalence))
        self.register_buffer("siblings", sibling_matrix(sources.channels, sources.labelers))
        self._by_channel: bool | None = None

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return P(present), (B, K) float32, and whether any labeler that tells something looked at the study, (B,) bool."""
        batch = step.batch
        if self._by_channel is None:  # a checkpoint keeps the channels as the tensor made of them
            self._by_channel = bool((step.llr != 0).any())
        llr = step.llr[batch["dataset"]] if self._by_channel else None
        said = (batch["state"], batch["probability"], batch["looked"])
        posterior = label_posterior(*said, self.prior, llr, self.siblings, step.pool)
        told = batch["looked"] if llr is None else heard(batch["looked"], llr)
        return posterior, told.any(dim=2).any(dim=1)


class TextContrast(Objective):
    """Base class of objectives between image and report text, in a projection of their own, on the images that have a report.

    The pairs are those of all processes. Findings are scored zero-shot, by the prompts that say that one is present against those that
    say that it is not.

    An image is told only from the other reports of its own data set, as in batches of one source (Nussbaum et al. 2024, arXiv
    2402.01613; Merrick 2024, arXiv 2407.18887): between data sets the style of the pictures and of the reports tells enough, and nothing
    of the findings need be learned. ``negatives="all"`` is the contrast as published.

    With ``dataset_weights`` a pair counts by how well the reports of its data set describe their images, relative to the best data set
    (see ``hybridpt.functional.weights.text_weights``); as negatives of others all count alike. The model estimates it at each validation,
    with a supervised head; until then, and where nothing is known, a pair counts 1. A validation weighs nothing, so that its loss
    compares models.

    Args:
        dim: Dimension of the text space.
        weight: What the loss is multiplied by in the sum.
        gradient: Share of the gradient that reaches the image encoder, in [0, 1]; with 0 only the projections and the text encoder learn.
        scale: Inverse temperature at the start.
        dataset_weights: Let each pair count by its data set.
        negatives: Whose reports an image is told from: those of its own ``dataset``, or ``all``.

    Raises:
        UsageError: A number out of its range, or another word.
    """

    task = "zero_shot"
    contrasts = True
    needs_reports = True

    def __init__(
        self,
        dim: int,
        weight: float,
        gradient: float,
        scale: float,
        dataset_weights: bool = False,
        negatives: Negatives = "dataset",
    ) -> None:
        super().__init__(weight)
        if not 0 <= gradient <= 1:
            raise UsageError(f"the option gradient of {type(self).__name__}: expected a number from 0 to 1, got {gradient}")
        if dim < 1:
            raise UsageError(f"the option dim of {type(self).__name__}: expected a whole number from 1, got {dim}")
        if negatives not in get_args(Negatives):
            raise UsageError(f"the option negatives of {type(self).__name__}: expected 'dataset' or 'all', got '{negatives}'")
        self.negatives = negatives
        self.dim = dim
        self.gradient = gradient
        self.dataset_weights = dataset_weights
        self._start = scale
        self._prompts: Tensor | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return type(self).__name__

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make the two projections, the temperature, and what each data set counts for."""
        if self.dataset_weights:
            self.register_buffer("dataset_weight", torch.ones(len(sources.datasets) + 1))
        self.findings = sources.findings
        self._apart = self.negatives == "dataset" and len(sources.datasets) > 1
        self.spaces["text"] = Projection(encoders.need_image(self.name).width, self.dim)
        self.text_projection = Projection(encoders.need_text(self.name).width, self.dim)
        self.log_scale = nn.Parameter(torch.tensor([math.log(self._start)]))

    def train(self, mode: bool = True) -> Self:
        """Switch mode; the prompts are encoded again after any training."""
        self._prompts = None
        return super().train(mode)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, a scalar of at most 100."""
        return inverse_temperature(self.log_scale).squeeze(0)

    def weigh(self, text_weights: Tensor) -> None:
        """Let data sets count by how well their text describes their images, (D,) floating in [0, 1], nan where that is not known.

        Only under ``dataset_weights``.
        """
        cast(Tensor, self.dataset_weight).copy_(relative_weights(text_weights))

    def images(self, step: Step, rows: Tensor) -> Tensor:
        """Return unit vectors of some images, (n, dim); ``rows`` are their places, (n,) int64."""
        embedded: Tensor = self.spaces["text"](scale_gradient(step.image.pooled[rows], self.gradient))
        return embedded

    def pairs(self, step: Step) -> Pairs:
        """Join the images of the batch that have a report with the texts of all processes; every process must ask for it."""
        batch = step.batch
        rows = step.reported
        vectors = step.text
        said = batch["said"][rows]
        shard = meet(len(said), said.shape[1], said.device)
        said = F.pad(said, (0, shard.width - said.shape[1]), value=-1)
        text = gather(self.text_projection(vectors[rows]), shard)
        study, words = gather(batch["study"][rows], shard), gather(batch["words"][rows], shard)
        anchor = None
        if self.dataset_weights and self.training:
            anchor = gather(cast(Tensor, self.dataset_weight)[batch["dataset"][rows]], shard)
        dataset = gather(batch["dataset"][rows], shard) if self._apart else None
        return Pairs(self.images(step, rows), text, study, words, gather(said, shard), anchor, dataset, shard)

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``contrast``, over the images of all processes that have a report."""

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Return the number of images that have a report."""
        return {"contrast": torch.tensor(len(step.reported))}

    def logits(self, step: Step) -> Tensor:
        """Return zero-shot log-odds, (B, K): how much nearer an image lies to "there is" than to "there is no"."""
        if self.training or self._prompts is None:
            self._prompts = self._embed_prompts(step.encoders)
        image: Tensor = self.spaces["text"](step.image.pooled)
        with torch.autocast(image.device.type, enabled=False):  # in half precision many images would have one score
            return self.scale * widened(image) @ widened(self._prompts).T

    def after_step(self, encoders: Encoders) -> None:
        """Keep the temperature within its limit."""
        cap_scale(self.log_scale)

    def encode_prompts(self, encoders: Encoders, texts: list[str]) -> Tensor:
        """Return the unit vectors of prompts, (len(texts), dim)."""
        device = self.log_scale.device
        tokens, mask = (t.to(device) for t in encoders.need_text(self.name).tokenizer(texts))
        vectors = encoders.encode_texts(self.name, tokens, mask, torch.arange(len(texts), device=device))
        embedded: Tensor = self.text_projection(vectors)
        return embedded

    def _embed_prompts(self, encoders: Encoders) -> Tensor:
        """Present minus absent, each the mean of its prompts at length one again, (K, dim)."""
        sides = []
        for templates in (PRESENT, ABSENT):
            texts = [template.format(finding.lower()) for finding in self.findings for template in templates]
            embedded = self.encode_prompts(encoders, texts).view(-1, len(templates), self.dim)
            sides.append(F.normalize(embedded.mean(dim=1), dim=-1))
        return sides[0] - sides[1]
