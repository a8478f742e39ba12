"""A classification head trained on what the labelers say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridpt.batch import Batch
from hybridpt.data.sources import Sources
from hybridpt.encoders import Projection
from hybridpt.functional import bce_loss, channel_loss, masked_mean, soft_loss
from hybridpt.objectives.base import Encoders, Objective, Step
from labelers.errors import UsageError

__all__ = ["Supervised"]

SCALE = 10.0
"""Inverse temperature at the start."""
MAX_SCALE = 100.0

Term = Callable[[Tensor, Batch, Tensor], tuple[Tensor, Tensor]]


def _channel(logits: Tensor, batch: Batch, llr: Tensor) -> tuple[Tensor, Tensor]:
    loss = channel_loss(logits, batch["state"], llr[batch["dataset"]], batch["looked"])
    return loss, batch["looked"].any(dim=1)


def _bce(logits: Tensor, batch: Batch, llr: Tensor) -> tuple[Tensor, Tensor]:
    return bce_loss(logits, batch["state"], batch["looked"])


def _soft(logits: Tensor, batch: Batch, llr: Tensor) -> tuple[Tensor, Tensor]:
    return soft_loss(logits, batch["probability"], batch["looked"]), batch["looked"].any(dim=1)


TERMS: dict[str, Term] = {"bce": _bce, "channel": _channel, "soft": _soft}


class Supervised(Objective):
    """Cosine prototypes in a projection of their own (the label space), or a linear head, on the union of the findings.

    Args:
        label_term: ``channel``, the likelihood of what the labelers said; ``bce``, plain cross-entropy on their states; ``soft``,
            cross-entropy against their probabilities.
        head: ``prototypes`` or ``linear``.
        dim: Dimension of the label space, for prototypes.
        warmup: Share of the training that runs on plain cross-entropy before the channel, in [0, 1].
        weight: What the loss is multiplied by in the sum.
    """

    def __init__(
        self,
        label_term: Literal["channel", "bce", "soft"] = "channel",
        head: Literal["prototypes", "linear"] = "prototypes",
        dim: int = 256,
        warmup: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.label_term = label_term
        self.head = head
        self.dim = dim
        self.warmup = warmup

    def check(self, sources: Sources) -> None:
        """Refuse to train without labels, or with the label term ``channel`` and a labeler whose channel nobody measured.

        Raises:
            UsageError: As described.
        """
        if not sources.labelers:
            raise UsageError("the objective 'supervised' needs labels; give label tables with --data.labels")
        measured = {} if sources.channels is None else sources.channels.channels
        missing = [labeler for labeler in sources.labelers if labeler not in measured]
        if self.label_term == "channel" and missing:
            raise UsageError(
                f"the label term 'channel' needs a measured channel of '{missing[0]}'; estimate it with 'labelers noise' "
                "and give it with --data.channels, or choose another label term"
            )

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make head and bias; the bias starts at the prevalence of each finding."""
        prevalence = torch.tensor(sources.prevalence)
        self.bias = nn.Parameter(torch.logit(prevalence))
        if self.head == "linear":
            self.linear = nn.Linear(encoders.image.width, len(prevalence), bias=False)
            nn.init.zeros_(self.linear.weight)
            return
        self.spaces["label"] = Projection(encoders.image.width, self.dim)
        self.prototypes = nn.Parameter(torch.randn(len(prevalence), self.dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def logits(self, step: Step) -> Tensor:
        """Return log-odds of the findings, (B, K) float32."""
        pooled = step.image.pooled
        if self.head == "linear":
            return cast(Tensor, self.linear(pooled)).float() + self.bias
        embedded: Tensor = self.spaces["label"](pooled)
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        return scale * embedded @ F.normalize(self.prototypes, dim=-1).T + self.bias

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``nll``, the mean over the cells that a labeler judged, in nats."""
        name = "bce" if self.label_term == "channel" and step.progress < self.warmup else self.label_term
        loss, known = TERMS[name](self.logits(step), step.batch, step.llr)
        return {"nll": masked_mean(loss, known)}
