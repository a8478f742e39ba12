"""Image-text contrast whose targets follow how alike the findings of two studies are."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridpt.functional.contrast import softmax_contrast
from hybridpt.functional.gather import ALONE, Shard
from hybridpt.functional.pairs import BLOCK, affinity, same_dataset, same_report

__all__ = ["soft_clip_loss"]


def soft_clip_loss(
    image: Tensor,
    text: Tensor,
    study: Tensor,
    words: Tensor,
    posterior: Tensor,
    known: Tensor,
    scale: Tensor,
    *,
    said: Tensor | None = None,
    anchor: Tensor | None = None,
    dataset: Tensor | None = None,
    shard: Shard = ALONE,
    block: int = BLOCK,
) -> Tensor:
    """InfoNCE against targets in proportion to the likeness of the label posteriors; one study or the same text counts as alike in all.

    Soft targets from labels as in MedCLIP (Wang et al. 2022, arXiv 2210.10163), with the Bhattacharyya coefficient of the posteriors
    for the likeness: under certain labels it is ``unicl_loss``, and a finding that nobody is sure of tells few pairs apart.

    Args:
        image: Unit vectors of this process's images, (n, D) floating.
        text: Unit vectors of the texts of all processes, (N, D) floating; image i belongs to text ``shard.first + i``.
        study: Number of the study of each pair, (N,) int64.
        words: Number of the distinct text of each pair, (N,) int64.
        posterior: P(present) of each finding, (N, K) floating in [0, 1].
        known: True where anything is known of the study's findings, (N,) bool; others are like none but their own.
        scale: Inverse temperature, a positive scalar.
        said: As in ``clip_loss``.
        anchor: Likewise.
        dataset: Likewise.
        shard: Likewise.
        block: Likewise.

    Returns:
        Loss in nats, a scalar of float32 or wider; zero with a zero gradient for fewer than two pairs.
    """
    report, alike = same_report(study, words, said), affinity(posterior, known)

    def weight(rows: slice, columns: slice) -> Tensor:
        likeness = alike(rows, columns)
        return torch.where(report(rows, columns), likeness.new_ones(()), likeness)

    return softmax_contrast(image, text, weight, scale, anchor, same_dataset(dataset), shard, block)
