"""Results: figures against scikit-learn, findings without truth, and one results.csv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

import hybridpt.evaluation.callbacks
from hybridpt.cli import main
from hybridpt.evaluation import classification
from hybridpt.evaluation.classification import METRICS, classification_rows
from hybridpt.evaluation.pictures import Panel, draw_distributions, draw_reliability, panels_of, reliability_bins
from hybridpt.evaluation.table import COLUMNS, Row, draw_results, write_results
from hybridpt.tracking import Throughput

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


def test_intervals_of_a_mean_over_findings_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patients drawn twice raise AUPRC and ECE; over many findings that bias alone would throw the truth out of most intervals."""
    monkeypatch.setattr(classification, "RESAMPLES", 50)
    monkeypatch.setattr(classification, "METRICS", {name: METRICS[name] for name in ("auprc", "ece")})
    findings = tuple("abcdefghijkl")

    def draw(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        truth = (generator.random((n, len(findings))) < 0.1).astype(np.float32)
        log_odds = 1.44 * truth - 1.04 + np.log(0.1 / 0.9) + generator.normal(0, 1.2, truth.shape)  # calibrated, AUROC .80
        return truth, (1 / (1 + np.exp(-log_odds))).astype(np.float32)

    truth, score = draw(np.random.default_rng(0), 200_000)
    population = np.mean([average_precision_score(truth[:, k], score[:, k]) for k in range(len(findings))])
    hits = 0
    for seed in range(1, 41):
        truth, score = draw(np.random.default_rng(seed), 600)
        rows = {(r.finding, r.metric): r for r in classification_rows(truth, score, np.arange(600), findings, ABOUT)}
        assert all(r.low <= r.value <= r.high for r in rows.values())
        hits += rows["macro", "auprc"].low <= population <= rows["macro", "auprc"].high
    assert hits >= 33


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


def test_bins_of_equal_mass_are_scikit_learns() -> None:
    rng = np.random.default_rng(5)
    probability = rng.beta(0.5, 4, 1500).astype(np.float32)
    truth = (rng.random(1500) < probability**2).astype(np.float32)
    bins = reliability_bins(truth, probability)
    found, said = calibration_curve(truth, probability, n_bins=15, strategy="quantile")
    np.testing.assert_allclose(bins.found, found)
    np.testing.assert_allclose(bins.said, said, rtol=1e-5)
    assert bins.cells.tolist() == [100] * 15
    assert bins.error == pytest.approx(float(np.mean(np.abs(found - said))), rel=1e-5)


def test_bins_of_few_equal_and_no_cells() -> None:
    few = reliability_bins(np.array([1, 0, 1], np.float32), np.array([0.2, 0.4, 0.6], np.float32))
    assert few.cells.tolist() == [3]
    assert few.error == pytest.approx(2 / 3 - 0.4)
    same = reliability_bins(
        np.array([1, 0] * 50, np.float32), np.full(100, 0.25, np.float32)
    )  # a model that says the same of all
    assert same.cells.tolist() == [100]
    assert same.error == pytest.approx(0.25)
    nothing = np.empty(0, np.float32)
    assert np.isnan(reliability_bins(nothing, nothing).error)


def test_a_finding_gets_a_panel_by_its_positives_and_unknown_truth_is_left_out() -> None:
    truth, score, _ = scored()
    whole, *findings = panels_of("supervised", truth, score, ("a", "b", "c"))
    assert [panel.title for panel in findings] == ["a", "b"]
    assert len(whole.truth) == 300 + 280
    assert len(findings[1].truth) == 280
    assert [panel.title for panel in panels_of("x", np.tile(truth, 20), np.tile(score, 20), [str(k) for k in range(60)])][
        1
    ] == "0"
    assert len(panels_of("x", np.tile(truth, 20), np.tile(score, 20), [str(k) for k in range(60)])) == 16


def test_pictures_of_probabilities_are_drawn_whatever_there_is(tmp_path: Path) -> None:
    truth, score, _ = scored()
    nothing = np.empty(0, np.float32)
    for number, panels in enumerate(
        (
            panels_of("two $ signs $", truth, score, ("a", "b", "c")),
            [Panel("none", nothing, nothing)],
            panels_of("x", truth, score) * 6,
        )
    ):
        for draw in (draw_reliability, draw_distributions):
            path = tmp_path / f"{number}.png"
            draw(panels, path)
            assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.fixture
def own_wandb() -> Iterator[None]:
    """End the run that wandb keeps open for the rest of the process."""
    yield
    import wandb

    wandb.finish()


@pytest.mark.usefixtures("own_wandb")
def test_a_fit_and_a_test_leave_pictures_throughput_and_a_loss_by_labeler(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[Panel]] = {}

    def draw(panels: list[Panel], path: Path) -> None:
        shown[path.name] = list(panels)
        draw_reliability(panels, path)

    monkeypatch.setattr(hybridpt.evaluation.callbacks, "draw_reliability", draw)
    command = ["--config", str(config), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *command, "--data.gold", "null", "--wandb.mode", "offline", "--trainer.max_epochs", "1"]) == 0
    names = ["val_reliability.png", "val_scores.png"]
    assert {panel.title for panel in shown["val_reliability.png"]} == {"supervised/labels", "clip/labels"}
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["throughput/images_per_s"].dropna().gt(0).all()
    assert metrics["throughput/data_share"].dropna().between(0, 1).all()
    assert metrics["val/supervised/context"].dropna().tolist() == pytest.approx(metrics["val/supervised/nll"].dropna().tolist())
    assert main(["test", *command, "--ckpt_path", str(tmp_path / "best.ckpt"), "--wandb.mode", "offline"]) == 0
    names += [f"test_{objective}_{kind}.png" for objective in ("supervised", "clip") for kind in ("reliability", "scores")]
    assert all((tmp_path / name).stat().st_size > 5000 for name in names)
    titles = [panel.title for panel in shown["test_supervised_reliability.png"]]
    assert titles[0] == "supervised"
    assert set(titles[1:]) == {"Pleural Effusion", "Cardiomegaly"}
    logged = {path.name.rsplit("_", 2)[0] for path in (tmp_path / "wandb").rglob("media/images/**/*.png")}
    assert {"reliability", "scores"} <= logged


def test_the_loss_of_a_labeler_is_that_over_the_cells_it_judged() -> None:
    """Against the loss of a batch in which nobody else looked."""
    from hybridpt.encoders import TimmEncoder
    from hybridpt.module import HybridModule
    from hybridpt.objectives import Step, Supervised
    from tests.hybridpt.test_objectives import SOURCES
    from tests.hybridpt.test_two_processes import share

    torch.manual_seed(0)
    objective = Supervised(label_term="bce", head="linear", unmentioned="ignore")
    model = HybridModule(TimmEncoder("test_resnet"), {"supervised": objective})
    model.build(SOURCES)
    model.eval()
    batch: Any = share(0, 0)
    with torch.no_grad():
        total, count = objective.losses_by_labeler(Step(batch, model.encoders, model.llr, pool=model.pool))
    assert total.shape == count.shape == (2,)
    for s in range(2):
        alone = batch["looked"].clone()
        alone[:, 1 - s] = False
        loss = objective(Step({**batch, "looked": alone}, model.encoders, model.llr, pool=model.pool))["nll"]
        assert float(total[s] / count[s]) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert 0 < count[s] < alone.sum()  # cells that it left unmentioned count for nothing


def test_throughput_leaves_validations_out_and_tells_waiting_from_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 1.0, 4.0, 100.0, 102.0, 104.0])  # start twice, batch after 1 s, step of 3 s, validation, 2 s, 2 s
    monkeypatch.setattr("hybridpt.tracking.time.perf_counter", lambda: next(clock))
    logged: dict[str, float] = {}

    def log(name: str, value: float, sync_dist: bool) -> None:
        assert sync_dist
        logged[name] = value

    model: Any = SimpleNamespace(device=torch.device("cpu"), log=log)
    trainer: Any = SimpleNamespace(world_size=2)
    batch = {"row": torch.arange(8)}
    watch = Throughput()
    watch.on_train_start(trainer, model)
    watch.on_train_epoch_start(trainer, model)
    watch.on_train_batch_start(trainer, model, batch, 0)
    watch.on_train_batch_end(trainer, model, None, batch, 0)
    watch.on_validation_end(trainer, model)
    watch.on_train_batch_start(trainer, model, batch, 1)
    watch.on_train_batch_end(trainer, model, None, batch, 1)
    watch.on_train_epoch_end(trainer, model)
    assert logged == {"throughput/images_per_s": 2 * 16 / 8, "throughput/data_share": 3 / 8}
