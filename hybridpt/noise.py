"""Channels of the sources as the tensors that a loss gathers from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from labelers.channel import ALL_DATASETS, ChannelSet

__all__ = ["log_channels"]


def log_channels(
    channels: ChannelSet | None, labelers: Sequence[str], datasets: Sequence[str], findings: Sequence[str]
) -> Tensor:
    """Lay out channels by data set, labeler and finding.

    Where nothing was measured (no channel, or one that was refused) every state is equally likely under both truths: it tells
    nothing, and the loss has no gradient there.

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
