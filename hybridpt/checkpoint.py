"""Checkpoints back to models; nothing in a checkpoint is executed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybridpt.data.sources import Sources
from hybridpt.module import CHECKPOINT_KEY, CHECKPOINT_VERSION, HybridModule
from labelers.errors import InputError

__all__ = ["HybridModule", "load", "read_checkpoint", "sources_of"]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint into plain types and tensors.

    Raises:
        InputError: No such file, not readable without executing something, or not one of hybridpt's.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; give the path of a .ckpt file")
    try:
        body = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or hostile file
        raise InputError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}); give one that 'hybridpt fit' wrote"
        ) from None
    if not isinstance(body, dict) or body.get(CHECKPOINT_KEY, {}).get("version") != CHECKPOINT_VERSION:
        raise InputError(
            f"{path}: expected a checkpoint of hybridpt (version {CHECKPOINT_VERSION}); give one that 'hybridpt fit' wrote"
        )
    return body


def sources_of(body: dict[str, Any]) -> Sources:
    """Return the findings, labelers and data sets of a checkpoint that was read."""
    return Sources.from_dict(body[CHECKPOINT_KEY]["sources"])


def load(checkpoint: str | Path) -> HybridModule:
    """Make the model of a checkpoint, ready for ``predict``.

    Args:
        checkpoint: A .ckpt file that ``hybridpt fit`` wrote.

    Raises:
        InputError: As ``read_checkpoint``; or the checkpoint holds no configuration (its model was put together in Python), or
            names a class outside this package that nobody imported before.

    Example:
        >>> hybridpt.load("runs/demo/fit/best.ckpt").predict(["image.png"])  # doctest: +SKIP
    """
    body = read_checkpoint(checkpoint)
    config = body[CHECKPOINT_KEY]["model"]
    if config is None:
        raise InputError(f"{checkpoint}: holds weights but no configuration; build the same HybridModule and load its state_dict")
    model = HybridModule(**{name: _instantiate(value, str(checkpoint)) for name, value in config.items()})
    model.build(sources_of(body))
    model.load_state_dict(body["state_dict"])
    model.config = config
    return model.eval()


def _instantiate(value: Any, where: str) -> Any:
    """Turn ``{class_path, init_args}`` into objects, all the way down."""
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {name: _instantiate(v, where) for name, v in value.items()}
    arguments = {name: _instantiate(v, where) for name, v in value.get("init_args", {}).items()}
    if "pretrained" in arguments:
        arguments["pretrained"] = False  # the checkpoint brings the weights; nothing is downloaded
    return _trusted_class(value["class_path"], where)(**arguments)


def _trusted_class(path: str, where: str) -> type[nn.Module]:
    module_name, _, name = path.rpartition(".")
    if not module_name.startswith("hybridpt.") and module_name not in sys.modules:
        raise InputError(f"{where}: names the class {path}; import {module_name or path} first if you trust it")
    cls = getattr(importlib.import_module(module_name), name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise InputError(f"{where}: names {path}, which is no module of a network; give a checkpoint that 'hybridpt fit' wrote")
    return cls
