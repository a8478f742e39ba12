"""One contrastive loss, forward and backward, in a process of its own; prints seconds and memory as JSON. Started by run.py.

``contrast.py LOSS SIDE N DEVICE PRECISION SECONDS``: clip or siglip, ours or open_clip, rows, cpu or cuda, float32 or bf16, time to spend.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import autocast, median, seconds
from torch import Tensor

DIM = 512
MOST = 20
"""Repeats at the most; none is begun once the time to spend is over, so that of the largest there may be one."""


def ours(loss: str, rows: int, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """This project's loss, every pair of a study and a text of its own."""
    from hybridpt.functional import clip_loss, siglip_loss

    number = torch.arange(rows, device=device)
    if loss == "clip":
        return lambda image, text, scale, bias: clip_loss(image, text, number, number, scale)
    return lambda image, text, scale, bias: siglip_loss(image, text, number, number, scale, bias)


def open_clip(loss: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """open_clip's loss as it is for one process."""
    from open_clip.loss import ClipLoss, SigLipLoss

    if loss == "clip":
        made = ClipLoss()
        return lambda image, text, scale, bias: made(image, text, scale)
    pairs = SigLipLoss()
    return lambda image, text, scale, bias: pairs(image, text, scale, bias)


def held(device: torch.device) -> float:
    """Most memory held so far, in MB: torch's on a GPU, the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure."""
    name, side, rows, device_name, precision, budget = sys.argv[1:7]
    device, count = torch.device(device_name), int(rows)
    loss = ours(name, count, device) if side == "ours" else open_clip(name)
    generator = torch.Generator().manual_seed(0)
    image, text = (
        F.normalize(torch.randn(count, DIM, generator=generator), dim=-1).to(device).requires_grad_() for _ in range(2)
    )
    scale, bias = (torch.tensor(value, device=device, requires_grad=True) for value in (14.3, -10.0))

    def step(n: int = count) -> None:
        with autocast(device, precision):
            value = loss(image[:n], text[:n], scale, bias)
        value.backward()
        for tensor in (image, text, scale, bias):
            tensor.grad = None

    if device.type == "cuda":
        step()  # kernels are chosen and compiled at first use
        torch.cuda.reset_peak_memory_stats(device)
    before, begun, taken = held(device), time.perf_counter(), []
    while len(taken) < MOST and (not taken or time.perf_counter() - begun < float(budget)):
        taken.append(seconds(step, device))
    middle, low, high = median(taken)
    version = importlib.metadata.version("hybridpt" if side == "ours" else "open_clip_torch")
    figures = {"seconds": middle, "seconds_low": low, "seconds_high": high, "repeats": len(taken)}
    print(json.dumps({**figures, "peak_mb": held(device) - (before if device.type == "cpu" else 0.0), "version": version}))


if __name__ == "__main__":
    main()
