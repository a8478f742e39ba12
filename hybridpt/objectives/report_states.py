"""Four-state heads on the text of reports, trained on what labelers say of them: the objective of the labeler "neural"."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hybridpt.data.sources import Sources
from hybridpt.functional import joint_channel_loss, presence_logit, soft_loss, state_logits, state_loss
from hybridpt.functional.joint import joint_mean
from hybridpt.objectives.base import Encoders, Objective, Step
from labelers.errors import UsageError

__all__ = ["ReportStates"]

WORTH = (0.95, 0.05, 0.5, 0.1)
"""P(present | state) until the training data tell it."""
STATES_BESIDE_CHANNELS = 0.2
"""Weight of the cross-entropy of the states beside the likelihood through the channels."""


class ReportStates(Objective):
    """One head of four states a finding over the tokens of a report, and the probability that follows from its states.

    Two losses: ``states``, cross-entropy against what each labeler says, and ``nll``, of the probability that the finding is
    present: the likelihood through the channels where channels were given, else cross-entropy against the probabilities of the
    labelers (or of a fused table). Channels know which labeler to believe, cross-entropy believes all alike; beside channels it
    counts for a fifth, enough to tell states apart that are worth the same.

    A labeler's states follow from the very text that is read here, while the likelihood takes them for independent of it given the
    truth; so it grows too sure where labelers that read alike agree. A table made by ``labelers fuse``, without channels, is the
    better teacher of reports.

    Args:
        weight: What the losses are multiplied by in the sum.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self._by_channel: bool | None = None

    def check(self, sources: Sources) -> None:
        """Refuse to train without labels, or with channels of which a labeler has none.

        Raises:
            UsageError: As described.
        """
        if not sources.labelers:
            raise UsageError("the objective 'report_states' needs labels; give label tables with --data.labels")
        missing = [] if sources.channels is None else [name for name in sources.labelers if name not in sources.channels.channels]
        if missing:
            raise UsageError(
                f"the channels have none of '{missing[0]}'; estimate it with 'labelers noise', leave its table out, or give no channels"
            )

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make the heads."""
        count, width = len(sources.findings), encoders.need_text("report_states").width
        self.query = nn.Parameter(0.02 * torch.randn(count, width))
        self.head = nn.Parameter(0.02 * torch.randn(count, 4, width))
        self.bias = nn.Parameter(torch.zeros(count, 4))
        self.register_buffer("worth", torch.tensor(WORTH).repeat(count, 1))

    def begin(self, share: Tensor, worth: Tensor) -> None:
        """Start from what the training labels are like as a whole.

        Args:
            share: Share of each state, (K, 4) in (0, 1).
            worth: P(present | state), (K, 4) in (0, 1).
        """
        with torch.no_grad():
            self.bias.copy_(share.log())
            cast(Tensor, self.worth).copy_(worth)

    def state_logits(self, step: Step) -> Tensor:
        """Return logits of the states in the order of ``labelers.STATES``, (B, K, 4)."""
        tokens, mask = step.encoders.need_text("report_states").states(step.batch["tokens"], step.batch["token_mask"])
        return state_logits(tokens, mask, self.query, self.head, self.bias)

    def logits(self, step: Step) -> Tensor:
        """Return log-odds of the findings, (B, K) float32."""
        return presence_logit(self.state_logits(step), cast(Tensor, self.worth))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return ``states`` and ``nll``, each the mean over the cells that a labeler judged, in nats."""
        batch, logits = step.batch, self.state_logits(step)
        looked = batch["looked"]
        present = presence_logit(logits, cast(Tensor, self.worth))
        if self._by_channel is None:  # a checkpoint keeps the channels as the tensor made of them
            self._by_channel = bool((step.llr != 0).any())
        if self._by_channel:
            loss = joint_channel_loss(present, batch["state"], step.llr[batch["dataset"]], looked, step.pool)
        else:
            loss = soft_loss(present, batch["probability"], looked)
        known = looked.any(dim=1)
        states = joint_mean(state_loss(logits, batch["state"], looked), known)
        return {"states": STATES_BESIDE_CHANNELS * states if self._by_channel else states, "nll": joint_mean(loss, known)}

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Return the number of cells that a labeler judged."""
        known = step.batch["looked"].any(dim=1).sum()
        return {"states": known, "nll": known}
