"""Image-text contrast with targets from shared labels, and prompts for images that have labels alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpt.data.sources import Sources
from hybridpt.encoders.distinct import first_of_each
from hybridpt.functional import unicl_loss
from hybridpt.functional.gather import gather, meet
from hybridpt.objectives.base import Encoders, Step
from hybridpt.objectives.clip import TEMPERATURE
from hybridpt.objectives.contrast import LabelPosterior, Negatives, TextContrast
from labelers.errors import UsageError

__all__ = ["UniCL"]

NOTHING = "no finding"


class UniCL(TextContrast):
    """UniCL between image and report (Yang et al. 2022, arXiv 2204.03610): images and texts of equal findings are positives.

    A finding counts as present where the labelers together make it likelier than not. Findings are scored zero-shot.

    Args:
        dim: Dimension of the text space.
        weight: What the losses are multiplied by in the sum.
        gradient: Share of the gradient that reaches the image encoder, in [0, 1].
        prompts: Add a loss of its own between images that have labels but no report and a text made of their findings, such as
            "pleural effusion, cardiomegaly". It shares no negatives with real text.
        dataset_weights: Let each pair of image and report count by how well its data set's reports describe images; needs ``Supervised``
            beside it.
        negatives: Whose reports an image is told from: those of its own ``dataset``, or ``all``; prompts of all data sets meet.

    Raises:
        UsageError: A number out of its range.
    """

    def __init__(
        self,
        dim: int = 256,
        weight: float = 1.0,
        gradient: float = 1.0,
        prompts: bool = False,
        dataset_weights: bool = False,
        negatives: Negatives = "dataset",
    ) -> None:
        super().__init__(dim, weight, gradient, 1 / TEMPERATURE, dataset_weights, negatives)
        self.prompts = prompts
        self.needs_reports = not prompts

    def check(self, sources: Sources) -> None:
        """Refuse to train without labels.

        Raises:
            UsageError: There are none.
        """
        if not sources.labelers:
            raise UsageError("the objective UniCL needs labels; give label tables with --data.labels, or use Clip")

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make projections, temperature and the posterior."""
        super().build(encoders, sources)
        self.posterior = LabelPosterior(sources)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``contrast``, over the images of all processes that have a report, and ``prompts`` over those that have labels alone."""
        posterior, known = self.posterior(step)
        present = posterior > 0.5
        p = self.pairs(step)
        code = torch.cat([known[:, None], present], dim=1).to(torch.uint8)
        label = _numbered(gather(code[step.reported], p.shard))
        loss = unicl_loss(
            p.image, p.text, p.study, p.words, label, self.scale, said=p.said, anchor=p.anchor, dataset=p.dataset, shard=p.shard
        )
        return {"contrast": loss, "prompts": self._prompted(step, known, present)} if self.prompts else {"contrast": loss}

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Return the number of images that have a report, and of those that have labels alone."""
        counts = super().counts(step)
        if self.prompts:
            counts["prompts"] = (self.posterior(step)[1] & ~step.batch["has_text"]).sum()
        return counts

    def _prompted(self, step: Step, known: Tensor, present: Tensor) -> Tensor:
        rows = (known & ~step.batch["has_text"]).nonzero().squeeze(1)
        image = self.images(step, rows)
        shard = meet(len(image), 0, image.device)
        code = F.pad(present[rows].to(torch.uint8), (1, 0), value=1)
        first, which = first_of_each(_numbered(code))
        texts = [self.prompt(row) for row in code[first, 1:].tolist()]
        text = gather(self.encode_prompts(step.encoders, texts or [NOTHING])[which], shard)
        label, study = _numbered(gather(code, shard)), gather(step.batch["study"][rows], shard)
        return unicl_loss(image, text, study, label, label, self.scale, shard=shard)

    def prompt(self, present: list[int]) -> str:
        """Return the text of some findings, K flags; ``no finding`` for none."""
        names = [finding.lower() for finding, there in zip(self.findings, present, strict=True) if there]
        return ", ".join(names) or NOTHING


def _numbered(code: Tensor) -> Tensor:
    """Number the distinct rows of (N, 1 + K), whose first column says whether the rest is known; -1 where it is not, (N,) int64."""
    number = torch.unique(code, dim=0, return_inverse=True)[1] if len(code) else code.new_zeros(0, dtype=torch.int64)
    return torch.where(code[:, 0] > 0, number, -1)
