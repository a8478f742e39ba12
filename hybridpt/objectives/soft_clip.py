"""Image-text contrast with targets from the likeness of label posteriors."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridpt.data.sources import Sources
from hybridpt.functional import soft_clip_loss
from hybridpt.functional.gather import gather
from hybridpt.objectives.base import Encoders, Step
from hybridpt.objectives.clip import TEMPERATURE
from hybridpt.objectives.contrast import LabelPosterior, Negatives, TextContrast
from labelers.errors import UsageError

__all__ = ["SoftClip"]


class SoftClip(TextContrast):
    """CLIP whose targets follow how alike the findings of two studies are, by what all labelers say and what their channels are worth.

    Images of one study, and texts that the report says as well, count as alike in all. Findings are scored zero-shot.

    Args:
        dim: Dimension of the text space.
        weight: What the loss is multiplied by in the sum.
        gradient: Share of the gradient that reaches the image encoder, in [0, 1].
        dataset_weights: Let each pair count by how well its data set's reports describe images; needs ``Supervised`` beside it.
        negatives: Whose reports an image is told from: those of its own ``dataset``, or ``all``.

    Raises:
        UsageError: A number out of its range.
    """

    def __init__(
        self,
        dim: int = 256,
        weight: float = 1.0,
        gradient: float = 1.0,
        dataset_weights: bool = False,
        negatives: Negatives = "dataset",
    ) -> None:
        super().__init__(dim, weight, gradient, 1 / TEMPERATURE, dataset_weights, negatives)

    def check(self, sources: Sources) -> None:
        """Refuse to train without labels.

        Raises:
            UsageError: There are none.
        """
        if not sources.labelers:
            raise UsageError("the objective SoftClip needs labels; give label tables with --data.labels, or use Clip")

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make projections, temperature and the posterior."""
        super().build(encoders, sources)
        self.posterior = LabelPosterior(sources)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``contrast``, over the images of all processes that have a report."""
        rows, p = step.reported, self.pairs(step)
        posterior, known = self.posterior(step)
        posterior, known = gather(posterior[rows], p.shard), gather(known[rows].to(torch.uint8), p.shard) > 0
        given = (p.image, p.text, p.study, p.words, posterior, known, self.scale)
        return {"contrast": soft_clip_loss(*given, said=p.said, anchor=p.anchor, dataset=p.dataset, shard=p.shard)}
