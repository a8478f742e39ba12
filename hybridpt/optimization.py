"""What the optimizer is given: which weights decay, how fast each layer learns, which stay as they are, and the rate over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hybridpt.encoders import ImageEncoder
from labelers.errors import UsageError

__all__ = ["adamw", "freeze_layers", "move", "parameter_groups", "undecayed", "warmup_cosine"]

FUSED_ON = {"cpu", "cuda"}
"""Devices on which one kernel updates all of a weight; every other takes several passes over memory."""

UNDECAYED = ("prototypes", "position", "pos_embed", "cls_token", "reg_token", "mask_token")
"""Last parts of the names of matrices that are no weights of a layer."""


def parameter_groups(
    model: nn.Module,
    encoder: ImageEncoder | None,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    spared: set[int] | None = None,
) -> list[dict[str, Any]]:
    """Sort the trained parameters into groups of an optimizer.

    Vectors and scalars (norms, biases, temperatures), embeddings and prototypes do not decay. With a layer decay g the layers of the image
    encoder learn at lr * g ** (distance from its end), the last at lr * g, as is usual in fine-tuning (Bao et al., BEiT, 2022).

    Args:
        model: All that may be trained.
        encoder: Its image encoder, None where it has none.
        lr: Rate of everything above the image encoder.
        weight_decay: Of the rest.
        layer_decay: g in (0, 1]; 1 for one rate.
        spared: What ``undecayed`` said of the model before its parameters were sharded, which flattens them; None to ask it now.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``, none empty.
    """
    rates: dict[int, float] = {}
    if encoder is not None and layer_decay != 1:
        layers = encoder.layers()
        for number, layer in enumerate(layers):
            rates.update({id(p): lr * layer_decay ** (len(layers) - number) for p in layer})
    spared = undecayed(model) if spared is None else spared
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in model.parameters():
        if p.requires_grad:
            key = (rates.get(id(p), lr), 0.0 if id(p) in spared else weight_decay)
            groups.setdefault(key, []).append(p)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def adamw(groups: list[dict[str, Any]], lr: float, scaled: bool = False) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter, 2019) over ``parameter_groups``, fused wherever it can be.

    Args:
        groups: With ``params``, ``lr`` and ``weight_decay``.
        lr: Rate of a group that names none.
        scaled: Whether a gradient scaler stands before it (float16): a fused one takes the scale out by itself, too late to clip.
    """
    devices = {p.device.type for group in groups for p in group["params"]}
    return torch.optim.AdamW(groups, lr=lr, fused=not scaled and devices <= FUSED_ON)


def undecayed(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that do not decay: vectors and scalars, embeddings, and what ``UNDECAYED`` names."""
    ids = {id(p) for n, p in model.named_parameters() if p.ndim < 2 or n.rpartition(".")[2] in UNDECAYED}
    return ids | {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}


def freeze_layers(encoder: ImageEncoder, count: int) -> list[nn.Module]:
    """Keep the first layers of an image encoder as they are.

    Args:
        encoder: The encoder.
        count: Number of layers from the input on; -1 for all.

    Returns:
        The modules whose every parameter is frozen, whose running statistics and dropout must not move either.

    Raises:
        UsageError: It has fewer layers.
    """
    layers = encoder.layers()
    if not -1 <= count <= len(layers):
        raise UsageError(
            f"--model.frozen_layers: expected -1 (all) or a number from 0 to {len(layers)}, the layers there are, got {count}"
        )
    for layer in layers if count == -1 else layers[:count]:
        for p in layer:
            p.requires_grad_(False)
    return [m for m in encoder.modules() if (own := list(m.parameters())) and not any(p.requires_grad for p in own)]


def move(schedule: torch.optim.lr_scheduler.LambdaLR, step: int) -> None:
    """Let a schedule go on at a step, if it does not stand there."""
    if schedule.last_epoch != step:
        schedule.last_epoch = step
        rates = [rate * factor(step) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates  # as its own step leaves it


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a schedule: a linear rise over a share of the steps, then a cosine that ends at zero with the last step.

    Args:
        optimizer: Whose groups keep the ratios of their rates.
        steps: Steps of the whole training.
        warmup: Share of them in which the rate rises, in [0, 1).
    """
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
