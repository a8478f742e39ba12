"""What models of transformers are made from beside their weights: a folder or a name of the hub, or what a checkpoint kept of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, cast

import torch

from labelers.errors import InputError, UsageError
from labelers.neural_files import quiet

__all__ = ["keep_image", "keep_text", "kept_entry", "kept_files", "make_model", "make_preprocessor", "make_tokenizer"]

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""What a fast tokenizer is made from."""
LARGEST = 8 * 2**20
"""Bytes of a tokenizer that a checkpoint keeps; those of BERT and RoBERTa have one to four MiB."""
PROBE = "No pleural effusion; possible edema, 12 mm."
"""What a tokenizer that was made again must read as the first did."""
STRANGE = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")
"""Entries of a configuration for which transformers would fetch code."""
DTYPES = ("float64", "float32", "float16", "bfloat16")

_KEPT: ContextVar[Mapping[str, Any]] = ContextVar("kept", default={})  # noqa: B039  (never written to)


@contextmanager
def kept_files(kept: object, checkpoint: str | Path) -> Iterator[None]:
    """Within, encoders are made from what a checkpoint kept of their folder or name; random weights stand for those it brings.

    Args:
        kept: What the ``kept`` of its encoders were, joined; None for a checkpoint that kept nothing.
        checkpoint: Where it was read from.

    Raises:
        InputError: It is damaged.
    """
    if not (kept is None or (isinstance(kept, dict) and all(_sound(entry) for entry in kept.values()))):
        raise InputError(f"{checkpoint}: what it keeps of its encoders is damaged; give one that 'hybridpt fit' wrote")
    token = _KEPT.set(cast(Mapping[str, Any], kept or {}))
    try:
        yield
    finally:
        _KEPT.reset(token)


def _sound(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict) or entry.get("dtype") not in DTYPES:
        return False
    files, stats = entry.get("tokenizer") or {}, entry.get("preprocessor") or {}
    if not isinstance(files, dict) or not isinstance(stats, dict):
        return False
    numbers = all(isinstance(v, list) and all(isinstance(x, float) for x in v) for v in stats.values())
    return numbers and all(name in FILES and isinstance(text, str) for name, text in files.items())


def kept_entry(name: str) -> dict[str, Any] | None:
    """Return what a checkpoint kept of a folder or name, where encoders are being made from that."""
    return cast("dict[str, Any] | None", _KEPT.get().get(name))


def keep_image(name: str, model: Any, preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint keeps of a vision model and the grey levels that it wants, by its name; plain types."""
    levels = {key: [float(x) for x in preprocessor[key]] for key in ("image_mean", "image_std") if preprocessor.get(key)}
    return {name: {**_keep_model(model), "preprocessor": levels}}


def keep_text(name: str, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return what a checkpoint keeps of a text model, by its name; of its tokenizer the files, where they are small.

    The vocabulary is in those files: one that was made of reports would travel with the checkpoint, as in any folder of transformers.
    """
    return {name: {**_keep_model(model), "tokenizer": _tokenizer_files(tokenizer)}}


def _keep_model(model: Any) -> dict[str, Any]:
    return {"config": json.loads(model.config.to_json_string()), "dtype": str(model.dtype).removeprefix("torch.")}


def _tokenizer_files(tokenizer: Any) -> dict[str, str] | None:
    if not getattr(tokenizer, "is_fast", False):
        return None
    with tempfile.TemporaryDirectory() as folder, quiet():
        tokenizer.save_pretrained(folder)
        found = {name: path for name in FILES if (path := Path(folder, name)).is_file()}
        if sum(path.stat().st_size for path in found.values()) > LARGEST:
            return None
        files = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    return files if _read(_tokenizer_from(files)) == _read(tokenizer) else None


def _read(tokenizer: Any) -> list[int]:
    return list(tokenizer([PROBE])["input_ids"][0])


def _tokenizer_from(files: Mapping[str, str]) -> Any:
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder, quiet():
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        return cast(Any, PreTrainedTokenizerFast).from_pretrained(folder, local_files_only=True)


def make_model(name: str, pretrained: bool) -> Any:
    """Make a model from its folder or name, with its weights or, if not ``pretrained``, random ones; or as a checkpoint kept it.

    Raises:
        OSError: There is no such model; or another of the errors of transformers, ValueError and KeyError.
        InputError: What the checkpoint kept makes no model.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    models, entry = cast(Any, AutoModel), kept_entry(name)
    if entry is None:
        return models.from_pretrained(name) if pretrained else models.from_config(AutoConfig.from_pretrained(name))
    try:
        config = _without(entry["config"], STRANGE)
        made = models.from_config(cast(Any, CONFIG_MAPPING)[config["model_type"]].from_dict(config))
    except Exception as error:  # transformers raises many kinds for a configuration that is none
        raise _damaged(name, error) from None
    return made.to(getattr(torch, entry["dtype"]))


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(
        f"what the checkpoint keeps of '{name}' is damaged ({type(error).__name__}); give one that 'hybridpt fit' wrote"
    )


def _without(config: Any, names: tuple[str, ...]) -> Any:
    """Leave entries out, all the way down."""
    if isinstance(config, list):
        return [_without(value, names) for value in config]
    return {k: _without(v, names) for k, v in config.items() if k not in names} if isinstance(config, dict) else config


def make_preprocessor(name: str) -> dict[str, Any]:
    """Return what a model's preprocessor says, of its folder or name, or as a checkpoint kept it; nothing where there is none."""
    from transformers.image_processing_base import ImageProcessingMixin

    entry = kept_entry(name)
    if entry is not None:
        return dict(entry.get("preprocessor") or {})
    try:
        return dict(cast(Any, ImageProcessingMixin).get_image_processor_dict(name)[0])
    except (OSError, ValueError):
        return {}


def make_tokenizer(name: str) -> Any:
    """Make a tokenizer from its folder or name, or as a checkpoint kept it.

    Where the checkpoint did not, for it is large, and the folder is gone, what is returned says so when a text is to be read: to score
    images with a supervised head nothing is.

    Raises:
        OSError: There is no such tokenizer; or ValueError.
        InputError: What the checkpoint kept makes no tokenizer.
    """
    from transformers import AutoTokenizer

    entry = kept_entry(name)
    if entry is None or not entry.get("tokenizer"):
        try:
            return AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError):
            if entry is None:
                raise
            return _Missing(name)
    try:
        made = _tokenizer_from(entry["tokenizer"])
        _read(made)
    except Exception as error:  # as above
        raise _damaged(name, error) from None
    return made


class _Missing:
    """Stands for a tokenizer that is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: object, **options: object) -> NoReturn:
        """Say what is missing."""
        raise UsageError(
            f"the tokenizer of the text model '{self.name}' is not in the checkpoint, which keeps small ones alone; to read text, bring "
            "back that folder, or let the hub's name be found"
        )
