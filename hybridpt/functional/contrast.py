"""The two contrasts over all pairs of a joint batch, computed in blocks: memory grows with the batch, not with its square.

Nothing of N x N is ever held. Forwards, each block adds to the log-sum-exp of its rows and columns (as the streaming softmax of
Milakov & Gimelshein 2018, arXiv 1805.02867, and as Inf-CL does for contrast, Cheng et al. 2024, arXiv 2410.17243); backwards, each is
computed again from what was kept, vectors alone.

Of several processes each takes the rows of its own images against the texts of all, so the work is shared out: the log-sum-exp of the
columns is joined between them, images are never sent, and the gradients of texts are summed by ``gather``. Every process returns the loss of
the joint batch. Its gradients are its own share times the number of processes, since DDP then divides by that number.

Pairs that may not meet, such as those of two data sets, are neither positives nor negatives of each other: as if they were not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hybridpt.functional.gather import Shard
from hybridpt.functional.pairs import PairWeight

__all__ = ["sigmoid_contrast", "softmax_contrast"]

NEVER = -1e30
"""Logit of a pair that is not there; minus infinity times a weight of 0 would be nan."""


def softmax_contrast(
    image: Tensor,
    text: Tensor,
    weight: PairWeight,
    scale: Tensor,
    anchor: Tensor | None,
    meets: PairWeight | None,
    shard: Shard,
    block: int,
) -> Tensor:
    """Cross-entropy of the softmax over each row and each column against the weights of the pairs, each made to sum to one; their mean.

    With anchors row i and column i are multiplied by anchor i before the mean, which is still over all rows and columns: a pair of anchor
    0 learns nothing from its own two terms, and is a negative of the others as before.

    Args:
        image: Unit vectors of this process's images, (n, D) floating; computed in float32 or wider whatever the input.
        text: Unit vectors of all texts, (N, D) floating; image i belongs to text ``shard.first + i``.
        weight: Weights of the pairs by block, in [0, 1]; 1 for an image and its own text.
        scale: Inverse temperature, a positive scalar.
        anchor: What each pair counts for, (N,) floating, not negative, without a gradient; None for 1.
        meets: Which images and texts may meet, by block, of bool; every image its own text. None where all may.
        shard: Where this process's rows lie.
        block: Rows and columns of a block, from 1.

    Returns:
        Loss in nats, a scalar; zero with a zero gradient for fewer than two pairs, which have no negatives.
    """
    image, text, scale = _exact(image, text, scale)
    counts = text.new_ones(len(text)) if anchor is None else anchor.detach().to(text)
    loss: Tensor = _Softmax.apply(image, text, scale, counts, weight, meets, shard, block)
    return loss


def sigmoid_contrast(
    image: Tensor,
    text: Tensor,
    weight: PairWeight,
    scale: Tensor,
    bias: Tensor,
    anchor: Tensor | None,
    meets: PairWeight | None,
    shard: Shard,
    block: int,
) -> Tensor:
    """Logistic loss of each pair, positive where its weight is not zero; summed over the pairs and divided by the number of rows.

    With anchors the pair of image i and text j is multiplied by the mean of anchors i and j: half of its loss is the row's, half the
    column's.

    Args:
        image: As in ``softmax_contrast``.
        text: Likewise.
        weight: Likewise.
        scale: Likewise.
        bias: What is added to every logit, a scalar.
        anchor: As in ``softmax_contrast``.
        meets: Likewise.
        shard: Likewise.
        block: Likewise.

    Returns:
        Loss in nats, a scalar; zero with a zero gradient for no pair.
    """
    image, text, scale = _exact(image, text, scale)
    half = None if anchor is None else anchor.detach().to(text) / 2
    loss: Tensor = _Sigmoid.apply(image, text, scale, bias.to(scale), half, weight, meets, shard, block)
    return loss


def _exact(image: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """At scale 100 the rounding of bfloat16 would move a logit by .4."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    return image.to(dtype), text.to(dtype), scale.to(dtype)


class _Blocks:
    """The blocks of a process's rows and all columns, with what is known of each."""

    def __init__(
        self, image: Tensor, text: Tensor, weight: PairWeight, meets: PairWeight | None, shard: Shard, block: int
    ) -> None:
        self.image, self.text, self.weight, self.meets, self.shard, self.block = image, text, weight, meets, shard, block

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor | None]]:
        """Yield rows, columns, cosines, weights, and which pairs may not meet (None for none), the last three (r, c).

        What may not meet has no weight.
        """
        first = self.shard.first
        with torch.autocast(self.image.device.type, enabled=False):
            for r in range(0, len(self.image), self.block):
                rows = slice(r, min(r + self.block, len(self.image)))
                joint = slice(first + rows.start, first + rows.stop)
                for c in range(0, len(self.text), self.block):
                    columns = slice(c, min(c + self.block, len(self.text)))
                    weight = self.weight(joint, columns)
                    apart = None if self.meets is None else ~self.meets(joint, columns)
                    if apart is not None:
                        weight = weight.masked_fill(apart, 0)
                    yield rows, columns, self.image[rows] @ self.text[columns].T, weight, apart


def _logits(cosine: Tensor, scale: Tensor, apart: Tensor | None) -> Tensor:
    """Scale the cosines, in place; a pair that may not meet adds nothing to a softmax."""
    cosine *= scale
    return cosine if apart is None else cosine.masked_fill_(apart, NEVER)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        anchor: Tensor,
        weight: PairWeight,
        meets: PairWeight | None,
        shard: Shard,
        block: int,
    ) -> Tensor:
        sizes = (len(image), len(text))
        lse = [image.new_full((size,), -torch.inf) for size in sizes]
        mass = [image.new_zeros(size) for size in sizes]
        met = [image.new_zeros(size) for size in sizes]
        for rows, columns, cosine, target, apart in _Blocks(image, text, weight, meets, shard, block):
            logits = _logits(cosine, scale, apart)
            target = target.to(logits.dtype)
            for side, part in enumerate((rows, columns)):
                lse[side][part] = torch.logaddexp(lse[side][part], logits.logsumexp(dim=1 - side))
                mass[side][part] += target.sum(dim=1 - side)
            logits *= target
            for side, part in enumerate((rows, columns)):
                met[side][part] += logits.sum(dim=1 - side)
        lse[1], mass[1], met[1] = shard.logsumexp(lse[1]), shard.sum(mass[1]), shard.sum(met[1])
        ctx.blocks = (weight, meets, shard, block)
        counts = (anchor[shard.first : shard.first + len(image)], anchor)
        # anchor * exp(x - lse) is exp(x - (lse - log anchor)): exactly 0 for an anchor of 0, and no further pass over the pairs
        ctx.save_for_backward(
            image,
            text,
            scale,
            *(x - a.log() for x, a in zip(lse, counts, strict=True)),
            *(a / m for a, m in zip(counts, mass, strict=True)),
        )
        if len(text) < 2:
            return image.new_zeros(())
        by_row, by_column = ((a * (x - e / m)).sum() for a, x, e, m in zip(counts, lse, met, mass, strict=True))
        return (shard.sum(by_row) + by_column) / (2 * len(text))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, row_lse, column_lse, row_share, column_share = ctx.saved_tensors
        of_image, of_text = torch.zeros_like(image), torch.zeros_like(text)
        if len(text) >= 2:
            for rows, columns, cosine, target, apart in _Blocks(image, text, *ctx.blocks):
                logits = _logits(cosine, scale, apart)
                pull = torch.exp(logits - row_lse[rows, None])
                pull += logits.sub_(column_lse[columns]).exp_()
                pull -= target.to(pull.dtype) * (row_share[rows, None] + column_share[columns])
                with torch.autocast(image.device.type, enabled=False):
                    of_image[rows] += pull @ text[columns]
                    of_text[columns] += pull.T @ image[rows]
        share = gradient * ctx.blocks[2].world / (2 * max(1, len(text)))
        of_scale = share * (image * of_image).sum()
        return share * scale * of_image, share * scale * of_text, of_scale, None, None, None, None, None


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        half: Tensor | None,
        weight: PairWeight,
        meets: PairWeight | None,
        shard: Shard,
        block: int,
    ) -> Tensor:
        ctx.blocks = (weight, meets, shard, block)
        ctx.save_for_backward(image, text, scale, bias, half)
        total = image.new_zeros(())
        for rows, columns, cosine, target, apart in _Blocks(image, text, weight, meets, shard, block):
            logits = cosine.mul_(scale).add_(bias)
            loss = F.softplus(torch.where(target > 0, -logits, logits))
            total += _counted(loss, half, apart, rows, columns, shard).sum()
        return shard.sum(total) / max(1, len(text))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, text, scale, bias, half = ctx.saved_tensors
        of_image, of_text, of_bias = torch.zeros_like(image), torch.zeros_like(text), torch.zeros_like(bias)
        shard = ctx.blocks[2]
        for rows, columns, cosine, target, apart in _Blocks(image, text, *ctx.blocks):
            pull = torch.sigmoid_(cosine.mul_(scale).add_(bias)).sub_((target > 0).to(cosine.dtype))
            pull = _counted(pull, half, apart, rows, columns, shard)
            with torch.autocast(image.device.type, enabled=False):
                of_image[rows] += pull @ text[columns]
                of_text[columns] += pull.T @ image[rows]
            of_bias += pull.sum()
        share = gradient * shard.world / max(1, len(text))
        of_scale = share * (image * of_image).sum()
        return share * scale * of_image, share * scale * of_text, of_scale, share * of_bias, None, None, None, None, None


def _counted(block: Tensor, half: Tensor | None, apart: Tensor | None, rows: slice, columns: slice, shard: Shard) -> Tensor:
    """Multiply a block, in place, by what its pairs count for: the halves of row and column, and nothing where they may not meet."""
    if apart is not None:
        block.masked_fill_(apart, 0)
    if half is None:
        return block
    joint = slice(shard.first + rows.start, shard.first + rows.stop)
    return block.mul_(half[joint, None] + half[columns])
