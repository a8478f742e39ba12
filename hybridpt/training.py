"""LightningCLI with the house's defaults: where a run writes, what it logs, and what a checkpoint may not override in silence."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger

from hybridpt.checkpoint import read_checkpoint, sources_of
from hybridpt.data.datamodule import HybridDataModule
from hybridpt.evaluation.callbacks import PredictionWriter, ResultsWriter
from hybridpt.module import CHECKPOINT_KEY, HybridModule
from hybridpt.tracking import EpochSeeds, PlainProgress, WandbMode, wandb_logger
from labelers.errors import InputError, UsageError

__all__ = ["HybridCLI"]

NOISE = (
    "The dirpath has changed from",
    "Experiment logs directory",
    "Checkpoint directory",
    "Be aware that when using `ckpt_path`",
    "`isinstance(treespec, LeafSpec)`",
)
"""Beginnings of Lightning's warnings that are about nothing: the folder is meant to hold the run, callbacks differ by command."""
TRAINING_ONLY = ("lr", "weight_decay", "warmup")
"""Options of the model that change nothing once it is trained."""


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line, without the list of all options."""
        raise UsageError(" ".join(message.split()).rstrip("."))


class HybridCLI(LightningCLI):
    """``hybridpt fit | validate | test | predict``.

    Args:
        args: Command line without the program's name.
    """

    def __init__(self, args: list[str]) -> None:
        for message in NOISE:
            warnings.filterwarnings("ignore", message=re.escape(message))
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                handler.addFilter(lambda record: "Tip:" not in record.getMessage())
        super().__init__(
            HybridModule,
            HybridDataModule,
            seed_everything_default=1,
            trainer_defaults={"max_epochs": 10, "use_distributed_sampler": False},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose errors are one line."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = _Parser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options; may be given several times")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of wandb."""
        parser.add_argument(
            "--wandb.mode", type=WandbMode, default="offline", help="offline writes files only, online sends them"
        )
        parser.add_argument("--wandb.project", type=str, default="hybridpt", help="name of the wandb project")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: in the base class a checkpoint's hyperparameters override what was given by hand, in silence."""

    def instantiate_classes(self) -> None:
        """Choose the folder of the run before anything is made."""
        self.output = self._output()
        super().instantiate_classes()
        self.model.config = _plain(self._get(self.config, "model"))

    def _output(self) -> Path:
        """The folder given as ``trainer.default_root_dir``; else runs/NAME for a fit, the checkpoint's folder for the rest."""
        given = self._get(self.config, "trainer.default_root_dir")
        checkpoint = self._get(self.config, "ckpt_path")
        if self.subcommand != "fit":
            if checkpoint is None:
                raise UsageError(f"'{self.subcommand}' needs a trained model; give its checkpoint with --ckpt_path")
            return Path(given or Path(checkpoint).parent)
        resumed = None if checkpoint is None else Path(checkpoint).resolve().parent
        if given is not None:
            folder = Path(given)
            if (folder / "last.ckpt").exists() and folder.resolve() != resumed:
                raise InputError(
                    f"{folder}: holds another run; choose another folder, or go on with it by --ckpt_path {folder / 'last.ckpt'}"
                )
            return folder
        if resumed is not None and checkpoint is not None:
            return Path(checkpoint).parent
        configs = self._get(self.config, "config") or []
        base = Path("runs") / (Path(str(configs[0])).stem if configs else "run")
        number, folder = 1, base
        while any(folder.glob("*.ckpt")) or (folder / "metrics.csv").exists():
            number += 1
            folder = base.with_name(f"{base.name}-{number}")
        return folder

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the house's loggers, callbacks and folder."""
        configured = self._get(self.config_init, "trainer")
        callbacks = configured.get("callbacks") or []
        callbacks = [
            *(callbacks if isinstance(callbacks, list) else [callbacks]),
            *self._callbacks(configured.get("enable_checkpointing")),
        ]
        terminal = sys.stdout.isatty() and configured.get("enable_progress_bar") is not False
        callbacks.append(RichProgressBar() if terminal else PlainProgress())
        return super().instantiate_trainer(
            **kwargs,
            default_root_dir=str(self.output),
            callbacks=callbacks,
            logger=self._loggers(configured.get("logger")),
            enable_progress_bar=terminal,
            enable_model_summary=terminal,
        )

    def _callbacks(self, checkpointing: bool | None) -> list[Callback]:
        callbacks: list[Callback] = [EpochSeeds(), ResultsWriter(), PredictionWriter()]
        if self.subcommand == "fit" and checkpointing is not False:
            common: dict[str, Any] = {"dirpath": self.output, "save_on_train_epoch_end": True, "enable_version_counter": False}
            callbacks.append(ModelCheckpoint(filename="best", monitor="val/criterion", **common))
            callbacks.append(ModelCheckpoint(filename="last", **common))  # after best, whose state it holds
        return callbacks

    def _loggers(self, configured: Any) -> list[Logger]:
        """metrics.csv always; wandb unless it is switched off or the user configured loggers."""
        loggers: list[Logger] = [CSVLogger(self.output, name="" if self.subcommand == "fit" else self.subcommand, version="")]
        if isinstance(configured, list | Logger):
            return [*loggers, *(configured if isinstance(configured, list) else [configured])]
        mode = self._get(self.config, "wandb.mode")
        if mode != "disabled" and configured is not False:
            loggers.append(wandb_logger(self.output, mode, self._get(self.config, "wandb.project")))
        return loggers

    def before_fit(self) -> None:
        """On resuming, take the findings from the checkpoint, refuse options that it would override, and keep the metrics so far."""
        if self._get(self.config, "ckpt_path") is not None:
            self._restore(())
        metrics = self.output / "metrics.csv"
        if metrics.exists():  # the logger deletes what it finds
            metrics.rename(self.output / f"metrics_{1 + len(list(self.output.glob('metrics_*.csv')))}.csv")

    def before_validate(self) -> None:
        """Take the findings from the checkpoint."""
        self._restore(TRAINING_ONLY)

    def before_test(self) -> None:
        """Take the findings from the checkpoint."""
        self._restore(TRAINING_ONLY)

    def before_predict(self) -> None:
        """Take the findings from the checkpoint."""
        self._restore(TRAINING_ONLY)

    def _restore(self, ignored: tuple[str, ...]) -> None:
        path = self._get(self.config, "ckpt_path")
        body = read_checkpoint(path)
        saved, given = body[CHECKPOINT_KEY]["model"] or {}, self.model.config
        changed = [k for k in _differences(saved, given) if k.split(".")[0] not in ignored]
        if changed:
            raise UsageError(
                f"{path} was trained with another model: {', '.join(changed[:5])} differ{'s' if len(changed) == 1 else ''}; "
                "give the options of its config.yaml, or start a new run"
            )
        self.model.build(sources_of(body))


def _plain(value: Any) -> Any:
    """Turn jsonargparse's namespaces into dicts, all the way down."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _differences(saved: Any, given: Any, where: str = "") -> list[str]:
    """Return the dotted names under which two configurations differ."""
    if isinstance(saved, dict) and isinstance(given, dict):
        keys = list(dict.fromkeys([*saved, *given]))
        return [d for k in keys for d in _differences(saved.get(k), given.get(k), f"{where}.{k}" if where else k)]
    return [] if saved == given else [where]
