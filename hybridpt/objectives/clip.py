"""Image-text contrast on real report text, in a projection of its own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridpt.data.sources import Sources
from hybridpt.encoders import Projection
from hybridpt.functional import clip_loss
from hybridpt.objectives.base import Encoders, Objective, Step

__all__ = ["Clip"]

PRESENT = ("{}.", "There is {}.", "Findings of {}.")
ABSENT = ("No {}.", "There is no {}.", "No evidence of {}.")
TEMPERATURE = 0.07
MAX_SCALE = 100.0


class Clip(Objective):
    """CLIP between image and report (Radford et al. 2021, arXiv 2103.00020); images of one study,
    and repeated reports, are never each other's negatives.

    Beside ``Supervised`` it is DLILP (Silva-Rodriguez et al. 2025, arXiv 2504.05227): labels and text in separate projections.
    Findings are scored zero-shot, by the prompts that say that one is present against those that say that it is not.

    Args:
        dim: Dimension of the text space.
        weight: What the loss is multiplied by in the sum.
    """

    task = "zero_shot"

    def __init__(self, dim: int = 256, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.dim = dim
        self._prompts: Tensor | None = None

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make the two projections and the temperature."""
        self.findings = sources.findings
        self.spaces["text"] = Projection(encoders.image.width, self.dim)
        self.text_projection = Projection(encoders.need_text("clip").width, self.dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))

    def train(self, mode: bool = True) -> Clip:
        """Switch mode; the prompts are encoded again after any training."""
        self._prompts = None
        super().train(mode)
        return self

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, a scalar."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``contrast``, over the images of the batch that have a report."""
        paired = step.batch["has_text"]
        image = self.spaces["text"](step.image.pooled[paired])
        text = self.text_projection(step.text[paired])
        study, words = step.batch["study"][paired], step.batch["words"][paired]
        return {"contrast": clip_loss(image, text, study, words, self.scale)}

    def logits(self, step: Step) -> Tensor:
        """Return zero-shot log-odds, (B, K): how much nearer an image lies to "there is" than to "there is no"."""
        if self.training or self._prompts is None:
            self._prompts = self._embed_prompts(step.encoders)
        image: Tensor = self.spaces["text"](step.image.pooled)
        return self.scale * image @ self._prompts.T

    def _embed_prompts(self, encoders: Encoders) -> Tensor:
        """Present minus absent, each the mean of its prompts at length one again, (K, dim)."""
        sides = []
        for templates in (PRESENT, ABSENT):
            texts = [template.format(finding.lower()) for finding in self.findings for template in templates]
            encoder = encoders.need_text("clip")
            tokens, mask = (t.to(self.log_scale.device) for t in encoder.tokenizer(texts))
            embedded = self.text_projection(encoder(tokens, mask)).unflatten(0, (-1, len(templates)))
            sides.append(F.normalize(embedded.mean(dim=1), dim=-1))
        return sides[0] - sides[1]
