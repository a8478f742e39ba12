"""Which image belongs to which text, asked for one block of the N x N pairs at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BLOCK", "PairWeight", "affinity", "same_dataset", "same_label", "same_report"]

BLOCK = 2048
"""Rows and columns of a block; 16 MiB a block of float32, whatever the batch."""

PairWeight = Callable[[slice, slice], Tensor]
"""Maps rows (images) and columns (texts) of the joint batch to their block, (r, c), of bool or of numbers in [0, 1]."""


def same_report(study: Tensor, words: Tensor, said: Tensor | None = None) -> PairWeight:
    """Pairs that are true of each other: image and text of one study, or a text that the image's report says as well.

    Args:
        study: Number of the study of each pair, (N,) int64.
        words: Number of the distinct text of each pair, (N,) int64.
        said: Numbers of all texts that the report of each pair could have been drawn as, (N, U) int64, -1 beyond the last; None where
            that is the text alone.

    Returns:
        The weight, of bool.
    """
    own = words.unsqueeze(1) if said is None else said

    def weight(rows: slice, columns: slice) -> Tensor:
        same = study[rows, None] == study[columns]
        for number in own[rows].T:
            same |= number[:, None] == words[columns]
        return same

    return weight


def same_label(label: Tensor) -> PairWeight:
    """Pairs of equal labels.

    Args:
        label: Number of the class of each pair, (N,) int64; a negative one is unknown, and equal to none.

    Returns:
        The weight, of bool.
    """
    return lambda rows, columns: (label[rows, None] == label[columns]) & (label[rows, None] >= 0)


def same_dataset(dataset: Tensor | None) -> PairWeight | None:
    """Pairs of one data set.

    Args:
        dataset: Number of the data set of each pair, (N,) int64; None where all are of one.

    Returns:
        The weight, of bool; None where all are of one.
    """
    return None if dataset is None else lambda rows, columns: dataset[rows, None] == dataset[columns]


def affinity(posterior: Tensor, known: Tensor) -> PairWeight:
    """How alike the posteriors of two studies are: their Bhattacharyya coefficient, findings taken as independent.

    prod over k of sqrt(p q) + sqrt((1 - p)(1 - q)) (Bhattacharyya 1943, Bull. Calcutta Math. Soc. 35): 1 for equal posteriors, and
    for certain ones 1 where all findings agree, else 0.

    Args:
        posterior: P(present) of each finding, (N, K) floating in [0, 1].
        known: True where anything is known of the study, (N,) bool; others are like none.

    Returns:
        The weight, of float32 or wider.
    """
    p = posterior.to(torch.promote_types(posterior.dtype, torch.float32))
    present, absent = p.sqrt(), (1 - p).sqrt()

    def weight(rows: slice, columns: slice) -> Tensor:
        alike = (known[rows, None] & known[columns]).to(p.dtype)
        for k in range(p.shape[1]):
            alike *= torch.outer(present[rows, k], present[columns, k]).addr_(absent[rows, k], absent[columns, k])
        return alike.clamp_(max=1)

    return weight
