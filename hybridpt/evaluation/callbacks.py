"""Lightning callbacks that turn the scores of a test or predict run into files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from hybridpt.batch import Batch
from hybridpt.evaluation.classification import classification_rows
from hybridpt.evaluation.table import COLUMNS, Row, draw_results, show_results, write_results
from hybridpt.nonfinite import Trouble, nonfinite_path, stop_for
from hybridpt.tracking import wandb_loggers
from labelers.console import show
from labelers.io import atomic_path

__all__ = ["PredictionWriter", "ResultsWriter"]


class _Collector(Callback):
    """Gathers the scores of every batch by objective, with the manifest rows that they belong to."""

    def __init__(self) -> None:
        self.rows: list[NDArray[np.int64]] = []
        self.scores: dict[str, list[NDArray[np.float32]]] = {}

    def collect(self, trainer: Trainer, outputs: Mapping[str, Tensor], batch: Batch, step: int) -> None:
        """Add one batch.

        Raises:
            InputError: A score is not finite; a file names the images.
        """
        self.rows.append(batch["row"].cpu().numpy())
        scores = {name: values.float().cpu().numpy() for name, values in outputs.items()}
        spoilt = tuple(name for name, values in scores.items() if not np.isfinite(values).all())
        if spoilt:
            stage = "test" if trainer.testing else "predict"
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            trouble = Trouble(stage, trainer.current_epoch, step, (batch["row"],), batch, tuple(f"scores of {n}" for n in spoilt))
            stop_for(trouble, data.rows, nonfinite_path(trainer))
        for name, values in scores.items():
            self.scores.setdefault(name, []).append(values)

    def take(self, trainer: Trainer) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]:
        """Return rows (N,) and scores (N, K) by objective, without those of images that could not be read, and start anew."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows = np.concatenate(self.rows)
        read = ~np.isin(rows, list(data.unread))
        scores = {name: np.concatenate(parts)[read] for name, parts in self.scores.items()}
        self.rows, self.scores = [], {}
        return rows[read], scores


class ResultsWriter(_Collector):
    """After a test: results.csv, results.png, a table on the terminal, and a wandb table."""

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collect the scores of a batch."""
        self.collect(trainer, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score and write."""
        rows, scores = self.take(trainer)
        results = _results(rows, scores, trainer)
        root = Path(trainer.default_root_dir)
        write_results(results, root / "results.csv")
        draw_results(results, root / "results.png")
        show(show_results(results))
        for logger in wandb_loggers(trainer):
            logger.log_table("results", columns=list(COLUMNS), data=[list(r) for r in results])


def _results(rows: NDArray[np.int64], scores: dict[str, NDArray[np.float32]], trainer: Trainer) -> list[Row]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    tasks: dict[str, str] = trainer.lightning_module.tasks  # type: ignore[assignment]
    frame: pd.DataFrame = data.rows.iloc[rows].reset_index(drop=True)
    truth, against = data.truth(rows)
    study = np.asarray(frame.groupby(["dataset", "study_id"], sort=False).ngroup(), np.int64)
    first = np.unique(study, return_index=True)[1]
    patient = pd.factorize(frame["patient_id"].to_numpy()[first])[0].astype(np.int64)
    dataset = frame["dataset"].to_numpy()[first]
    results = []
    for name, probability in scores.items():
        pooled = _mean_by(study, probability)
        about = Row(task=tasks[name] + against, dataset="", split=str(frame["split"][0]), checkpoint=str(trainer.ckpt_path))
        for chosen, mask in _parts(dataset):
            labels = pd.factorize(patient[mask])[0].astype(np.int64)
            results += classification_rows(
                truth[first][mask], pooled[mask], labels, data.sources.findings, about._replace(dataset=chosen)
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
        """Write the scores."""
        rows, scores = self.take(trainer)
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
