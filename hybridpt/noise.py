"""What was measured of the sources, as the tensors that a loss gathers from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hybridpt.functional.pool import Pool
from labelers.channel import ALL_DATASETS, ChannelSet, channel_information
from labelers.errors import UsageError
from labelers.rows import PRIOR_ROWS

__all__ = ["Evidence", "channel_bits", "channel_evidence", "log_channels", "pool_of", "sibling_matrix"]

MOST_LABELERS = 16
"""Labelers of one model: who looked is a row of a table of 2 ** S."""
UNBOUNDED = (-1e4, 1e4)
"""Evidence in nats that nothing limits; finite, since a running mean of buffers makes nan of infinities."""


def log_channels(
    channels: ChannelSet | None, labelers: Sequence[str], datasets: Sequence[str], findings: Sequence[str]
) -> Tensor:
    """Lay out channels by data set, labeler and finding.

    A data set has its own channel where there is one, else that of all data sets. Where nothing was measured (no channel, or one
    that was refused) every state is equally likely under both truths: it tells nothing, and the loss has no gradient there.

    Args:
        channels: What was measured; None for nothing.
        labelers: S names.
        datasets: D names; a last entry stands for every data set that is not among them.
        findings: K names.

    Returns:
        log P(state | truth), (D + 1, S, K, 2, 4) float32.
    """
    matrix = np.full((len(datasets) + 1, len(labelers), len(findings), 2, 4), 0.25)
    if channels is not None:
        for d, dataset in enumerate([*datasets, ALL_DATASETS]):
            for s, labeler in enumerate(labelers):
                for k, finding in enumerate(findings):
                    channel = channels.find(labeler, dataset, finding)
                    if channel is not None:
                        matrix[d, s, k] = channel.matrix
    return torch.tensor(np.log(matrix), dtype=torch.float32)


def channel_bits(
    channels: ChannelSet | None,
    labelers: Sequence[str],
    datasets: Sequence[str],
    findings: Sequence[str],
    prevalence: Sequence[float],
) -> Tensor:
    """Return what a state tells of the truth in bits, (D + 1, S, K) float32 laid out as ``log_channels``; 0 where nothing was measured.

    Args:
        channels: What was measured; None for nothing.
        labelers: S names.
        datasets: D names.
        findings: K names.
        prevalence: P(present) of each finding, K numbers; the same for all data sets, so that sources can be compared.
    """
    matrix = log_channels(channels, labelers, datasets, findings).double().exp().numpy()
    bits = [[[channel_information(m, p) for m, p in zip(row, prevalence, strict=True)] for row in part] for part in matrix]
    return torch.tensor(bits, dtype=torch.float32).view(matrix.shape[:3]).clamp(min=0)


def sibling_matrix(channels: ChannelSet | None, labelers: Sequence[str]) -> Tensor:
    """Return where two labelers share their errors, as their fusion found, and the diagonal, (S, S) bool."""
    groups = () if channels is None or channels.fusion is None else channels.fusion.siblings
    related = [
        [one == other or any(one in group and other in group for group in groups) for other in labelers] for one in labelers
    ]
    return torch.tensor(related, dtype=torch.bool).view(len(labelers), len(labelers))


def pool_of(channels: ChannelSet | None, labelers: Sequence[str], findings: Sequence[str]) -> Pool:
    """Lay out how far the labelers' channels add up; where no gold told it, siblings share one vote, and others are independent.

    Args:
        channels: What was measured; None for nothing.
        labelers: S names.
        findings: K names.

    Raises:
        UsageError: More than ``MOST_LABELERS`` labelers.
    """
    size = len(labelers)
    if size > MOST_LABELERS:
        raise UsageError(f"expected {MOST_LABELERS} labelers or fewer, got {size}; fuse some of them with 'labelers fuse'")
    who = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    strongest = np.array([UNBOUNDED] * len(findings)).reshape(len(findings), 2)
    fitted = None if channels is None else channels.pool
    if fitted is None:
        related = sibling_matrix(channels, labelers).numpy().astype(np.float64)
        exponents = who / np.maximum(who @ related, 1)
    else:
        exponents = np.zeros((2**size, size))
        for row in who.astype(bool):
            exponents[int((row << np.arange(size)).sum()), row] = fitted.of(
                [name for name, here in zip(labelers, row, strict=True) if here]
            )
        strongest = np.array([fitted.strongest.get(finding, UNBOUNDED) for finding in findings]).reshape(len(findings), 2)
    return Pool(torch.tensor(exponents, dtype=torch.float32), torch.tensor(strongest, dtype=torch.float32))


class Evidence(NamedTuple):
    """What gold says of channels that are learned, as parameters of Dirichlet densities.

    Attributes:
        rows: Gold rows by truth and state, and those of the prior, (D + 1, S, K, 2, 4) float32; zero where a data set has no channel of
            its own.
        owner: Index of the data set whose channel is used: one's own, or D, (D + 1, S, K) int64.
    """

    rows: Tensor
    owner: Tensor


def channel_evidence(
    channels: ChannelSet | None, labelers: Sequence[str], datasets: Sequence[str], findings: Sequence[str]
) -> Evidence:
    """Return the gold behind each channel, laid out as ``log_channels``: what was counted, and ``PRIOR_ROWS`` of the labeler's mean."""
    shape = (len(datasets) + 1, len(labelers), len(findings))
    rows = np.zeros((*shape, 2, 4))
    owner = np.full(shape, len(datasets), np.int64)
    for s, labeler in enumerate(labelers):
        by_dataset = {} if channels is None else channels.channels.get(labeler, {})
        for d, dataset in enumerate([*datasets, ALL_DATASETS]):
            for k, finding in enumerate(findings):
                channel = by_dataset.get(dataset, {}).get(finding)
                if channel is not None:
                    # the matrix is the mean of that density, so this is counts + PRIOR_ROWS * mean row, kept above the floor
                    rows[d, s, k] = channel.matrix * (channel.counts.sum(axis=1, keepdims=True) + PRIOR_ROWS)
                    owner[d, s, k] = d
    return Evidence(torch.tensor(rows, dtype=torch.float32), torch.tensor(owner))
