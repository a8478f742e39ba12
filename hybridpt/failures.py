"""What a machine that is too small does to a run, in one line with what to do."""

from __future__ import annotations

import re

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from labelers.errors import InputError, UsageError

__all__ = ["explained"]

ABOUT_AN_OPTION = re.compile(r"\s*`[a-z_]+` \([^)]*\) must ")
"""How Lightning begins what it says of an option of the trainer when it has seen the data."""
SMALLER = "run again with a smaller --data.batch_size, or with --model.chunk"


def explained(error: Exception) -> InputError | UsageError | None:
    """Return the error to raise in the place of one that a user can do something about, or None.

    No message of the original is repeated: torch puts those of a process that reads images into its own.
    """
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "CUDA" in text and "out of memory" in text
    ):
        return InputError(f"the GPU's memory is full; {SMALLER}, a smaller --data.image_size, or --trainer.precision bf16-mixed")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text):
        return InputError(f"the memory is full; {SMALLER}, or with fewer --data.num_workers")
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        if "shared memory" in text:
            return InputError(
                "the shared memory is full; give the machine more (docker: --shm-size), or fewer --data.num_workers"
            )
        return InputError("a process that reads images was killed (out of memory?); run again with fewer --data.num_workers")
    if isinstance(error, RuntimeError) and "finished reduction in the prior iteration" in text:
        return UsageError(
            "the loss does not depend on all weights that are trained, for whose gradients the processes would wait; "
            "give --trainer.strategy ddp_find_unused_parameters_true"
        )
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in text):
        return InputError("another process of this run ended, or cannot be reached; what it said tells why")
    if isinstance(error, MisconfigurationException) or (isinstance(error, ValueError) and ABOUT_AN_OPTION.match(text)):
        return UsageError(" ".join(text.split()))
    return None
