"""Report text to soft labels: fine-grained findings with state, probability and uncertainty, and the noise of every labeler."""

from __future__ import annotations

from collections.abc import Sequence

from labelers.agreement import Agreement, Scores, agreement, score
from labelers.channel import Channel, ChannelSet, estimate_channels, read_channels
from labelers.errors import InputError, UsageError
from labelers.fusion import Fusion, fuse
from labelers.io import Gold, read_gold, read_reports, read_table, write_table
from labelers.pool import Pool
from labelers.registry import Labeler, create
from labelers.types import STATES, LabelTable, Report, Vocabulary

__all__ = [
    "STATES",
    "Agreement",
    "Channel",
    "ChannelSet",
    "Fusion",
    "Gold",
    "InputError",
    "LabelTable",
    "Labeler",
    "Pool",
    "Report",
    "Scores",
    "UsageError",
    "Vocabulary",
    "agreement",
    "create",
    "estimate_channels",
    "fuse",
    "label",
    "read_channels",
    "read_gold",
    "read_reports",
    "read_table",
    "score",
    "write_table",
]
__version__ = "0.1.0"


def label(texts: Sequence[str | Report], labeler: str | Labeler = "context") -> LabelTable:
    """Label report texts.

    Args:
        texts: Reports, or bare texts; a bare text's id is its position, from "0".
        labeler: A name of ``labelers list``, ``package.module:Class``, or a labeler made by ``create``.

    Returns:
        One row a text, in the order given.

    Raises:
        UsageError: No labeler of that name.
        TypeError: A single string instead of a sequence.

    Example:
        >>> label(["No pleural effusion."], labeler="context").source
        'context'
    """
    if isinstance(texts, str):
        raise TypeError("label expects a sequence of texts, got one string; put it into a list")
    reports = [t if isinstance(t, Report) else Report(str(i), t) for i, t in enumerate(texts)]
    return (create(labeler) if isinstance(labeler, str) else labeler).label(reports)
