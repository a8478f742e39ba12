"""Checkpoints: written whole or not at all, and read back to models without anything in them being executed."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from hybridpt.data.sources import Sources
from hybridpt.encoders import ImageEncoder, TextEncoder
from hybridpt.encoders.kept import kept_files
from hybridpt.module import CHECKPOINT_KEY, CHECKPOINT_VERSION, HybridModule
from hybridpt.objectives import Objective
from labelers.errors import InputError, UsageError
from labelers.io import atomic_path

__all__ = [
    "CheckpointFiles",
    "HybridModule",
    "RunCheckpoint",
    "TrainedEncoder",
    "checkpoint_file",
    "load",
    "load_encoders",
    "load_image_encoder",
    "load_weights",
    "read_checkpoint",
    "sources_of",
]

REQUIRED = {"state_dict": dict, "pytorch-lightning_version": str}
RESUMABLE = {"loops": dict, "optimizer_states": list, "lr_schedulers": list, "callbacks": dict}
OURS = ("hybridpt.encoders", "hybridpt.objectives")
"""Where the classes live that a checkpoint may have imported."""
PARTS = (ImageEncoder, TextEncoder, Objective)


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoint files of a run. Lightning's own go by way of the system's temporary folder, which is neither whole nor private."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint whole, in the place of the earlier one.

        Raises:
            InputError: It cannot be written; the earlier one is as it was.
        """
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            target = _Target(file)
            try:
                torch.save(checkpoint, cast(BinaryIO, target))
            except RuntimeError:  # torch's account of it says nothing of the disk
                if target.failure is None:
                    raise
                raise target.failure from None
            file.flush()
            os.fsync(file.fileno())  # so that not even a power cut leaves an empty file under the name

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, as ``read_checkpoint``."""
        return read_checkpoint(path)


class RunCheckpoint(ModelCheckpoint):
    """Knows its files again when the folder of the run was moved; else the next epoch would take the place of a better one."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was saved, with the paths as they are now."""
        folder = Path(self.dirpath or ".")
        moved = {key: str(folder / Path(value).name) for key, value in state_dict.items() if key.endswith("_path") and value}
        if all(Path(path).exists() for path in moved.values()):
            scores = {str(folder / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
            state_dict = {**state_dict, **moved, "best_k_models": scores, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)


class _Target:
    """A file for ``torch.save`` that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is whole."""


def checkpoint_file(path: str | Path) -> Path:
    """Return the path of a checkpoint that exists.

    Raises:
        InputError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise InputError(f"{path}: expected a checkpoint, found {what}; give the path of a .ckpt file")
    return path


def read_checkpoint(path: str | Path, resume: bool = False) -> dict[str, Any]:
    """Read a checkpoint into plain types and tensors.

    Args:
        path: The file.
        resume: Whether it must also hold the state of a training to go on with.

    Raises:
        InputError: No such file, not readable without executing something, of another version, or not one of hybridpt's.
    """
    path = checkpoint_file(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch wonders at pickles that are no checkpoints
            body = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or hostile file
        raise InputError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}); give one that 'hybridpt fit' wrote"
        ) from None
    _check_version(body, path)
    for key, kind in (REQUIRED | (RESUMABLE if resume else {})).items():
        if not isinstance(body.get(key), kind):
            raise InputError(f"{path}: expected a checkpoint with '{key}', found none; give one that 'hybridpt fit' wrote")
    return dict(body)


def _check_version(body: Any, path: Path) -> None:
    ours = body.get(CHECKPOINT_KEY) if isinstance(body, dict) else None
    version = ours.get("version") if isinstance(ours, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{path}: expected a checkpoint of hybridpt, found another's; give one that 'hybridpt fit' wrote")
    if version != CHECKPOINT_VERSION:
        advice = "update hybridpt" if version > CHECKPOINT_VERSION else "read it with the hybridpt that wrote it, or train again"
        raise InputError(f"{path}: expected a checkpoint of version {CHECKPOINT_VERSION}, found version {version}; {advice}")


def sources_of(body: dict[str, Any], path: str | Path) -> Sources:
    """Return the findings, labelers and data sets of a checkpoint that was read from ``path``.

    Raises:
        InputError: They are not those of a checkpoint.
    """
    try:
        sources = Sources.from_dict(body[CHECKPOINT_KEY]["sources"])
        names = (*sources.findings, *sources.labelers, *sources.datasets, *sources.patients, sources.patient_key)
        sound = all(isinstance(n, str) for n in names) and len(sources.prevalence) == len(sources.findings) > 0
        sound = sound and all(0 < p < 1 for p in sources.prevalence)
        sound = sound and (sources.image_size > 0 or (sources.image_size == 0 and _of_reports(body)))
    except (AttributeError, KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(
            f"{path}: what it says of findings, labelers and data sets is damaged; give one that 'hybridpt fit' wrote"
        )
    return sources


def _of_reports(body: dict[str, Any]) -> bool:
    """Whether a checkpoint is a report labeler's, which has no image encoder."""
    config = body[CHECKPOINT_KEY].get("model")
    return isinstance(config, dict) and "image_encoder" not in config


def load_weights(model: HybridModule, body: dict[str, Any], path: str | Path) -> None:
    """Put the weights of a checkpoint that was read from ``path`` into a model that was built.

    Raises:
        InputError: They are those of another model.
    """
    _fill(model, body["state_dict"], path)


def _fill(model: nn.Module, weights: dict[str, Any], path: str | Path) -> None:
    try:
        model.load_state_dict(weights)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path}: its weights do not fit the model that it describes ({type(error).__name__}); give one that 'hybridpt fit' wrote"
        ) from None


def load_encoders(model: HybridModule, checkpoint: str | Path) -> Sources:
    """Start a model's encoders from those of another checkpoint; its heads and the state of its training stay where they are.

    Args:
        model: Not yet trained.
        checkpoint: A .ckpt file that ``hybridpt fit`` wrote.

    Returns:
        What that checkpoint was trained on.

    Raises:
        InputError: As ``read_checkpoint``; or it holds another image encoder.
    """
    body = read_checkpoint(checkpoint)
    weights = {n.removeprefix("encoders."): v for n, v in body["state_dict"].items() if n.startswith("encoders.")}
    for part, encoder in (("image", model.encoders.image), ("text", model.encoders.text)):
        theirs = {n.removeprefix(f"{part}."): v for n, v in weights.items() if n.startswith(f"{part}.")}
        if encoder is None or (part == "text" and not theirs):
            continue
        try:
            encoder.load_state_dict(theirs)
        except (RuntimeError, TypeError, AttributeError):
            raise InputError(
                f"{checkpoint}: its {part} encoder is another than --model.{part}_encoder; give the class and options of its config.yaml"
            ) from None
    return sources_of(body, checkpoint)


def load(checkpoint: str | Path) -> HybridModule:
    """Make the model of a checkpoint, ready for ``predict``.

    Args:
        checkpoint: A .ckpt file that ``hybridpt fit`` wrote.

    Raises:
        InputError: As ``read_checkpoint``; or the checkpoint is a report labeler's, holds no configuration (its model was put together
            in Python) or one that cannot be carried out, or names a class outside this package that nobody imported before.

    Example:
        >>> hybridpt.load("runs/demo/fit/best.ckpt").predict(["image.png"])  # doctest: +SKIP
    """
    body, config = _with_configuration(checkpoint)
    options = {**config, "compile": False}  # that takes minutes, and a compiler
    model: HybridModule = _made(
        body, checkpoint, lambda: HybridModule(**{name: _instantiate(value, str(checkpoint)) for name, value in options.items()})
    )
    model.build(sources_of(body, checkpoint))
    load_weights(model, body, checkpoint)
    model.config = config
    return model.eval()


class TrainedEncoder(NamedTuple):
    """The image encoder of a checkpoint.

    Attributes:
        encoder: In evaluation mode.
        sources: What it was trained on.
        objectives: By name, the class and the weight of each objective that it was trained with.
    """

    encoder: ImageEncoder
    sources: Sources
    objectives: dict[str, tuple[str, float]]


def load_image_encoder(checkpoint: str | Path) -> TrainedEncoder:
    """Make the image encoder of a checkpoint alone; its objectives may be of classes that nobody imported.

    Args:
        checkpoint: A .ckpt file that ``hybridpt fit`` wrote.

    Raises:
        InputError: As ``load``.
    """
    body, config = _with_configuration(checkpoint)

    def make() -> tuple[ImageEncoder, dict[str, tuple[str, float]]]:
        encoder = _instantiate(config["image_encoder"], str(checkpoint))
        if not isinstance(encoder, ImageEncoder):
            raise TypeError
        terms = config["objectives"].items()
        return encoder, {
            n: (t["class_path"].rpartition(".")[2], float(t.get("init_args", {}).get("weight", 1))) for n, t in terms
        }

    encoder, objectives = _made(body, checkpoint, make)
    begin = "encoders.image."
    _fill(encoder, {n.removeprefix(begin): v for n, v in body["state_dict"].items() if n.startswith(begin)}, checkpoint)
    return TrainedEncoder(encoder.eval(), sources_of(body, checkpoint), objectives)


def _with_configuration(checkpoint: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the checkpoint of a model that reads images; returns it and its configuration."""
    body = read_checkpoint(checkpoint)
    config = body[CHECKPOINT_KEY].get("model")
    if config is None:
        raise InputError(f"{checkpoint}: holds weights but no configuration; build the same HybridModule and load its state_dict")
    if _of_reports(body):
        raise InputError(
            f"{checkpoint}: labels reports and reads no images; use 'labelers run --labeler neural --set model=FOLDER'"
        )
    return body, config


def _made(body: dict[str, Any], checkpoint: str | Path, make: Callable[[], Any]) -> Any:
    try:
        with kept_files(body[CHECKPOINT_KEY].get("kept"), checkpoint):
            return make()
    except (InputError, UsageError):
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{checkpoint}: its model cannot be made from its configuration ({type(error).__name__}); give one that 'hybridpt fit' wrote"
        ) from None


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
    ours = any(module_name == package or module_name.startswith(f"{package}.") for package in OURS)
    if not ours and module_name not in sys.modules:
        raise InputError(f"{where}: names the class {path}; import {module_name or path} first if you trust it")
    cls = getattr(importlib.import_module(module_name), name, None)
    if not (isinstance(cls, type) and issubclass(cls, PARTS)):
        raise InputError(f"{where}: names {path}, which is no encoder or objective; give a checkpoint that 'hybridpt fit' wrote")
    return cls
