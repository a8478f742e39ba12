"""A labeler trained on the labels of others: its module, and the folder that ``labelers run --labeler neural`` loads."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from hybridpt.checkpoint import load_weights, read_checkpoint
from hybridpt.data.reports import ReportDataModule
from hybridpt.encoders import HuggingFaceEncoder, ImageEncoder, TextEncoder
from hybridpt.module import HybridModule
from hybridpt.objectives import Objective, ReportStates
from labelers.errors import InputError, UsageError
from labelers.neural_files import quiet
from labelers.types import STATES, Vocabulary

__all__ = ["FOLDER", "ReportModule", "write_labeler"]

FOLDER = "labeler"
"""Name of the labeler's folder inside that of the run."""
PROBE = "No pleural effusion; possible edema, 12 mm."
"""What the tokenizer of a folder is known by."""


class ReportModule(HybridModule):
    """A text encoder with a head of four states a finding, trained on label tables; it reads reports and no images.

    Args:
        text_encoder: Token ids to vectors; one of transformers.
        objectives: One of them ``hybridpt.objectives.ReportStates``.
        name: Name of the labeler, the source of its tables; two labelers that are to be fused need two names.
        lr: Peak learning rate of AdamW.
        weight_decay: Decay of matrices; norms, biases and embeddings have none.
        warmup: Share of the steps in which the learning rate rises, in [0, 1); it then falls by a cosine to the last step.

    Raises:
        UsageError: A text encoder that is none of transformers, whose folder the labeler could load; not one ``ReportStates`` among the
            objectives; a name that no table can hold; or a number out of its range.
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        objectives: dict[str, Objective],
        name: str = "neural",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
    ) -> None:
        # not declared optional there: what the parser says of a misspelled class would be worse for every hybrid
        super().__init__(cast(ImageEncoder, None), objectives, text_encoder, lr, weight_decay, warmup)
        if not isinstance(text_encoder, HuggingFaceEncoder):
            raise UsageError(
                f"a report labeler needs a text encoder of transformers, got {type(text_encoder).__name__}; give TransformersEncoder or "
                "LexiconEncoder with --model.text_encoder"
            )
        if sum(isinstance(objective, ReportStates) for _, objective in self.each()) != 1:
            raise UsageError(
                "a report labeler needs one objective hybridpt.objectives.ReportStates; name it under --model.objectives"
            )
        if not name.isprintable() or not name.strip() or name != name.strip():
            raise UsageError(f"--model.name: expected the name of a labeler on one line, without space around it, got {name!r}")
        self.name = name

    @property
    def heads(self) -> ReportStates:
        """The objective that has the heads."""
        return next(objective for _, objective in self.each() if isinstance(objective, ReportStates))

    def setup(self, stage: str) -> None:
        """Build, and start from what the training labels are like."""
        fresh = self.sources is None
        super().setup(stage)
        if fresh:
            share, worth = (torch.from_numpy(values).float() for values in self._data.beginning())
            self.heads.begin(share, worth)

    @property
    def _data(self) -> ReportDataModule:
        return cast(ReportDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Callback]:
        """Write the labeler's folder when the training ends."""
        return [_LabelerWriter()]


class _LabelerWriter(Callback):
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights of the best checkpoint, and write the folder beside it."""
        if not trainer.is_global_zero:
            return
        model = cast(ReportModule, pl_module)
        kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor is not None]
        best = kept[0].best_model_path if kept else ""
        if Path(best).is_file():  # a resumed run may have lost it
            load_weights(model, read_checkpoint(best), best)
        folder = Path(trainer.default_root_dir) / FOLDER
        write_labeler(model, model._data.vocabulary(), folder)
        print(
            f"hybridpt: the labeler '{model.name}' -> {folder}; use it with: labelers run REPORTS --labeler neural "
            f"--set model={folder} -o {model.name}.parquet",
            file=sys.stderr,
            flush=True,
        )


def write_labeler(model: ReportModule, vocabulary: Vocabulary, folder: Path) -> None:
    """Write the folder that the labeler ``neural`` loads, whole, in the place of an earlier one.

    It holds the encoder as transformers saves it (config.json, model.safetensors), the tokenizer's files, the heads
    (heads.safetensors: query (K, D), weight (K, 4, D), bias (K, 4)) and labeler.json: name, findings, vocabulary, P(present | state)
    and the labelers that it learned from. Nothing in it comes from the text of a report.

    Args:
        model: A model that was built.
        vocabulary: Its findings, in its order.
        folder: Where to write.

    Raises:
        InputError: It cannot be written; an earlier one is as it was.
    """
    from safetensors import SafetensorError

    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    earlier = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    try:
        _remove_leftovers(folder)
        temporary.mkdir(parents=True)
        _fill(model, vocabulary, temporary)
        if folder.exists():
            os.replace(folder, earlier)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{folder}: cannot be written ({reason}); an earlier one is as it was") from None
    finally:
        if earlier.exists() and not folder.exists():
            os.replace(earlier, folder)
        for leftover in (temporary, earlier):
            shutil.rmtree(leftover, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left; the run's folder is held by this process alone."""
    for end in ("new", "old"):
        for leftover in folder.parent.glob(f".{folder.name}.*.{end}"):
            shutil.rmtree(leftover, ignore_errors=True)


def _fill(model: ReportModule, vocabulary: Vocabulary, folder: Path) -> None:
    from safetensors.torch import save_file

    encoder, heads, sources = cast(HuggingFaceEncoder, model.encoders.text), model.heads, model.sources
    if sources is None:
        raise RuntimeError("a model that was never built has nothing to save; call build or fit first")
    with quiet():
        encoder.model.save_pretrained(folder)
        encoder.tokenizer.tokenizer.save_pretrained(folder)
    tensors = {"query": heads.query, "weight": heads.head, "bias": heads.bias}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, folder / "heads.safetensors")
    body: dict[str, Any] = {
        "format": "hybridpt report labeler",
        "version": 1,
        "name": model.name,
        "states": list(STATES),
        "vocabulary": {"name": vocabulary.name, "version": vocabulary.version, "hash": vocabulary.digest},
        "findings": [{"name": finding.name, "parent": finding.parent} for finding in vocabulary.findings],
        "probability": cast(Tensor, heads.worth).cpu().double().round(decimals=6).tolist(),
        "max_length": encoder.tokenizer.max_length,
        "tokenizer_check": {"text": PROBE, "tokens": list(encoder.tokenizer.tokenizer([PROBE])["input_ids"][0])},
        "trained_on": list(sources.labelers),
    }
    (folder / "labeler.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
