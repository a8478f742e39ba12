"""How well each data set's reports describe its images, measured while a model is validated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hybridpt.functional import label_posterior
from hybridpt.functional.gather import gather, meet
from hybridpt.functional.weights import text_weights
from hybridpt.objectives import Step, Supervised, TextContrast
from labelers.errors import UsageError

__all__ = ["TextFit"]


class TextFit:
    """Compares, at each validation, what a supervised head sees in the images that have a report with what labelers make of the report.

    The weights that follow go to the contrasts that want them when the validation has ended. They are measured, to be logged, whether
    one wants them or not; without a supervised head nothing is.

    Args:
        objectives: All of a model, by name; of several heads the first is asked, whose features are computed already.

    Raises:
        UsageError: A contrast wants weights and there is no head.
    """

    def __init__(self, objectives: nn.ModuleDict) -> None:
        self._head = next((m for m in objectives.modules() if isinstance(m, Supervised)), None)
        self._contrasts = [m for m in objectives.modules() if isinstance(m, TextContrast) and m.dataset_weights]
        if self._contrasts and self._head is None:
            raise UsageError(
                f"the option dataset_weights of {self._contrasts[0].name} needs an objective hybridpt.objectives.Supervised, whose head "
                "tells how well reports describe images; add one under --model.objectives, or leave the option out"
            )
        self._seen: list[tuple[Tensor, ...]] | None = None
        self._weights: Tensor | None = None

    def begin(self) -> None:
        """Begin to collect."""
        self._seen = []

    @torch.no_grad()
    def see(self, step: Step) -> None:
        """Add a batch, between ``begin`` and ``measure``."""
        if self._seen is None or self._head is None:
            return
        batch, rows = step.batch, step.reported
        looked, prior = batch["looked"][rows], torch.sigmoid(self._head.bias)
        text = label_posterior(batch["state"][rows], batch["probability"][rows], looked, prior)
        known = looked.any(dim=1).to(torch.uint8)  # which every backend can send
        parts = (self._head.logits(step)[rows], text, known, batch["dataset"][rows])
        self._seen.append(tuple(part.cpu() for part in parts))

    def measure(self, datasets: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """Estimate as ``text_weights`` does, from the images of all processes, which must all call this at the same point.

        Args:
            datasets: Names of the D data sets.
            device: Where the backend of torch.distributed wants its tensors.

        Returns:
            Scalars in [0, 1] by data set, the same on all processes, nan where nothing is known; none where nothing was collected.
        """
        seen, self._seen = self._seen, None
        if not seen:
            return {}
        own = [torch.cat(parts).to(device) for parts in zip(*seen, strict=True)]
        shard = meet(len(own[0]), 0, device)
        image, text, known, dataset = (gather(part, shard).cpu() for part in own)
        self._weights = text_weights(image, text, known > 0, dataset, len(datasets)).float()
        return dict(zip(datasets, self._weights, strict=True))

    def end(self) -> None:
        """Hand what was measured to the contrasts that want it."""
        if self._weights is not None:
            for contrast in self._contrasts:
                contrast.weigh(self._weights)
        self._weights = None
