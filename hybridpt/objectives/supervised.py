"""A classification head trained on what the labelers say."""

from __future__ import annotations

import copy
import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridpt.batch import Batch
from hybridpt.data.sources import Sources
from hybridpt.encoders import Projection
from hybridpt.functional import bce_loss, channel_loss, joint_channel_loss, label_posterior, soft_loss
from hybridpt.functional.bce import Uncertain, Unmentioned, state_targets, truth_loss
from hybridpt.functional.channel import channel_nll, channel_penalty, joint_channel_nll
from hybridpt.functional.elr import TemporalTargets, elr_term
from hybridpt.functional.gce import gce_loss
from hybridpt.functional.joint import joint_mean
from hybridpt.functional.pool import heard
from hybridpt.functional.rows import RowCount
from hybridpt.functional.weights import LearnedWeights, SourceWeights, analytic_weights
from hybridpt.noise import channel_bits, channel_evidence, log_channels, sibling_matrix
from hybridpt.objectives.base import Encoders, Objective, Step, cap_scale, inverse_temperature, widened
from labelers.errors import UsageError

__all__ = ["LabelTerm", "Supervised"]

SCALE = 10.0
"""Inverse temperature at the start."""

LabelTerm = Literal["channel", "soft", "bce", "gce", "elr"]
SourceWeighting = Literal["none", "analytic", "learned"]


class Supervised(Objective):
    """Cosine prototypes in a projection of their own (the label space), or a linear head, on the union of the findings.

    Under the term ``channel`` what several labelers say of a cell has one likelihood, by how far the channels' file says that their
    evidence adds up; under the others, and with weights of sources, each labeler has a term of its own, and those
    that share their errors have one vote together. Cells with gold are trained on as such, by
    cross-entropy, whatever the labelers say of them. A validation takes neither gold nor weights of sources, so that its loss compares
    models.

    Args:
        label_term: ``channel``, the likelihood of what the labelers said; ``soft``, cross-entropy against probabilities; ``bce``,
            cross-entropy on their states; ``gce``, generalized cross-entropy on them (Zhang and Sabuncu 2018); ``elr``, ``bce`` with
            early-learning regularization (Liu et al. 2020).
        head: ``prototypes`` or ``linear``.
        dim: Dimension of the label space, for prototypes.
        warmup: Share of the training that runs on plain cross-entropy before the channel, in [0, 1].
        weight: What the loss is multiplied by in the sum.
        uncertain: What ``uncertain`` is to ``bce``, ``gce`` and ``elr``: ``ignore``, ``zeros``, ``ones``, or a target drawn anew each
            time from [0, 0.3] (``smooth_zeros``) or [0.55, 0.85] (``smooth_ones``; Pham et al. 2019).
        unmentioned: What ``unmentioned`` is to them: ``negative`` or ``ignore``.
        soft_targets: Of ``soft``: ``probability``, what the labelers or a fused table give; ``posterior``, prior and channels.
        source_weights: What each source counts for beside its channel: ``none``; ``analytic``, its channel's bits, of those of the
            best source; ``learned``, a log-variance a data set and labeler (Kendall et al. 2018).
        channel_trainable: Learn the channels with the head, held near what gold says of them; for frozen image encoders alone, since
            jointly with a deep network they drift.

    Raises:
        UsageError: Options out of their range, or that do not go together.
    """

    needs_labels = True

    def __init__(
        self,
        label_term: LabelTerm = "channel",
        head: Literal["prototypes", "linear"] = "prototypes",
        dim: int = 256,
        warmup: float = 0.1,
        weight: float = 1.0,
        uncertain: Uncertain = "ignore",
        unmentioned: Unmentioned = "negative",
        soft_targets: Literal["probability", "posterior"] = "probability",
        source_weights: SourceWeighting = "none",
        channel_trainable: bool = False,
    ) -> None:
        super().__init__(weight)
        if not 0 <= warmup <= 1:
            raise UsageError(f"the option warmup of Supervised: expected a number from 0 to 1, got {warmup}")
        if dim < 1:
            raise UsageError(f"the option dim of Supervised: expected a whole number from 1, got {dim}")
        if channel_trainable and label_term != "channel":
            raise UsageError(
                f"Supervised: channel_trainable needs the label term channel, got {label_term}; choose that, or leave it out"
            )
        if source_weights == "learned" and label_term == "channel":
            # what a noisy labeler says is easily likely: states that tell little cost little
            raise UsageError(
                "Supervised: source_weights learned would favour poor sources under the label term channel, which weighs them itself; "
                "choose another of the two"
            )
        self.label_term = label_term
        self.remembers_rows = label_term == "elr" or channel_trainable
        self.head = head
        self.dim = dim
        self.warmup = warmup
        self.uncertain: Uncertain = uncertain
        self.unmentioned: Unmentioned = unmentioned
        self.by_posterior = label_term == "soft" and soft_targets == "posterior"
        self.source_weights = source_weights
        self.channel_trainable = channel_trainable
        if self.by_posterior and source_weights != "none":
            raise UsageError("Supervised: soft_targets posterior weighs the sources itself; leave source_weights out")

    def check(self, sources: Sources) -> None:
        """Refuse to train without labels, or with options that need channels and a labeler whose channel nobody measured.

        Raises:
            UsageError: As described.
        """
        if not sources.labelers:
            raise UsageError("the objective 'supervised' needs labels; give label tables with --data.labels")
        measured = {} if sources.channels is None else sources.channels.channels
        missing = [labeler for labeler in sources.labelers if labeler not in measured]
        needing = {
            "the label term 'channel'": self.label_term == "channel",
            "the option soft_targets 'posterior'": self.by_posterior,
            "the option source_weights 'analytic'": self.source_weights == "analytic",
        }
        what = next((name for name, needed in needing.items() if needed), None)
        if what is not None and missing:
            raise UsageError(
                f"{what} needs a measured channel of '{missing[0]}'; estimate it with 'labelers noise' "
                "and give it with --data.channels, or choose another"
            )

    def build(self, encoders: Encoders, sources: Sources) -> None:
        """Make head and bias, which starts at the prevalence of each finding, and what belongs to the label term."""
        prevalence = torch.tensor(sources.prevalence)
        self.bias = nn.Parameter(torch.logit(prevalence))
        if self.head == "linear":
            self.linear = nn.Linear(encoders.need_image("supervised").width, len(prevalence), bias=False)
            nn.init.zeros_(self.linear.weight)
        else:
            self.spaces["label"] = Projection(encoders.need_image("supervised").width, self.dim)
            self.prototypes = nn.Parameter(torch.randn(len(prevalence), self.dim))
            self.log_scale = nn.Parameter(torch.tensor([math.log(SCALE)]))
        if self.channel_trainable:  # in a step, FSDP hides what is frozen
            self._deep = any(p.requires_grad for p in encoders.need_image("supervised").parameters())
        self._build_term(sources, prevalence)

    def _build_term(self, sources: Sources, prevalence: Tensor) -> None:
        """Everything here is in the checkpoint, since the channels are not: a resumed run finds their shapes, then their values."""
        laid_out = (sources.channels, sources.labelers, sources.datasets, sources.findings)
        self._related = len(sources.labelers) > 1
        if self._related:
            self.register_buffer("siblings", sibling_matrix(sources.channels, sources.labelers))
        if self.by_posterior:
            self.register_buffer("prior", prevalence)
        if self.source_weights == "analytic":
            self.register_buffer("analytic", analytic_weights(channel_bits(*laid_out, sources.prevalence)))
        if self.source_weights == "learned":
            self.learned = LearnedWeights(len(sources.datasets) + 1, len(sources.labelers))
        if self.label_term == "elr":
            self.targets = TemporalTargets(len(prevalence))
        if self.channel_trainable:
            evidence = channel_evidence(*laid_out)
            self.register_buffer("evidence", evidence.rows)
            self.register_buffer("owner", evidence.owner)
            self.channel_rows = nn.Parameter(log_channels(*laid_out).flatten())  # flat, since vectors do not decay
            self.rows = RowCount()

    @property
    def log_channel(self) -> Tensor | None:
        """The channels as they are learned, log P(state | truth), (D + 1, S, K, 2, 4); None where they are fixed."""
        if not self.channel_trainable:
            return None
        evidence, owner = cast(Tensor, self.evidence), cast(Tensor, self.owner)[..., None, None]
        rows = self._log_rows().gather(0, owner.expand(evidence.shape))
        measured = evidence.sum(dim=-1, keepdim=True).gather(0, owner.expand(*evidence.shape[:-1], 1)) > 0
        return torch.where(measured, rows, math.log(0.25))

    @property
    def weight_by_source(self) -> Tensor | None:
        """What each data set's labeler counts for, the mean over findings, (D + 1, S); None where all count alike."""
        if self.source_weights == "learned":
            return torch.exp(-self.learned.log_variance.detach())
        return cast(Tensor, self.analytic).mean(dim=-1) if self.source_weights == "analytic" else None

    def logits(self, step: Step) -> Tensor:
        """Return log-odds of the findings, (B, K) float32."""
        pooled = step.image.pooled
        embedded: Tensor = pooled if self.head == "linear" else self.spaces["label"](pooled)
        with torch.autocast(embedded.device.type, enabled=False):  # in half precision many images would have one score
            if self.head == "linear":
                return F.linear(widened(embedded), widened(self.linear.weight)) + self.bias
            prototypes = F.normalize(widened(self.prototypes), dim=-1)
            return inverse_temperature(self.log_scale) * widened(embedded) @ prototypes.T + self.bias

    def after_step(self, encoders: Encoders) -> None:
        """Keep the temperature within its limit."""
        if self.head == "prototypes":
            cap_scale(self.log_scale)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Return the mean over the cells that a labeler judged or gold knows, in nats, under ``nll`` (``gce`` for that term).

        In training also ``regularizer`` under the term ``elr``, and ``channel_prior`` where channels are learned.
        """
        logits, truth = self.logits(step), step.batch["truth"]
        term = "bce" if self.label_term == "channel" and step.progress < self.warmup else self.label_term
        loss, known = self._label_loss(term, logits, step)
        if self.training:
            exact, judged = truth_loss(logits, truth)
            loss, known = torch.where(judged, exact, loss), known | judged
        losses = {"gce" if term == "gce" else "nll": joint_mean(loss, known)}
        if term == "elr" and self.training:
            losses["regularizer"] = joint_mean(elr_term(logits, self.targets(step.batch["row"], logits)), known)
        if self.channel_trainable and self.training:
            losses["channel_prior"] = self._channel_prior(step, known)
        return losses

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Return the number of cells that the label loss is a mean over where nothing is learned."""
        _, known = self._label_loss(self.label_term, self.logits(step), step)
        return {"gce" if self.label_term == "gce" else "nll": known.sum()}

    def losses_by_labeler(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return what each labeler alone would make of the loss, summed over the cells that it judged, and their number, (S,) each."""
        logits, looked = self.logits(step), step.batch["looked"]
        sums = []
        for s in range(looked.shape[1]):
            alone = copy.copy(step)  # with the features that are computed already
            alone.batch = cast(
                Batch, {**step.batch, "looked": looked & (torch.arange(looked.shape[1], device=looked.device) == s)[:, None]}
            )
            loss, known = self._label_loss(self.label_term, logits, alone)
            sums.append(torch.stack([(loss * known).sum().float(), known.sum().float()]))
        total, count = torch.stack(sums, dim=-1) if sums else logits.new_zeros(2, 0)
        return total, count

    def _label_loss(self, term: LabelTerm, logits: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Loss of what the labelers said and where they said something, (B, K) each."""
        batch, sources = step.batch, self._sources(step)
        state, looked = batch["state"], batch["looked"]
        if term == "channel":
            return self._channel_loss(logits, step, sources), looked.any(dim=1)
        if self.by_posterior:
            prior, llr = cast(Tensor, self.prior), step.llr[batch["dataset"]]
            posterior = label_posterior(state, batch["probability"], looked, prior, llr, pool=step.pool)
            known = heard(looked, llr).any(dim=1)
            return soft_loss(logits, posterior.unsqueeze(1), known.unsqueeze(1)), known
        if term == "soft":
            return soft_loss(logits, batch["probability"], looked, sources), looked.any(dim=1)
        draw = torch.rand(state.shape, device=state.device) if self.training and self.uncertain.startswith("smooth") else None
        if term == "gce":
            return gce_loss(logits, *state_targets(state, looked, self.uncertain, self.unmentioned, draw), sources)
        return bce_loss(logits, state, looked, self.uncertain, self.unmentioned, draw, sources)

    def _channel_loss(self, logits: Tensor, step: Step, sources: SourceWeights) -> Tensor:
        batch, learned = step.batch, self.log_channel
        if learned is None:
            said = (batch["state"], step.llr[batch["dataset"]], batch["looked"])
            if sources.scale is not None:
                return channel_loss(logits, *said, sources)
            return joint_channel_loss(logits, *said, step.pool)
        if self.training and self._deep:
            raise UsageError(
                "Supervised: channel_trainable needs a frozen image encoder, since channels that are learned with a deep network drift; "
                "give --model.frozen_layers -1, or leave it out"
            )
        said = (batch["state"], learned[batch["dataset"]], batch["looked"])
        if sources.scale is not None:
            return channel_nll(logits, *said, sources)
        return joint_channel_nll(logits, *said, step.pool)

    def _sources(self, step: Step) -> SourceWeights:
        siblings = cast(Tensor, self.siblings) if self._related else None
        if not self.training or self.source_weights == "none":
            return SourceWeights(siblings)
        if self.source_weights == "learned":
            return SourceWeights(siblings, *self.learned(step.batch["dataset"]))
        return SourceWeights(siblings, cast(Tensor, self.analytic)[step.batch["dataset"]])

    def _channel_prior(self, step: Step, known: Tensor) -> Tensor:
        """What the gold is worth beside the loss, which is a mean over cells: its penalty by the number of all cells seen so far."""
        cells = self.rows(step.batch["row"]) * known.shape[1] * joint_mean(known.float(), torch.ones_like(known))
        penalty: Tensor = channel_penalty(self._log_rows(), cast(Tensor, self.evidence)) / cells.clamp(min=1)
        return penalty

    def _log_rows(self) -> Tensor:
        """Every data set's own rows, used or not, (D + 1, S, K, 2, 4)."""
        rows: Tensor = self.channel_rows.view(cast(Tensor, self.evidence).shape).log_softmax(dim=-1)
        return rows
