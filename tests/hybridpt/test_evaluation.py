"""Results: figures against scikit-learn, findings without truth, and one results.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from hybridpt.evaluation.classification import classification_rows
from hybridpt.evaluation.table import COLUMNS, Row, draw_results, write_results

ABOUT = Row(task="supervised", dataset="all", split="test", checkpoint="best.ckpt")


def scored(seed: int = 0, n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((n, 3)) < [0.3, 0.1, 0.5]).astype(np.float32)
    score = 1 / (1 + np.exp(-(2 * truth - 1 + generator.normal(0, 1.5, truth.shape))))
    truth[:, 2] = np.nan
    truth[:20, 1] = np.nan
    return truth, score.astype(np.float32), generator.integers(0, 120, n)


def test_figures_are_scikit_learns_and_unknown_truth_is_no_error() -> None:
    truth, score, patient = scored()
    rows = {(r.finding, r.metric): r for r in classification_rows(truth, score, patient, ("a", "b", "c"), ABOUT)}
    for k, finding in enumerate("ab"):
        known = ~np.isnan(truth[:, k])
        y, p = truth[known, k], score[known, k]
        expected = {
            "auprc": average_precision_score(y, p),
            "auroc": roc_auc_score(y, p),
            "nll": log_loss(y, p),
            "prevalence": y.mean(),
        }
        for metric, value in expected.items():
            row = rows[finding, metric]
            assert row.value == pytest.approx(value, abs=1e-5)
            assert row.low < row.value < row.high
            assert row.n == known.sum()
    assert rows["c", "auprc"].n == 0
    assert np.isnan(rows["c", "auprc"].value)
    assert rows["macro", "auprc"].value == pytest.approx((rows["a", "auprc"].value + rows["b", "auprc"].value) / 2)


def test_intervals_resample_patients_and_not_images() -> None:
    """One patient of many images makes an interval that ignores patients far too narrow."""
    truth, score, _ = scored(n=200)
    alone = classification_rows(truth, score, np.arange(200), ("a", "b", "c"), ABOUT)
    few = classification_rows(truth, score, np.arange(200) % 8, ("a", "b", "c"), ABOUT)
    assert alone[0].value == few[0].value
    doubled = classification_rows(
        np.tile(truth, (4, 1)), np.tile(score, (4, 1)), np.tile(np.arange(200), 4), ("a", "b", "c"), ABOUT
    )
    width = [r.high - r.low for r in (alone[0], doubled[0])]
    assert width[1] == pytest.approx(width[0], rel=0.25)


def test_intervals_cover_the_truth() -> None:
    prevalence = 0.3
    hits = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        truth = (generator.random((150, 1)) < prevalence).astype(np.float32)
        rows = classification_rows(truth, truth * 0.5, np.arange(150), ("a",), ABOUT)
        row = next(r for r in rows if r.metric == "prevalence")
        hits += row.low <= prevalence <= row.high
    assert 50 <= hits <= 60


def test_results_are_kept_and_replaced_by_what_they_are_about(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_results([ABOUT._replace(finding="a", metric="auprc", value=0.5, n=3)], path)
    write_results(
        [
            ABOUT._replace(finding="a", metric="auprc", value=0.7, n=3),
            ABOUT._replace(finding="b", metric="auprc", value=0.1, n=3),
        ],
        path,
    )
    table = pd.read_csv(path)
    assert tuple(table.columns) == COLUMNS
    assert table["value"].tolist() == [0.7, 0.1]


def test_the_picture_is_drawn_also_without_any_figure(tmp_path: Path) -> None:
    truth, score, patient = scored()
    draw_results(classification_rows(truth, score, patient, ("a", "b", "c"), ABOUT), tmp_path / "full.png")
    draw_results([], tmp_path / "empty.png")
    assert (tmp_path / "full.png").read_bytes()[:4] == (tmp_path / "empty.png").read_bytes()[:4] == b"\x89PNG"
