"""Losses, gradients and scores that are not finite: noticed without holding up the GPU, and told in a file beside the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch
import torch.distributed as dist
from lightning import Trainer
from torch import Tensor

from hybridpt.batch import Batch
from labelers.errors import InputError
from labelers.io import atomic_path

__all__ = ["FiniteWatch", "Trouble", "nonfinite_path", "stop_for"]


COLUMNS = ("dataset", "study_id", "image")
_Share = tuple[list[str], list[int], dict[str, list[int]]]
"""Names of what is not finite, rows of the batch, and those that were not finite before any computation."""


@dataclass(frozen=True)
class Trouble:
    """Values that are not finite.

    Attributes:
        stage: train, val, test or predict.
        epoch: Counted from 0.
        step: Steps of the optimizer before it.
        rows: Rows of the manifest that they were computed from, one tensor a batch.
        batch: The batch itself, where there is just one.
        names: What the values are called.
    """

    stage: str
    epoch: int
    step: int
    rows: tuple[Tensor, ...]
    batch: Batch | None = None
    names: tuple[str, ...] = ()


class FiniteWatch:
    """Looks whether scalars are finite, on any process of a distributed run: all must look at the same points, and stop together.

    Reading a value back at every step would make the CPU wait for the GPU before it could queue the next step. So the flags are copied
    to pinned memory behind the kernels that make them and read at the next look, when they have long arrived: on a GPU a stop comes
    one look late, and names the right batch all the same. On a CPU it comes at once.
    """

    def __init__(self) -> None:
        self._open: list[tuple[Tensor, Any, Trouble]] = []

    def look(self, values: Mapping[str, Tensor], suspect: Trouble) -> Trouble | None:
        """Look at named scalars, and return the first trouble that is known by now.

        Args:
            values: Scalars by name.
            suspect: What is to be said of them, but for the names.
        """
        known = self.settle()
        flags, arrived = _sent(_everywhere(torch.stack([value.detach().float() for value in values.values()]).isfinite()))
        self._open.append((flags, arrived, replace(suspect, names=tuple(values))))
        return known if known is not None or arrived is not None else self.settle()

    def settle(self) -> Trouble | None:
        """Wait for all looks taken so far, and return the first trouble among them."""
        looks, self._open = self._open, []
        for flags, arrived, suspect in looks:
            if arrived is not None:
                arrived.synchronize()
            if not bool(flags.all()):
                return replace(suspect, names=tuple(n for n, fine in zip(suspect.names, flags.tolist(), strict=True) if not fine))
        return None


def _everywhere(flags: Tensor) -> Tensor:
    """Return which flags are set on all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return flags
    least = flags.to(torch.uint8)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return least.bool()


def _sent(flags: Tensor) -> tuple[Tensor, Any]:
    """Send flags to the CPU, and return them with the event that they have arrived, or None where they are there already."""
    if not flags.is_cuda:
        return flags, None
    copy = flags.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream())
    return copy, arrived


def nonfinite_path(trainer: Trainer) -> Path:
    """Where a run writes down trouble."""
    return Path(trainer.default_root_dir) / "nonfinite.json"


def stop_for(trouble: Trouble, manifest: pd.DataFrame, path: Path) -> NoReturn:
    """Write down where the trouble is, and stop; all processes of a distributed run must call it at the same point.

    Args:
        trouble: What is not finite.
        manifest: Rows with data set, study and image.
        path: The JSON file to write. It alone names studies and images: it stays beside the run, logs travel.

    Raises:
        InputError: Always, but that the others leave what is to be said to the first process and end.
    """
    numbers = [number for rows in trouble.rows for number in rows.tolist()]
    names, numbers, inputs = _joined((list(trouble.names), numbers, _inputs(trouble.batch, numbers)))
    body = {
        "stage": trouble.stage,
        "epoch": trouble.epoch,
        "step": trouble.step,
        "not_finite": names,
        "not_finite_in_the_input": inputs,
        "images": [{"row": number + 1, **{c: str(manifest[c].iloc[number]) for c in COLUMNS}} for number in numbers],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1), encoding="utf-8")
    advice = "or lower --model.lr, then go on from the last checkpoint" if trouble.stage == "train" else "then run again"
    raise InputError(
        f"{', '.join(names)} not finite ({trouble.stage}, epoch {trouble.epoch}, step {trouble.step}); {path} names the "
        f"{len(numbers)} images of the batch; mend or remove them, {advice}"
    )


def _joined(share: _Share) -> _Share:
    """Join what all processes know of the trouble."""
    if not (dist.is_available() and dist.is_initialized()):
        return share
    shares: list[_Share] = [share] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    if dist.get_rank():
        raise SystemExit(0)
    kinds = dict.fromkeys(kind for *_, inputs in shares for kind in inputs)
    return (
        list(dict.fromkeys(name for names, *_ in shares for name in names)),
        [number for _, numbers, _ in shares for number in numbers],
        {kind: [row for *_, inputs in shares for row in inputs.get(kind, [])] for kind in kinds},
    )


def _inputs(batch: Batch | None, numbers: list[int]) -> dict[str, list[int]]:
    """What was not finite before any computation, with the rows, which count from 1 under the manifest's header."""
    if batch is None:
        return {}
    tensors = {"image": batch["image"], "probability": batch["probability"], **batch["views"]}  # truth is nan where nobody judged
    spoilt = {name: (~values.isfinite().flatten(1).all(dim=1)).tolist() for name, values in tensors.items()}
    return {name: [n + 1 for n, bad in zip(numbers, flags, strict=True) if bad] for name, flags in spoilt.items() if any(flags)}
