"""Image-text contrast in which pairs of equal labels are positives (Yang et al. 2022, arXiv 2204.03610)."""

from __future__ import annotations

from torch import Tensor

from hybridpt.functional.contrast import softmax_contrast
from hybridpt.functional.gather import ALONE, Shard
from hybridpt.functional.pairs import BLOCK, same_dataset, same_label, same_report

__all__ = ["unicl_loss"]


def unicl_loss(
    image: Tensor,
    text: Tensor,
    study: Tensor,
    words: Tensor,
    label: Tensor,
    scale: Tensor,
    *,
    said: Tensor | None = None,
    anchor: Tensor | None = None,
    dataset: Tensor | None = None,
    shard: Shard = ALONE,
    block: int = BLOCK,
) -> Tensor:
    """InfoNCE over all pairs; a row's target is shared evenly by the pairs of equal labels, of its study and of the same text.

    This is UniCL as Silva-Rodriguez et al. 2025 (arXiv 2504.05227) set it beside DLILP: targets normalised over the equal-label pairs.

    Args:
        image: Unit vectors of this process's images, (n, D) floating.
        text: Unit vectors of the texts of all processes, (N, D) floating; image i belongs to text ``shard.first + i``.
        study: Number of the study of each pair, (N,) int64.
        words: Number of the distinct text of each pair, (N,) int64.
        label: Number of the class of each pair, (N,) int64; a negative one is unknown, and equal to none.
        scale: Inverse temperature, a positive scalar.
        said: As in ``clip_loss``.
        anchor: Likewise.
        dataset: Likewise.
        shard: Likewise.
        block: Likewise.

    Returns:
        Loss in nats, a scalar of float32 or wider; zero with a zero gradient for fewer than two pairs.
    """
    report, class_ = same_report(study, words, said), same_label(label)
    return softmax_contrast(
        image, text, lambda r, c: report(r, c) | class_(r, c), scale, anchor, same_dataset(dataset), shard, block
    )
