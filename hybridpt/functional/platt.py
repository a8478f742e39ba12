"""Calibration by a line on the log-odds of each finding, where some findings have a handful of positives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Platt", "fit_platt"]

SPREAD = (0.15, 0.3)
"""Standard deviation of log-slope and shift among findings, as one finding would be weighed that said it."""
REACH = (0.5, 1.5)
"""Standard deviation of what all findings have in common, about a slope of 1 and a shift of 0."""
ROUNDS = 200
LEAST_CHANGE = 1e-6
LONGEST_STEP = 0.5
EXTREME = 50.0
"""Log-odds beyond which nothing is said that a fit could use."""


def fit_platt(logit: Tensor, truth: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a slope and an intercept on the log-odds of each finding (Platt 1999), each finding kept near what all have in common.

    Two free numbers a finding cost more than they mend where a finding has five positives. So log-slope and shift (at the log-odds where
    the finding is least certain, where the two hardly depend on each other) are drawn from a normal distribution over findings, of which
    mean and spread are estimated with them: empirical Bayes (Efron and Morris 1975), by EM with a Laplace approximation of each finding.
    A model that needs nothing is left nearly as it is, one that is too sure everywhere is mended everywhere, and only findings that differ
    by more than chance differ.

    Args:
        logit: Log-odds as the model gives them, (N, K) floating and finite.
        truth: 1 present, 0 absent, nan not judged, (N, K) floating.
        weight: What a row counts for, (N,), 0 or more; a study of two images counts once where each counts one half.

    Returns:
        Slope, above 0, and intercept, (K,) float64 each; 1 and 0 for a finding that nobody judged.
    """
    logit, truth = logit.double().clamp(-EXTREME, EXTREME), truth.double()
    mass = torch.where(truth.isnan(), 0.0, weight.double()[:, None].expand_as(truth))
    judged = mass.sum(dim=0) > 0
    slope, intercept = torch.ones_like(mass[0]), torch.zeros_like(mass[0])
    if judged.any():
        slope[judged], intercept[judged] = _fit(logit[:, judged], truth[:, judged].nan_to_num(), mass[:, judged])
    return slope, intercept


def _fit(logit: Tensor, truth: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    chance = torch.sigmoid(logit)
    information = mass * (chance * (1 - chance)).clamp(min=1e-12)
    centre = (information * logit).sum(dim=0) / information.sum(dim=0)
    own, reach = (logit.new_tensor(values).square() for values in (SPREAD, REACH))
    count = logit.shape[1]
    line, mean, variance = logit.new_zeros(count, 2), logit.new_zeros(2), own
    for _ in range(ROUNDS):
        gradient, curvature = _quadratic(line, logit - centre, centre, truth, mass)
        curvature = curvature + torch.diag(1 / variance)
        step = torch.linalg.solve(curvature, gradient + (line - mean) / variance).clamp(-LONGEST_STEP, LONGEST_STEP)
        line = line - step
        before, uncertain = mean, torch.linalg.inv(curvature).diagonal(dim1=1, dim2=2)
        mean = line.sum(dim=0) / (count + variance / reach)
        variance = ((line - mean).square().add(uncertain).sum(dim=0) + own) / (count + 1)
        if max(step.abs().max(), (mean - before).abs().max()) < LEAST_CHANGE:
            break
    slope = line[:, 0].exp()
    return slope, centre + line[:, 1] - slope * centre


def _quadratic(line: Tensor, offset: Tensor, centre: Tensor, truth: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (K, 2) and expected curvature (K, 2, 2) of the negative log-likelihood in log-slope and shift."""
    stretched = line[:, 0].exp() * offset
    chance = torch.sigmoid(centre + line[:, 1] + stretched)
    wrong, sure = mass * (chance - truth), mass * chance * (1 - chance)
    gradient = torch.stack([(wrong * stretched).sum(dim=0), wrong.sum(dim=0)], dim=-1)
    cross = (sure * stretched).sum(dim=0)
    rows = ((sure * stretched.square()).sum(dim=0), cross), (cross, sure.sum(dim=0))
    return gradient, torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


class Platt(nn.Module):
    """A line on the log-odds of each of K findings, kept with the weights; it changes nothing until it is ``set``.

    The weights of a model from before there were such lines load as those of one that is not calibrated.

    Args:
        findings: K.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, findings: int) -> None:
        super().__init__()
        self.register_buffer("slope", torch.ones(findings))
        self.register_buffer("intercept", torch.zeros(findings))
        self.register_load_state_dict_pre_hook(_identity_where_absent)  # type: ignore[no-untyped-call]

    def set(self, slope: Tensor, intercept: Tensor) -> None:
        """Take over a line, (K,) each."""
        self.slope.copy_(slope)
        self.intercept.copy_(intercept)

    def forward(self, logit: Tensor) -> Tensor:
        """Return calibrated log-odds, (B, K) float32, of log-odds (B, K)."""
        return logit.float() * self.slope + self.intercept


def _identity_where_absent(module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *args: object) -> None:
    if not any(name.startswith(prefix) for name in state_dict):
        fresh = Platt(len(cast(Platt, module).slope)).state_dict()
        cast(dict[str, Any], state_dict).update({prefix + name: value for name, value in fresh.items()})
