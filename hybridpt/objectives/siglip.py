"""Image-text contrast by a logistic loss of each pair."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridpt.data.sources import Sources
from hybridpt.functional import siglip_loss
from hybridpt.objectives.base import Encoders, Step
from hybridpt.objectives.contrast import Negatives, TextContrast

__all__ = ["SigLip"]

SCALE = 10.0
BIAS = -10.0


class SigLip(TextContrast):
    """SigLIP between image and report (Zhai et al. 2023, arXiv 2303.15343), with learned scale and bias; images of one study, and
    texts that the report says as well, are positives.

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
        super().__init__(dim, weight, gradient, SCALE, dataset_weights, negatives)

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make the two projections, temperature and bias."""
        super().build(encoders, sources)
        self.bias = nn.Parameter(torch.tensor([BIAS]))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``contrast``, over the images of all processes that have a report."""
        p = self.pairs(step)
        given = (p.image, p.text, p.study, p.words, self.scale, self.bias.squeeze(0))
        return {"contrast": siglip_loss(*given, said=p.said, anchor=p.anchor, dataset=p.dataset, shard=p.shard)}
