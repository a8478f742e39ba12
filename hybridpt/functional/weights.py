"""What each labeler counts for: one vote among siblings, the channel's bits, a learned variance, and how well text fits images."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "LearnedWeights",
    "SourceWeights",
    "analytic_weights",
    "mean_over_labelers",
    "relative_weights",
    "sibling_votes",
    "sum_over_labelers",
    "text_weights",
]

LOWEST = -3.0
"""Floor of a log-variance: without it a source that is learned by heart gets an infinite weight."""
FEWEST = 5.0
"""Expected images with and without a finding below which a data set says nothing about it."""
LEAST = 0.1
"""Weight of the best data set below which the image model is too poor a judge (an AUROC of 0.55) to compare any."""


class SourceWeights(NamedTuple):
    """How the losses of several labelers are weighed against each other.

    Attributes:
        siblings: True where two labelers share their errors, and on the diagonal, (S, S) bool; None for no siblings.
        scale: What the loss of a labeler is multiplied by, broadcast to (B, S, K); None for 1.
        offset: What is added to it after that, broadcast to (B, S, K); None for 0.
    """

    siblings: Tensor | None = None
    scale: Tensor | None = None
    offset: Tensor | None = None


ALIKE = SourceWeights()
"""All labelers count alike."""


def sibling_votes(counted: Tensor, siblings: Tensor | None) -> Tensor:
    """Give every group of siblings one vote in each cell, shared among those of them that judged it.

    Args:
        counted: True where a labeler's word counts, (B, S, K) bool.
        siblings: True where two labelers are siblings, and on the diagonal, (S, S) bool; None for no siblings.

    Returns:
        Votes in [0, 1], (B, S, K) float32: 1 / (siblings that judged the cell, oneself among them), 0 where not counted.
    """
    votes = counted.float()
    if siblings is None:
        return votes
    return votes / torch.einsum("bsk,st->btk", votes, siblings.to(votes.dtype)).clamp(min=1)


def _weighed(loss: Tensor, counted: Tensor, sources: SourceWeights) -> tuple[Tensor, Tensor]:
    votes = sibling_votes(counted, sources.siblings).to(loss.dtype)
    if sources.scale is not None:
        loss = loss * sources.scale
    if sources.offset is not None:
        loss = loss + sources.offset
    return votes * loss, votes


def sum_over_labelers(loss: Tensor, counted: Tensor, sources: SourceWeights = ALIKE) -> Tensor:
    """Add up the losses of independent witnesses: (B, S, K) floating and (B, S, K) bool to (B, K)."""
    return _weighed(loss, counted, sources)[0].sum(dim=1)


def mean_over_labelers(loss: Tensor, counted: Tensor, sources: SourceWeights = ALIKE) -> Tensor:
    """Average the losses of the labelers that count, by their votes: (B, S, K) floating and (B, S, K) bool to (B, K).

    ``scale`` is not divided out: a cell that only a poor source judged counts for as little as that source is worth.
    """
    loss, votes = _weighed(loss, counted, sources)
    return loss.sum(dim=1) / votes.sum(dim=1).clamp(min=1)  # a cell that anybody judged has at least one vote


def analytic_weights(bits: Tensor) -> Tensor:
    """Turn what the channels tell into weights: for each finding the best source counts 1, the others by their share of its bits.

    Args:
        bits: Mutual information of state and truth by data set, labeler and finding, (D, S, K), not negative.

    Returns:
        (D, S, K) in [0, 1]; zero for a finding that no source tells anything of.
    """
    return bits / bits.amax(dim=(0, 1), keepdim=True).clamp(min=torch.finfo(bits.dtype).tiny)


class LearnedWeights(nn.Module):
    """One log-variance v a data set and labeler, learned with the model: a loss l becomes exp(-v) l + v / 2.

    The weights of Kendall et al. 2018 (arXiv 1705.07115) with sources in the place of tasks. The optimum is exp(-v) = 1 / (2 l): what
    the model cannot predict counts little. v is kept above ``LOWEST``.

    Args:
        datasets: D.
        labelers: S.
    """

    def __init__(self, datasets: int, labelers: int) -> None:
        super().__init__()
        self.shape = (datasets, labelers)
        # kept flat, since vectors do not decay; softplus of the start is such that v = 0
        self.raw = nn.Parameter(torch.full((datasets * labelers,), -LOWEST).expm1().log())

    @property
    def log_variance(self) -> Tensor:
        """v, (D, S)."""
        return LOWEST + F.softplus(self.raw).view(self.shape)

    def forward(self, dataset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale exp(-v) and the offset v / 2 of each sample's data set, (B, S, 1) each; ``dataset`` is (B,) int64."""
        v = self.log_variance[dataset].unsqueeze(-1)
        return torch.exp(-v), v / 2


def text_weights(image: Tensor, text: Tensor, known: Tensor, dataset: Tensor, datasets: int) -> Tensor:
    """Estimate how well each data set's reports describe its images, from images that the image model was not trained on.

    Somers' D, 2 * AUROC - 1, of the image model's score for what the text says, averaged over findings by the images behind each: of a
    pair of images of which the text calls one ill and the other not, how much more often does the model agree than disagree? A
    probability p of the text counts as p of an ill image and 1 - p of another. The order alone counts, so neither calibration nor
    prevalence matters. Texts of which a share q belong to other images get about 1 - q of what true ones get. It measures text and image
    model together; between data sets it compares texts only as far as the model reads their images equally well.

    Args:
        image: P(present) by the image model, (N, K) floating.
        text: P(present) by what labelers make of the text, (N, K) floating in [0, 1].
        known: True where the text was judged, (N, K) bool.
        dataset: Index of the data set, (N,) int64.
        datasets: D; rows of other indices are left out.

    Returns:
        Weights in [0, 1], (D,) float64; nan where fewer than ``FEWEST`` images with and without any finding are known.
    """
    return torch.stack([_text_weight(image[mine], text[mine], known[mine]) for mine in (dataset == d for d in range(datasets))])


def relative_weights(weights: Tensor) -> Tensor:
    """Turn what ``text_weights`` estimates into what data sets count for in a loss, beside the best one.

    Args:
        weights: (D,) floating in [0, 1], nan where nothing is known.

    Returns:
        (D + 1,) floating in [0, 1]: 1 for the best and, since nothing speaks against them, for those of which nothing is known, and in
        the last place for all others; all 1 while the best is below ``LEAST``.
    """
    best = weights.nan_to_num(0).max()
    share = (weights / best).nan_to_num(1) if best >= LEAST else torch.ones_like(weights)
    return torch.cat([share, share.new_ones(1)])


def _text_weight(image: Tensor, text: Tensor, known: Tensor) -> Tensor:
    total, behind = torch.zeros((), dtype=torch.float64), 0.0
    for k in range(image.shape[1]):
        score, ill = image[known[:, k], k].double().cpu(), text[known[:, k], k].double().cpu()
        count = min(float(ill.sum()), float((1 - ill).sum()))
        if count >= FEWEST:
            total, behind = total + count * _somers(score, ill, 1 - ill), behind + count
    return (total / behind).clamp(0, 1) if behind else torch.tensor(torch.nan, dtype=torch.float64)


def _somers(score: Tensor, ill: Tensor, well: Tensor) -> Tensor:
    """2 * AUROC - 1 of scores with soft classes, ties counting half; all (n,)."""
    _, place = torch.unique(score, return_inverse=True)  # sorted
    ills, wells = (torch.zeros(int(place.max()) + 1, dtype=w.dtype).index_add_(0, place, w) for w in (ill, well))
    below = wells.cumsum(0) - wells
    above = wells.sum() - below - wells
    return (ills * (below - above)).sum() / (ills.sum() * wells.sum())
