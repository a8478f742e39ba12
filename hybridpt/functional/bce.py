"""Binary cross-entropy on what a labeler said, with the policies of the CheXpert literature for what it left open."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpt.functional.weights import ALIKE, SourceWeights, mean_over_labelers
from labelers.types import POSITIVE, UNCERTAIN, UNMENTIONED

__all__ = ["Uncertain", "Unmentioned", "bce_loss", "state_targets", "truth_loss"]

Uncertain = Literal["ignore", "zeros", "ones", "smooth_zeros", "smooth_ones"]
Unmentioned = Literal["negative", "ignore"]
RANGES = {"zeros": (0.0, 0.0), "ones": (1.0, 1.0), "smooth_zeros": (0.0, 0.3), "smooth_ones": (0.55, 0.85)}
"""Targets of ``uncertain``: U-Zeros and U-Ones of Irvin et al. 2019 (arXiv 1901.07031), and the ranges in which label smoothing draws them
in Pham et al. 2019 (arXiv 1911.06475)."""


def state_targets(
    state: Tensor,
    looked: Tensor,
    uncertain: Uncertain = "ignore",
    unmentioned: Unmentioned = "negative",
    draw: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Turn states into targets by a policy: positive is 1, negative 0.

    Args:
        state: Codes of ``labelers.STATES``, (B, S, K) int64.
        looked: True where the labeler judged the sample, (B, S, K) bool.
        uncertain: ``ignore`` (U-Ignore), ``zeros``, ``ones``, or a range: ``smooth_zeros`` [0, 0.3], ``smooth_ones`` [0.55, 0.85].
        unmentioned: ``negative`` or ``ignore``.
        draw: Where in the range each target lies, (B, S, K) in [0, 1]; None for the middle, which is the mean of uniform draws.

    Returns:
        Targets in [0, 1], (B, S, K) float32, and where they count, (B, S, K) bool.
    """
    target, unsure, counted = (state == POSITIVE).float(), state == UNCERTAIN, looked
    if uncertain == "ignore":
        counted = counted & ~unsure
    else:
        low, high = RANGES[uncertain]
        place = torch.full_like(target, 0.5) if draw is None else draw
        target = torch.where(unsure, low + (high - low) * place, target)
    if unmentioned == "ignore":
        counted = counted & (state != UNMENTIONED)
    return target, counted


def bce_loss(
    logits: Tensor,
    state: Tensor,
    looked: Tensor,
    uncertain: Uncertain = "ignore",
    unmentioned: Unmentioned = "negative",
    draw: Tensor | None = None,
    sources: SourceWeights = ALIKE,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy, averaged over the labelers that count.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating; computed in float32 or wider whatever the input.
        state: As for ``state_targets``, like ``looked``, ``uncertain``, ``unmentioned`` and ``draw``.
        looked: Likewise.
        uncertain: Likewise.
        unmentioned: Likewise.
        draw: Likewise.
        sources: How the labelers are weighed.

    Returns:
        Loss in nats, (B, K), zero where nothing is known; and where it is known, (B, K) bool.
    """
    target, counted = state_targets(state, looked, uncertain, unmentioned, draw)
    z = logits.unsqueeze(1).to(torch.promote_types(logits.dtype, torch.float32)).expand(state.shape)
    loss = F.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none")
    return mean_over_labelers(loss, counted, sources), counted.any(dim=1)


def truth_loss(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy against gold.

    Args:
        logits: Log-odds that the finding is present, (B, K) floating.
        truth: 1 present, 0 absent, nan not judged, (B, K) floating.

    Returns:
        Loss in nats, (B, K), zero where not judged; and where it is judged, (B, K) bool.
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    known = ~truth.isnan()
    return F.binary_cross_entropy_with_logits(z, truth.nan_to_num().to(z.dtype), reduction="none") * known, known
