"""LightningCLI with the house's defaults: where a run writes, what it logs, and what a checkpoint may not override in silence."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO

from hybridpt.averaging import WeightAverage
from hybridpt.checkpoint import (
    CheckpointFiles,
    RunCheckpoint,
    checkpoint_file,
    load_encoders,
    load_weights,
    read_checkpoint,
    sources_of,
)
from hybridpt.configuration import gives_option
from hybridpt.data.datamodule import HybridDataModule
from hybridpt.data.reports import ReportDataModule
from hybridpt.encoders.kept import kept_files
from hybridpt.evaluation.callbacks import PredictionWriter, ResultsWriter, ValidationScores
from hybridpt.evaluation.sources import SourceLogger
from hybridpt.failures import explained
from hybridpt.module import CHECKPOINT_KEY, HybridModule
from hybridpt.patience import Patience
from hybridpt.report_labeler import ReportModule
from hybridpt.tracking import (
    MetricsLogger,
    PlainProgress,
    StepSeeds,
    StopOnSignal,
    Throughput,
    WandbMode,
    wandb_logger,
    wandb_loggers,
    without_paths,
)
from labelers.errors import InputError, UsageError
from labelers.io import atomic_path
from labelers.io.files import remove_leftovers
from labelers.io.locks import lock

__all__ = ["HybridCLI"]

NOISE = (
    "The dirpath has changed from",
    "Experiment logs directory",
    "Checkpoint directory",
    "Be aware that when using `ckpt_path`",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "`isinstance(treespec, LeafSpec)`",
    "`ModelCheckpoint(monitor='val/criterion')` could not find the monitored key",
)
"""Beginnings of Lightning's warnings that are about nothing: the folder is meant to hold the run, callbacks differ by command, the
data module knows where in an epoch it stopped, and not every epoch has a validation."""
TRAINING_ONLY = ("lr", "weight_decay", "warmup", "layer_decay", "frozen_layers", "ema", "chunk", "compile", "init_from")
"""Options of the model that change nothing once it is trained."""
RANGES = {
    "seed_everything": (0, 2**32 - 1, f"from 0 to {2**32 - 1}"),
    "trainer.max_epochs": (1, math.inf, "from 1"),
    "trainer.max_steps": (1, math.inf, "from 1, or -1 for no limit"),
    "trainer.accumulate_grad_batches": (1, math.inf, "from 1"),
    "early_stopping": (0, math.inf, "from 0"),
    "trainer.gradient_clip_val": (0, math.inf, "from 0"),
    "trainer.limit_train_batches": (1e-9, math.inf, "above 0"),
}
"""Least and greatest value of options with which Lightning would fail late, or do nothing and call it a success; and the same in words."""
DOUBLE_OR_HALF = ("64-true", "64", "16-true", "bf16-true", "transformer-engine", "transformer-engine-float16")
"""Precisions that would change the type of the weights, and with them that of the channels."""


class _Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line, without the list of all options."""
        raise UsageError(_brief(" ".join(message.split()).rstrip(".")))


class _Config(SaveConfigCallback):
    """Saves config.yaml whole or not at all: a run may read the very file that it writes. wandb gets the same without paths."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save where the first logger writes; ``trainer.log_dir`` would wait for the other processes, which are not asked."""
        config = self.config.clone()
        if stage == "fit":
            config["ckpt_path"] = None  # where this run went on from, not where the next one shall
        with atomic_path(Path(trainer.loggers[0].log_dir or ".") / self.config_filename) as temporary:
            self.parser.save(config, temporary, skip_none=False, overwrite=True, multifile=False)
        for logger in wandb_loggers(trainer):
            logger.log_hyperparams(without_paths(_plain(config)))


class HybridCLI(LightningCLI):
    """``hybridpt fit | validate | test | predict``: of a report labeler where ``data.reports`` is given, else of a hybrid.

    A configuration names the classes of encoders, objectives, callbacks and loggers by their import path, so that those of other
    packages can be used; that path is imported. A configuration from a stranger is a program from a stranger. A checkpoint is not.

    Args:
        args: Command line without the program's name.
    """

    def __init__(self, args: list[str]) -> None:
        for message in NOISE:
            warnings.filterwarnings("ignore", message=re.escape(message))
        for name in ("lightning.pytorch", "lightning.fabric"):
            for handler in logging.getLogger(name).handlers:
                handler.addFilter(lambda record: "Tip:" not in record.getMessage())
        self._earlier: Path | None = None
        self._read: dict[str, Any] | None = None
        self._best: RunCheckpoint | None = None
        with contextlib.ExitStack() as self._held:
            try:
                # what is trained follows from what it is trained on, and is known before the options of its classes are parsed
                of_reports = gives_option(args, "data", "reports")
                super().__init__(
                    ReportModule if of_reports else HybridModule,
                    ReportDataModule if of_reports else HybridDataModule,
                    seed_everything_default=1,
                    trainer_defaults={"max_epochs": 10, "use_distributed_sampler": False},
                    save_config_callback=_Config,
                    save_config_kwargs={"save_to_log_dir": False},
                    auto_configure_optimizers=False,
                    args=args,
                )
            except Exception as error:
                known = explained(error)
                if known is None:
                    raise
                raise known from None

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose errors are one line."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = _Parser(allow_abbrev=False, **kwargs)  # an abbreviation is a misspelling that goes unnoticed
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with options; may be given several times")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of wandb, of calibration, and of stopping early."""
        parser.add_argument(
            "--early_stopping",
            type=int,
            default=0,
            help="end a fit after so many epochs with a validation but without a lower val/criterion; 0 for never",
        )
        parser.add_argument(
            "--calibrate",
            type=bool,
            default=True,
            help="in a fit on images, calibrate the scores on the gold of val studies (--data.gold), where there is any",
        )
        parser.add_argument(
            "--wandb.mode", type=WandbMode, default="offline", help="offline writes files only, online sends them"
        )
        parser.add_argument("--wandb.project", type=str, default="hybridpt", help="name of the wandb project")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and check the options of the trainer."""
        super().parse_arguments(parser, args)
        given = self.config[self.config["subcommand"]]
        for name, (least, greatest, words) in RANGES.items():
            value = given.get(name)
            endless = name == "trainer.max_epochs" and value == -1 and (given.get("trainer.max_steps") or -1) > 0
            endless = endless or (name == "trainer.max_steps" and value == -1)
            if value is not None and not isinstance(value, bool) and not endless and not least <= value <= greatest:
                raise UsageError(f"--{name}: expected a number {words}, got {value}")
        _refuse_options(given, self.config["subcommand"] == "fit")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: in the base class a checkpoint's hyperparameters override what was given by hand, in silence."""

    def instantiate_classes(self) -> None:
        """Choose the folder of the run before anything is made, and make encoders as the checkpoint kept them, where there is one."""
        self.output = self._output()
        path = self._get(self.config, "ckpt_path")
        self._read = None if path is None else read_checkpoint(path, resume=self.subcommand == "fit")
        with kept_files(None if self._read is None else self._read[CHECKPOINT_KEY].get("kept"), str(path)):
            try:
                super().instantiate_classes()
            except ValueError as error:
                raise _root(error) from None
        if self.model.tokenizer is not None:
            self.model.tokenizer([""])  # one that is not there says so now, not in a process that reads images
        self.model.config = _plain(self._get(self.config, "model"))

    def _output(self) -> Path:
        """The folder given as ``trainer.default_root_dir``; else runs/NAME for a fit, the checkpoint's folder for the rest."""
        given = self._get(self.config, "trainer.default_root_dir")
        checkpoint = self._get(self.config, "ckpt_path")
        if checkpoint is not None:
            checkpoint_file(checkpoint)
        if self.subcommand != "fit":
            if checkpoint is None:
                raise UsageError(f"'{self.subcommand}' needs a trained model; give its checkpoint with --ckpt_path")
            return self._alone_in(Path(given or Path(checkpoint).parent))
        resumed = None if checkpoint is None else Path(checkpoint).resolve().parent
        if given is not None:
            folder = Path(given)
            if (folder / "last.ckpt").exists() and folder.resolve() != resumed:
                raise InputError(
                    f"{folder}: holds another run; choose another folder, or go on with it by --ckpt_path {folder / 'last.ckpt'}"
                )
            return self._alone_in(folder)
        if resumed is not None and checkpoint is not None:
            return self._alone_in(Path(checkpoint).parent)
        configs = self._get(self.config, "config") or []
        return self._new_folder(Path("runs") / (Path(str(configs[0])).stem if configs else "run"))

    def _new_folder(self, base: Path) -> Path:
        """The first of NAME, NAME-2, NAME-3, ... that no run has been in or is in."""
        number, folder = 1, base
        while True:
            if not any(folder.glob("*.ckpt")) and not (folder / "metrics.csv").exists():
                with contextlib.suppress(_InUse):
                    return self._alone_in(folder)
            number += 1
            folder = base.with_name(f"{base.name}-{number}")

    def _alone_in(self, folder: Path) -> Path:
        """Hold a folder for this run until it ends; the first process does it for all of a distributed run."""
        if _first():
            if not folder.exists():
                self._held.callback(_remove_if_empty, folder)
            folder.mkdir(parents=True, exist_ok=True)
            message = f"{folder}: another '{self.subcommand}' is writing there; wait until it ends, or choose another folder"
            try:
                self._held.enter_context(lock(folder / f".{self.subcommand}.lock", message))
            except InputError as error:
                raise _InUse(str(error)) from None
            remove_leftovers(folder)
        return folder

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with the house's loggers, callbacks and folder."""
        configured = self._get(self.config_init, "trainer")
        callbacks = configured.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        for callback in callbacks:
            if isinstance(callback, LearningRateFinder | BatchSizeFinder):  # they would change what is set already
                raise UsageError(
                    f"--trainer.callbacks: expected none that looks for options, got {type(callback).__name__}; "
                    "give --model.lr and --data.batch_size"
                )
        callbacks = [*callbacks, *self._callbacks(configured.get("enable_checkpointing"))]
        terminal = sys.stdout.isatty() and configured.get("enable_progress_bar") is not False
        callbacks.append(RichProgressBar() if terminal else PlainProgress())
        loggers = self._loggers(configured.get("logger"))
        try:
            trainer = super().instantiate_trainer(
                **kwargs,
                default_root_dir=str(self.output),
                callbacks=callbacks,
                logger=loggers,
                plugins=_with_our_files(configured.get("plugins")),
                enable_progress_bar=terminal,
                enable_model_summary=terminal,
            )
        except (MisconfigurationException, TypeError, ValueError) as error:  # made of options alone
            raise UsageError(f"--trainer: {' '.join(str(error).split())}") from None
        cores = os.cpu_count() or 1
        if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
            raise UsageError(f"--trainer.devices: expected at most {cores}, the cores of this machine, got {trainer.num_devices}")
        return trainer

    def _callbacks(self, checkpointing: bool | None) -> list[Callback]:
        callbacks: list[Callback] = [StepSeeds(), ResultsWriter(), PredictionWriter()]
        if self.subcommand == "fit":
            calibrate = self._get(self.config, "calibrate") and not isinstance(self.model, ReportModule)  # its folder has no room
            callbacks += [SourceLogger(), ValidationScores(calibrate), Throughput()]
            if (epochs := self._get(self.config, "early_stopping")) > 0:
                callbacks.append(Patience(epochs))
        if self.subcommand == "fit" and checkpointing is not False:
            last = self.output / "last.ckpt"
            command = ["hybridpt", "fit", "--config", str(self.output / "config.yaml"), "--ckpt_path", str(last)]
            callbacks.append(StopOnSignal(last, shlex.join(command)))
            if self.model.ema is not None:
                callbacks.append(WeightAverage(self.model.ema))
            common: dict[str, Any] = {"dirpath": self.output, "save_on_train_epoch_end": True, "enable_version_counter": False}
            self._best = RunCheckpoint(filename="best", monitor="val/criterion", **common)
            callbacks += [self._best, RunCheckpoint(filename="last", **common)]  # last holds the state of best
        return callbacks

    def _loggers(self, configured: Any) -> list[Logger]:
        """metrics.csv always; wandb unless it is switched off or the user configured loggers."""
        loggers: list[Logger] = [MetricsLogger(self.output, name="" if self.subcommand == "fit" else self.subcommand, version="")]
        if isinstance(configured, list | Logger):
            return [*loggers, *(configured if isinstance(configured, list) else [configured])]
        mode = self._get(self.config, "wandb.mode")
        if mode != "disabled" and configured is not False:
            loggers.append(wandb_logger(self.output, mode, self._get(self.config, "wandb.project")))
        return loggers

    def before_fit(self) -> None:
        """On resuming, take the findings from the checkpoint, refuse options that it would override, and keep the metrics so far.

        At last say where the run writes.
        """
        if self._get(self.config, "ckpt_path") is not None:
            self._restore(())
        elif self.model.init_from is not None:
            self.model.inherited = load_encoders(self.model, self.model.init_from)
        metrics = self.output / "metrics.csv"
        if _first() and metrics.exists():  # the logger deletes what it finds
            names = (self.output / f"metrics_{number}.csv" for number in itertools.count(1))
            self._earlier = next(path for path in names if not path.exists())
            metrics.rename(self._earlier)
        if _first():
            print(f"the run writes into {self.output}", flush=True)

    def after_fit(self) -> None:
        """Put the metrics back where nothing was left to train, and say which checkpoint is the best."""
        metrics = self.output / "metrics.csv"
        if self._earlier is not None and not metrics.exists():
            self._earlier.rename(metrics)
        if self._best is not None and _first() and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print(_outcome(self.output, self._best), flush=True)

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
        body, self._read = self._read, None
        assert body is not None
        saved, given = body[CHECKPOINT_KEY].get("model") or {}, self.model.config
        changed = [k for k in _differences(saved, given) if k.split(".")[0] not in ignored]
        if changed:
            raise UsageError(
                f"{path} was trained with another model: {', '.join(changed[:5])} differ{'s' if len(changed) == 1 else ''}; "
                "give the options of its config.yaml, or start a new run"
            )
        self.model.build(sources_of(body, path))
        load_weights(self.model, body, path)


def _refuse_options(given: Any, fit: bool) -> None:
    """Refuse options that Lightning takes and cannot carry out here."""
    part = given.get("trainer.overfit_batches")
    if part:
        raise UsageError(
            f"--trainer.overfit_batches: expected 0, got {part}; give --trainer.limit_train_batches {part}, which shortens the epochs"
        )
    precision = given.get("trainer.precision")
    if str(precision) in DOUBLE_OR_HALF:
        raise UsageError(
            f"--trainer.precision: expected 32-true, bf16-mixed or 16-mixed, got {precision}; "
            "weights, channels and losses are kept in 32 bits"
        )
    epochs, every = given.get("trainer.max_epochs") or -1, given.get("trainer.check_val_every_n_epoch") or 1
    if fit and given.get("early_stopping") and (given.get("trainer.limit_val_batches") == 0 or 0 < epochs < every):
        raise UsageError(
            f"--early_stopping {given.get('early_stopping')}: expected a fit with validations, got one without; "
            "give other --trainer.limit_val_batches or --trainer.check_val_every_n_epoch, or --early_stopping 0"
        )


def _first() -> bool:
    """Whether this is the process that writes and speaks for all of a distributed run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _outcome(folder: Path, best: RunCheckpoint) -> str:
    """What a finished fit leaves, and the command that comes next."""
    path = best.best_model_path
    if best.best_model_score is None or not Path(path).is_file():
        return f"no validation chose a best checkpoint; the last state is in {folder / 'last.ckpt'}"
    found = f"epoch {read_checkpoint(path)['epoch'] + 1}, val/criterion {best.best_model_score:.4f}"
    command = ["hybridpt", "test", "--config", str(folder / "config.yaml"), "--ckpt_path", path]
    return f"the best checkpoint is {path} ({found}); test it with: {shlex.join(command)}"


def _root(error: BaseException) -> BaseException:
    """What a class said when it was made: jsonargparse wraps it where an option may hold a class or nothing."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError | UsageError):
        cause = cause.__cause__
    return error if cause is None else cause


class _InUse(InputError):
    """Another process writes to the folder."""


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _with_our_files(plugins: Any) -> list[Any]:
    """Add the way checkpoints are written and read, unless the user configured another."""
    listed = [] if plugins is None else plugins if isinstance(plugins, list) else [plugins]
    return listed if any(isinstance(p, CheckpointIO) for p in listed) else [*listed, CheckpointFiles()]


def _brief(message: str) -> str:
    """Shorten jsonargparse's account of every type that a value does not fit to the list of these types."""
    head, union, rest = message.partition("Does not validate against any of the Union subtypes Subtypes: [")
    if not union:
        return message
    kinds = re.sub(r"<class '([^']*)'>", r"\1", rest.partition("] Errors:")[0])
    return f"{head.removesuffix('- ')}expected one of: {re.sub(r'(?:[A-Za-z_]+[.])+(?=[A-Za-z])', '', kinds)}"


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
