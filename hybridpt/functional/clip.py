"""Image-text contrast (Radford et al. 2021, arXiv 2103.00020), in which what says the same is never a negative."""

from __future__ import annotations

from torch import Tensor

from hybridpt.functional.contrast import softmax_contrast
from hybridpt.functional.gather import ALONE, Shard
from hybridpt.functional.pairs import BLOCK, same_dataset, same_report

__all__ = ["clip_loss"]


def clip_loss(
    image: Tensor,
    text: Tensor,
    study: Tensor,
    words: Tensor,
    scale: Tensor,
    *,
    said: Tensor | None = None,
    anchor: Tensor | None = None,
    dataset: Tensor | None = None,
    shard: Shard = ALONE,
    block: int = BLOCK,
) -> Tensor:
    """InfoNCE over all pairs; a row's target is shared evenly by the pairs of its study and those whose text its report says as well.

    Args:
        image: Unit vectors of this process's images, (n, D) floating.
        text: Unit vectors of the texts of all processes, (N, D) floating; image i belongs to text ``shard.first + i``.
        study: Number of the study of each pair, (N,) int64; equal numbers are positives.
        words: Number of the distinct text of each pair, (N,) int64; equal numbers are positives.
        scale: Inverse temperature, a positive scalar.
        said: Numbers of all texts that the report of each pair could have been drawn as, (N, U) int64, -1 beyond the last; None where
            that is the text alone.
        anchor: What each pair counts for, (N,) floating, not negative: its row and its column are multiplied by it, and the sum still
            divided by the number of all; as negatives of others all pairs count alike. None for 1.
        dataset: Number of the data set of each pair, (N,) int64: images and texts of two data sets are neither positives nor negatives
            of each other. None where all may be.
        shard: Where this process's rows lie; one process has all, n = N.
        block: Rows and columns computed at a time; memory grows with N, not with its square.

    Returns:
        Loss in nats, a scalar of float32 or wider; zero with a zero gradient for a pair that has no other to be told from.
    """
    return softmax_contrast(image, text, same_report(study, words, said), scale, anchor, same_dataset(dataset), shard, block)
