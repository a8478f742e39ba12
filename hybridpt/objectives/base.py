"""What an objective is, and what it is handed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from hybridpt.batch import Batch, View
from hybridpt.data.sources import Sources
from hybridpt.encoders import ImageEncoder, ImageFeatures, TextEncoder, encode_in_chunks
from hybridpt.encoders.distinct import TextMemory, encode_distinct
from hybridpt.functional.pool import Pool
from labelers.errors import UsageError

__all__ = ["MAX_SCALE", "Encoders", "Objective", "Step", "cap_scale", "inverse_temperature", "widened"]

MAX_SCALE = 100.0
"""Of an inverse temperature, as of CLIP's (Radford et al. 2021)."""


def inverse_temperature(log_scale: Tensor) -> Tensor:
    """Return exp(log_scale), at most ``MAX_SCALE``, with a gradient at the limit as well."""
    return (log_scale - (log_scale.detach() - math.log(MAX_SCALE)).clamp(min=0)).exp()


def cap_scale(log_scale: Tensor) -> None:
    """Take a learned temperature back to its limit, so that it turns back with the first gradient that says so."""
    with torch.no_grad():
        log_scale.clamp_(max=math.log(MAX_SCALE))


def widened(x: Tensor) -> Tensor:
    """Return a tensor in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Encoders(nn.Module):
    """The encoders that all objectives share; ``text`` is None for a model of images alone, ``image`` for one of reports alone.

    Attributes:
        memory: What a frozen text encoder made of the texts so far; None to encode them at every step.
    """

    def __init__(self, image: ImageEncoder | None, text: TextEncoder | None) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.memory: TextMemory | None = TextMemory()

    def need_image(self, who: str) -> ImageEncoder:
        """Return the image encoder.

        Raises:
            UsageError: The model has none.
        """
        if self.image is None:
            raise UsageError(
                f"the objective '{who}' needs images; give a manifest with --data.manifest in the place of --data.reports"
            )
        return self.image

    def need_text(self, who: str) -> TextEncoder:
        """Return the text encoder.

        Raises:
            UsageError: The model has none.
        """
        if self.text is None:
            raise UsageError(f"the objective '{who}' needs a text encoder; give one with --model.text_encoder")
        return self.text

    def encode_texts(self, who: str, tokens: Tensor, mask: Tensor, words: Tensor, chunk: int | None = None) -> Tensor:
        """Return one vector a text, (N, width); what repeats goes through the encoder once, as in ``encode_distinct``.

        Raises:
            UsageError: The model has no text encoder.
        """
        return encode_distinct(self.need_text(who), tokens, mask, words, chunk, self.memory)


class Step:
    """One batch on its way through the model; what several objectives need is computed once, when first asked for.

    Attributes:
        batch: The batch.
        encoders: The shared encoders, for an objective's own forward passes.
        llr: log P(state | present) - log P(state | absent), (D + 1, S, K, 4) float32; see ``hybridpt.noise``.
        progress: Share of the training that is done, in [0, 1]; 1 outside training.
        chunk: Rows that go through an encoder at a time, None for all at once; see ``encoders.chunks``.
        pool: How far the labelers' ratios add up; None for independent witnesses.
    """

    def __init__(
        self,
        batch: Batch,
        encoders: Encoders,
        llr: Tensor,
        progress: float = 1.0,
        chunk: int | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.batch = batch
        self.encoders = encoders
        self.llr = llr
        self.progress = progress
        self.chunk = chunk
        self.pool = pool

    @cached_property
    def reported(self) -> Tensor:
        """Places of the images that have a report, (n,) int64; found once, since a GPU must be waited for."""
        return self.batch["has_text"].nonzero().squeeze(1)

    @cached_property
    def image(self) -> ImageFeatures:
        """Features of the standard image."""
        features: ImageFeatures = encode_in_chunks(self.encoders.need_image("image"), (self.batch["image"],), self.chunk)
        return features

    @cached_property
    def text(self) -> Tensor:
        """One vector a text, (B, width); zeros where there is none. Texts that repeat go through the encoder once."""
        batch = self.batch
        return self.encoders.encode_texts("text", batch["tokens"], batch["token_mask"], batch["words"], self.chunk)


class Objective(nn.Module, ABC):
    """Base class of objectives.

    An objective owns its projections and heads, asks for the views of the image that it needs, may run its own forward passes
    and keep state (an EMA teacher is a buffer or a module of its own), and is told after every step of the optimizer.

    Args:
        weight: What its losses are multiplied by in the sum.

    Attributes:
        views: Crops that the data must cut for it beside the standard image.
        spaces: Its projections into named embedding spaces (``label``, ``text``).
        task: How its scores of the findings are called in results: ``supervised``, or ``zero_shot`` where they come from prompts.
        contrasts: Whether it compares the rows of a batch with each other: batches that are accumulated are then not one large batch.
        needs_labels: Whether it learns nothing from images that have no label and no gold.
        needs_reports: Whether it learns nothing from images that have no report.
        remembers_rows: Whether it keeps something by the number of the training row, so that a run cannot go on with other images.
    """

    views: tuple[View, ...] = ()
    task = "supervised"
    contrasts = False
    needs_labels = False
    needs_reports = False
    remembers_rows = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.spaces = nn.ModuleDict()

    def check(self, sources: Sources) -> None:
        """Refuse data that the objective cannot be trained on; called before a new training.

        Raises:
            UsageError: Something that it needs is missing; the message says how to give it.
        """

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make the parameters, now that the widths of the encoders and the findings are known.

        Args:
            encoders: The shared encoders; read their widths, keep no reference.
            sources: Findings, labelers and data sets.
        """

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of a batch by name, scalars; they are weighted and summed by the module."""

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Return over how many cells or pairs of this process each loss is a mean, by name, scalars; what is not named is one over rows.

        A validation asks for it, so that its means do not hang on how the data are cut into batches.
        """
        return {}

    def logits(self, step: Step) -> Tensor | None:
        """Return log-odds of the findings, (B, K), or None if the objective says nothing of them."""
        return None

    def after_step(self, encoders: Encoders) -> None:
        """Update state that follows the weights, after each step of the optimizer."""
