"""Image-text contrast by a logistic loss of each pair (Zhai et al. 2023, arXiv 2303.15343)."""

from __future__ import annotations

from torch import Tensor

from hybridpt.functional.contrast import sigmoid_contrast
from hybridpt.functional.gather import ALONE, Shard
from hybridpt.functional.pairs import BLOCK, same_dataset, same_report

__all__ = ["siglip_loss"]


def siglip_loss(
    image: Tensor,
    text: Tensor,
    study: Tensor,
    words: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    said: Tensor | None = None,
    anchor: Tensor | None = None,
    dataset: Tensor | None = None,
    shard: Shard = ALONE,
    block: int = BLOCK,
) -> Tensor:
    """Sum over the pairs of -log sigmoid(+-(scale cos + bias)), divided by N; the sign is + for pairs of one study or the same text.

    Args:
        image: Unit vectors of this process's images, (n, D) floating.
        text: Unit vectors of the texts of all processes, (N, D) floating; image i belongs to text ``shard.first + i``.
        study: Number of the study of each pair, (N,) int64.
        words: Number of the distinct text of each pair, (N,) int64.
        scale: Inverse temperature, a positive scalar.
        bias: Log-odds of a pair of cosine 0, a scalar.
        said: As in ``clip_loss``.
        anchor: What each pair counts for, (N,) floating, not negative; that of image i and text j counts the mean of both. None for 1.
        dataset: As in ``clip_loss``.
        shard: As in ``clip_loss``.
        block: Likewise.

    Returns:
        Loss in nats, a scalar of float32 or wider; zero with a zero gradient for no pair.
    """
    return sigmoid_contrast(
        image, text, same_report(study, words, said), scale, bias, anchor, same_dataset(dataset), shard, block
    )
