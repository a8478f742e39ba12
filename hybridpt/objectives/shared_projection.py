"""Labels and text in one projection of the image: the variant that DLILP is measured against."""

from __future__ import annotations

from torch import Tensor

from hybridpt.data.sources import Sources
from hybridpt.objectives.base import Encoders, Objective, Step
from hybridpt.objectives.clip import Clip
from hybridpt.objectives.contrast import TextContrast
from hybridpt.objectives.supervised import Supervised
from labelers.errors import UsageError

__all__ = ["SharedProjection"]


class SharedProjection(Objective):
    """A label objective and a text objective that see the image through one and the same projection.

    The single-projection variant of Silva-Rodriguez et al. 2025 (arXiv 2504.05227); as two objectives of their own they are DLILP.
    Each loss is multiplied by the weight of its part. Findings are scored by the label part.

    Args:
        label: An objective with a space ``label``; None for ``Supervised()``.
        text: An objective with a space ``text`` of the same dimension; None for ``Clip(weight=0.1)``.
        weight: What the sum of the two is multiplied by.
    """

    contrasts = True

    def __init__(self, label: Objective | None = None, text: TextContrast | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.label = Supervised() if label is None else label
        self.text = Clip(weight=0.1) if text is None else text
        self.needs_labels = self.label.needs_labels
        self.remembers_rows = self.label.remembers_rows
        self.needs_reports = self.text.needs_reports
        self.views = tuple(dict.fromkeys((*self.label.views, *self.text.views)))

    def check(self, sources: Sources) -> None:
        """Refuse what either part refuses."""
        self.label.check(sources)
        self.text.check(sources)

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Build both parts, and give the text part the image projection of the label part.

        Raises:
            UsageError: The label part has no projection, or the dimensions differ.
        """
        self.label.build(encoders, sources)
        self.text.build(encoders, sources)
        if "label" not in self.label.spaces:
            raise UsageError("SharedProjection: the label part has no projection; give a Supervised with head prototypes")
        shared, own = self.label.spaces["label"], self.text.spaces["text"]
        if [p.shape for p in shared.parameters()] != [p.shape for p in own.parameters()]:
            raise UsageError("SharedProjection: expected the same dim in both parts, got different ones; give both one dim")
        self.text.spaces["text"] = shared

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the losses of both parts under their own names, each times the weight of its part."""
        return {name: part.weight * loss for part in (self.label, self.text) for name, loss in part(step).items()}

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Return those of both parts."""
        return self.label.counts(step) | self.text.counts(step)

    def logits(self, step: Step) -> Tensor | None:
        """Return the log-odds of the label part."""
        return self.label.logits(step)

    def after_step(self, encoders: Encoders) -> None:
        """Pass it on."""
        self.label.after_step(encoders)
        self.text.after_step(encoders)
