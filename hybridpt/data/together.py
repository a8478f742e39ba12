"""A mistake that any process of a distributed run meets is told once, and ends them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from labelers.errors import InputError, UsageError

__all__ = ["together"]


@contextmanager
def together() -> Iterator[None]:
    """Fail on all processes where the block fails on one; all must enter it at the same point.

    Raises:
        InputError: On the first process, whichever met it; the others end, and leave it to the first to say what is wrong.
        UsageError: Likewise.
    """
    met: InputError | UsageError | None = None
    try:
        yield
    except (InputError, UsageError) as error:
        met = error
    if dist.is_available() and dist.is_initialized():
        errors: list[InputError | UsageError | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, met)
        met = next((error for error in errors if error is not None), None)
        if met is not None and dist.get_rank():
            raise SystemExit(0)  # a status of failure would make Lightning kill the first process on its way out
    if met is not None:
        raise met
