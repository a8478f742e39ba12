"""Lightning callbacks that turn the scores of a test or predict run into files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from hybridpt.batch import Batch
from hybridpt.evaluation.classification import classification_rows
from hybridpt.evaluation.pictures import Panel, draw_distributions, draw_reliability, panels_of
from hybridpt.evaluation.table import COLUMNS, Row, draw_results, show_results, write_results
from hybridpt.functional.platt import Platt, fit_platt
from hybridpt.module import HybridModule
from hybridpt.nonfinite import Trouble, nonfinite_path, stop_for
from hybridpt.tracking import wandb_loggers
from labelers.console import show
from labelers.io import atomic_path

__all__ = ["PredictionWriter", "ResultsWriter", "ValidationScores"]

_Scores = dict[str, NDArray[np.float32]]


class _Collector(Callback):
    """Gathers the scores of every batch of all processes by objective, with the manifest rows that they belong to."""

    def __init__(self) -> None:
        self.rows: list[NDArray[np.int64]] = []
        self.scores: dict[str, list[NDArray[np.float32]]] = {}

    def collect(self, trainer: Trainer, outputs: Mapping[str, Tensor], batch: Batch, step: int) -> None:
        """Add one batch; all processes must do so at the same point.

        Raises:
            InputError: A score is not finite; a file names the images.
        """
        self.rows.append(batch["row"].cpu().numpy())
        scores = {name: values.float().cpu().numpy() for name, values in outputs.items()}
        spoilt = tuple(name for name, values in scores.items() if not np.isfinite(values).all())
        if trainer.strategy.reduce_boolean_decision(bool(spoilt), all=False):
            stage = "test" if trainer.testing else "val" if trainer.validating else "predict"
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            trouble = Trouble(stage, trainer.current_epoch, step, (batch["row"],), batch, tuple(f"scores of {n}" for n in spoilt))
            stop_for(trouble, data.rows, nonfinite_path(trainer))
        for name, values in scores.items():
            self.scores.setdefault(name, []).append(values)

    def take(self, trainer: Trainer) -> tuple[NDArray[np.int64], _Scores]:
        """Return rows (N,) and scores (N, K) by objective, without those of images that could not be read, and start anew.

        Of several processes all have the same, each row once: what is shared out evenly holds some twice.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows = np.concatenate(self.rows)
        read = ~np.isin(rows, list(data.unread))
        rows, scores = rows[read], {name: np.concatenate(parts)[read] for name, parts in self.scores.items()}
        self.rows, self.scores = [], {}
        return (rows, scores) if trainer.world_size == 1 else _joined(rows, scores)


def _joined(rows: NDArray[np.int64], scores: _Scores) -> tuple[NDArray[np.int64], _Scores]:
    shares: list[tuple[NDArray[np.int64], _Scores]] = [(rows, scores)] * dist.get_world_size()
    dist.all_gather_object(shares, (rows, scores))
    rows, first = np.unique(np.concatenate([r for r, _ in shares]), return_index=True)
    return rows, {name: np.concatenate([s[name] for _, s in shares])[first] for name in scores}


class ResultsWriter(_Collector):
    """After a test: results.csv, pictures (results, reliability and scores by finding), a table on the terminal, and a wandb table."""

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the scores of a batch."""
        self.collect(trainer, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score and write, once for all processes."""
        rows, scores = self.take(trainer)
        if not trainer.is_global_zero:
            return
        studies, root = _by_study(rows, scores, trainer), Path(trainer.default_root_dir)
        results = _results(studies, trainer)
        write_results(results, root / "results.csv")
        draw_results(results, root / "results.png")
        show(show_results(results))
        for logger in wandb_loggers(trainer):
            logger.log_table("results", columns=list(COLUMNS), data=[list(r) for r in results])
        for name in scores:
            panels = panels_of(studies.task[name], studies.truth, studies.scores[name], studies.findings)
            _draw(panels, trainer, "test_" + re.sub(r"[^\w-]", "_", name))


class ValidationScores(_Collector):
    """After each validation of a fit: the calibration of the model on gold, and pictures of the scores as they are without it.

    The gold is that of val studies (``--data.gold``); patients that were trained on are left out of it. Every image of a study is scored
    by itself and shares the study's gold; a study counts once. Without such gold nothing is calibrated, and the pictures hold the scores
    against what the labelers say.

    Args:
        calibrate: Whether to calibrate; without, the model's probabilities are as they were trained.
    """

    def __init__(self, calibrate: bool = True) -> None:
        super().__init__()
        self.calibrate = calibrate

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what a validation that was cut short has left."""
        self.rows, self.scores = [], {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the log-odds of a batch."""
        if not trainer.sanity_checking:
            self.collect(trainer, outputs, batch, trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate, the same on all processes, and draw, on the first."""
        if trainer.sanity_checking:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows, logits = self.take(trainer)
        for name, platt in cast(HybridModule, pl_module).calibration.items():
            line = torch.tensor(1.0), torch.tensor(0.0)
            if self.calibrate and data.gold_used and name in logits:
                line = _line(logits[name], data.truth(rows)[0], _study(data.rows.iloc[rows]))
            cast(Platt, platt).set(*trainer.strategy.broadcast(line))
        if (data.gold_used or data.sources.labelers) and trainer.is_global_zero:
            studies = _by_study(rows, {name: _sigmoid(z) for name, z in logits.items()}, trainer)
            panels = [p for name in logits for p in panels_of(f"{name}{studies.against}", studies.truth, studies.scores[name])]
            _draw(panels, trainer, "val")


def _line(logit: NDArray[np.float32], truth: NDArray[np.float32], study: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    weight = 1 / np.bincount(study)[study]
    return fit_platt(*(torch.from_numpy(values) for values in (logit, truth, weight)))


def _sigmoid(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    return torch.sigmoid(torch.from_numpy(logit)).numpy()


def _draw(panels: list[Panel], trainer: Trainer, what: str) -> None:
    """Write WHAT_reliability.png and WHAT_scores.png into the run's folder, and to wandb."""
    for kind, draw in (("reliability", draw_reliability), ("scores", draw_distributions)):
        path = Path(trainer.default_root_dir) / f"{what}_{kind}.png"
        draw(panels, path)
        for logger in wandb_loggers(trainer):
            logger.log_image(f"{what}/{kind}", [str(path)])


class _Studies(NamedTuple):
    """Scores and truth of S studies and K findings.

    Attributes:
        truth: 1 present, 0 absent, nan not known, (S, K).
        scores: P(present) by objective, the mean over a study's images, (S, K) each.
        patient: Number of the patient, (S,).
        dataset: Name of the data set, (S,).
        split: train, val or test.
        task: How the scores of each objective are called.
        findings: K names.
        against: "" where the truth is gold, "/labels" where it is what labelers say.
    """

    truth: NDArray[np.float32]
    scores: _Scores
    patient: NDArray[np.int64]
    dataset: NDArray[np.object_]
    split: str
    task: dict[str, str]
    findings: tuple[str, ...]
    against: str


def _study(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Number the studies of some rows in the order in which they come, (N,)."""
    return np.asarray(frame.groupby(["dataset", "study_id"], sort=False).ngroup(), np.int64)


def _by_study(rows: NDArray[np.int64], scores: _Scores, trainer: Trainer) -> _Studies:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    tasks: dict[str, str] = trainer.lightning_module.tasks  # type: ignore[assignment]
    frame: pd.DataFrame = data.rows.iloc[rows].reset_index(drop=True)
    truth, against = data.truth(rows)
    study = _study(frame)
    first = np.unique(study, return_index=True)[1]
    return _Studies(
        truth=truth[first],
        scores={name: _mean_by(study, probability) for name, probability in scores.items()},
        patient=pd.factorize(frame["patient_id"].to_numpy()[first])[0].astype(np.int64),
        dataset=frame["dataset"].to_numpy()[first],
        split=str(frame["split"][0]),
        task={name: task + against for name, task in tasks.items()},
        findings=data.sources.findings,
        against=against,
    )


def _results(studies: _Studies, trainer: Trainer) -> list[Row]:
    results = []
    for name, probability in studies.scores.items():
        about = Row(task=studies.task[name], dataset="", split=studies.split, checkpoint=str(trainer.ckpt_path))
        for chosen, mask in _parts(studies.dataset):
            labels = pd.factorize(studies.patient[mask])[0].astype(np.int64)
            results += classification_rows(
                studies.truth[mask], probability[mask], labels, studies.findings, about._replace(dataset=chosen)
            )
    return results


def _parts(dataset: NDArray[np.object_]) -> list[tuple[str, NDArray[np.bool_]]]:
    names = sorted(set(dataset))
    parts = [("all", np.ones(len(dataset), bool))]
    return parts + [(n, dataset == n) for n in names] if len(names) > 1 else parts


def _mean_by(group: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the rows of each group: images of one study share their scores."""
    total = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(total, group, values)
    return np.asarray(total / np.bincount(group)[:, None], np.float32)


class PredictionWriter(_Collector):
    """After a predict run: predictions.csv, one row an image with P(present) by finding."""

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the scores of a batch."""
        self.collect(trainer, outputs, batch, batch_idx)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores, once for all processes."""
        rows, scores = self.take(trainer)
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module
        frame = data.rows.iloc[rows][["image", "dataset", "study_id"]].reset_index(drop=True)
        tables = []
        for name, probability in scores.items():
            columns = pd.DataFrame(probability, columns=list(data.sources.findings))
            tables.append(pd.concat([frame, pd.Series(model.tasks[name], frame.index, name="task"), columns], axis=1))
        path = Path(trainer.default_root_dir) / "predictions.csv"
        with atomic_path(path) as temporary:
            pd.concat(tables).to_csv(temporary, index=False, float_format="%.6g")
        print(f"{len(frame)} images -> {path}", file=sys.stderr)
