"""Image-text contrast on real report text, in a projection of its own."""

from __future__ import annotations

from torch import Tensor

from hybridpt.functional import clip_loss
from hybridpt.objectives.base import Step
from hybridpt.objectives.contrast import Negatives, TextContrast

__all__ = ["Clip"]

TEMPERATURE = 0.07


class Clip(TextContrast):
    """CLIP between image and report (Radford et al. 2021, arXiv 2103.00020); images of one study,
    and texts that the report says as well, are never each other's negatives.

    Beside ``Supervised`` it is DLILP (Silva-Rodriguez et al. 2025, arXiv 2504.05227): labels and text in separate projections.
    Findings are scored zero-shot, by the prompts that say that one is present against those that say that it is not.

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

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``contrast``, over the images of all processes that have a report."""
        p = self.pairs(step)
        loss = clip_loss(
            p.image, p.text, p.study, p.words, self.scale, said=p.said, anchor=p.anchor, dataset=p.dataset, shard=p.shard
        )
        return {"contrast": loss}
