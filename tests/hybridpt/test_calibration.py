"""Calibration on gold that was not trained on: the line on the log-odds against known truth, and what a fit makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import hybridpt
from hybridpt.checkpoint import load_weights, read_checkpoint
from hybridpt.cli import main
from hybridpt.functional.platt import Platt, fit_platt
from hybridpt.module import HybridModule
from tests.conftest import Tiny

PREVALENCE = np.array([0.5, 0.3, 0.2, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.03, 0.02, 0.0125])
SEPARATION = np.array([1.5, 1.0, 2.0, 0.7, 1.5, 1.0, 2.5, 1.5, 1.0, 0.7, 2.0, 1.5])
ROWS = 400
"""Gold studies: 5 to 200 positives a finding."""
SEEDS = 8

Distortion = Callable[[np.random.Generator], tuple[Any, Any]]
DISTORTIONS: dict[str, Distortion] = {
    "none": lambda rng: (1.0, 0.0),
    "too sure": lambda rng: (2.0, 1.0),
    "not sure enough": lambda rng: (0.5, -0.5),
    "too many": lambda rng: (1.0, 1.5),
    "each its own": lambda rng: (np.exp(rng.normal(0, 0.35, len(PREVALENCE))), rng.normal(0, 0.8, len(PREVALENCE))),
}


def drawn(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and the exact log-odds of it: a normal score that is shifted where the finding is present."""
    truth = (rng.random((rows, len(PREVALENCE))) < PREVALENCE).astype(float)
    score = rng.normal(0, 1, truth.shape) + truth * SEPARATION
    return truth, np.log(PREVALENCE / (1 - PREVALENCE)) + SEPARATION * score - SEPARATION**2 / 2


def nll(logit: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.mean(np.logaddexp(0, logit) - truth * logit, axis=0)


def line(logit: np.ndarray, truth: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    given = np.ones(len(truth)) if weight is None else weight
    slope, intercept = fit_platt(torch.from_numpy(logit), torch.from_numpy(truth), torch.from_numpy(given))
    return slope.numpy(), intercept.numpy()


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_a_good_model_is_left_alone_and_a_distorted_one_is_mended(kind: str) -> None:
    """In nats above the exact posterior, on 20,000 studies that were not fitted on; findings have 5 to 200 positives in the gold."""
    before, after = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        slope, shift = DISTORTIONS[kind](rng)
        (gold, exact), (truth, posterior) = drawn(rng, ROWS), drawn(rng, 20_000)
        a, b = line(exact * slope + shift, gold)
        given = posterior * slope + shift
        before.append(nll(given, truth) - nll(posterior, truth))
        after.append(nll(a * given + b, truth) - nll(posterior, truth))
    lost, left = np.mean(before), np.mean(after)
    assert left < 0.003
    assert np.mean(after, axis=0).max() < 0.008  # no finding is paid for by the others
    if kind == "none":
        assert left < 0.001  # two numbers a finding, freely fitted, cost 1 / ROWS = 0.0025 and more
    else:
        assert left < 0.15 * lost


def test_with_much_gold_it_is_logistic_regression() -> None:
    truth, exact = drawn(np.random.default_rng(0), 60_000)
    logit = exact * np.linspace(0.5, 2, len(PREVALENCE)) + 0.7
    slope, intercept = line(logit, truth)
    for k in range(len(PREVALENCE)):
        free = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, [k]], truth[:, k])
        assert slope[k] == pytest.approx(free.coef_[0, 0], rel=0.03)
        assert intercept[k] == pytest.approx(free.intercept_[0], abs=0.05)


def test_a_finding_with_few_positives_borrows_what_the_others_have_in_common() -> None:
    """A model twice too sure everywhere: three positives alone could not tell the slope."""
    rng = np.random.default_rng(1)
    truth, exact = drawn(rng, 2000)
    rare = np.flatnonzero(truth[:, -1])[3:]
    truth[rare, -1] = np.nan  # three positives are left
    slope, _ = line(exact * 2, truth)
    assert 0.35 < slope[-1] < 0.7
    alone, _ = line(exact[:, -1:] * 2, truth[:, -1:])
    assert abs(slope[-1] - 0.5) < abs(alone[0] - 0.5)


def test_whatever_the_gold_the_line_rises_and_is_finite() -> None:
    rng = np.random.default_rng(2)
    for logit, truth in (
        (rng.normal(0, 1e4, (9, 3)), (rng.random((9, 3)) < 0.5).astype(float)),  # beyond all reason
        (np.linspace(-3, 3, 12).reshape(6, 2), np.zeros((6, 2))),
        (np.linspace(-3, 3, 12).reshape(6, 2), np.ones((6, 2))),
        (np.full((4, 1), 2.0), np.array([[1.0], [0], [0], [1]])),  # a model that says the same of all
        (np.array([[-5.0]]), np.array([[1.0]])),
    ):
        slope, intercept = line(logit, truth)
        assert np.isfinite(intercept).all()
        assert (slope > 0).all()
    logit = rng.normal(0, 2, (500, 1))
    assert 0 < line(logit, (logit < 0).astype(float))[0][0] < 0.5  # wrong way round: flat, and not turned over


def test_findings_that_nobody_judged_stay_as_they_are() -> None:
    truth, exact = drawn(np.random.default_rng(3), 300)
    truth[:, 4] = np.nan
    slope, intercept = line(exact * 2, truth)
    assert (slope[4], intercept[4]) == (1, 0)
    assert (slope[:4] < 0.8).all()
    nothing = line(exact, np.full_like(truth, np.nan))
    assert (nothing[0] == 1).all()
    assert (nothing[1] == 0).all()


def test_a_study_counts_once_however_many_images_it_has() -> None:
    truth, exact = drawn(np.random.default_rng(4), 200)
    images = np.arange(200).repeat(np.arange(200) % 3 + 1)
    weight = 1 / np.bincount(images)[images]
    np.testing.assert_allclose(line(exact[images], truth[images], weight), line(exact, truth), atol=1e-5)


def test_lines_are_kept_with_the_weights_and_change_nothing_at_first() -> None:
    logit = torch.randn(5, 3)
    platt = Platt(3)
    assert torch.equal(platt(logit), logit)
    platt.set(torch.tensor([2.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, -1.0]))
    again = torch.nn.ModuleDict({"head": Platt(3)})
    again.load_state_dict({f"head.{n}": v for n, v in platt.state_dict().items()})
    assert torch.equal(again["head"](logit), logit * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([0.0, 1.0, -1.0]))
    old = torch.nn.ModuleDict({"head": Platt(3)})
    old.load_state_dict({})  # of before there were any
    assert torch.equal(old["head"](logit), logit)
    with pytest.raises(RuntimeError, match=r"head\.intercept"):
        old.load_state_dict({"head.slope": torch.ones(3)})


# --- in a fit ----------------------------------------------------------------------------------------------------------------------------


class Keep(Callback):
    """Keeps the log-odds and rows of the last validation; another callback sees them in the same order."""

    parts: ClassVar[list[tuple[Tensor, dict[str, Tensor]]]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.parts.clear()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *rest: Any) -> None:
        self.parts.append((batch["row"], outputs))


def lines_of(checkpoint: Path) -> dict[str, Tensor]:
    state = read_checkpoint(checkpoint)["state_dict"]
    return {name.removeprefix("calibration."): value for name, value in state.items() if name.startswith("calibration.")}


def identity(lines: dict[str, Tensor]) -> bool:
    return all(bool((value == (1 if name.endswith("slope") else 0)).all()) for name, value in lines.items()) and bool(lines)


def fit(config: Path, folder: Path, *options: object) -> Path:
    given = ["fit", "--config", config, "--trainer.default_root_dir", folder, "--trainer.max_epochs", 1, *options]
    assert main([str(word) for word in given]) == 0
    return folder


@pytest.fixture(scope="module")
def views(labeled: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options for a manifest in which every other val study has a second image."""
    folder = tmp_path_factory.mktemp("views")
    rows = pd.read_csv(labeled.manifest, dtype=str)
    second = rows[rows["split"] == "val"][::2].copy()
    for image in second["image"]:
        Image.open(labeled.root / image).rotate(180).save(folder / Path(image).name)
    second["image"] = [str(folder / Path(image).name) for image in second["image"]]
    rows["image"] = [str(labeled.root / image) for image in rows["image"]]
    pd.concat([rows, second]).to_csv(folder / "manifest.csv", index=False)
    return ("--data.manifest", folder / "manifest.csv", "--data.image_root", labeled.root)


@pytest.fixture(scope="module")
def calibrated(config: Path, views: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of one epoch, after which ``Keep.parts`` are those of its validation."""
    return fit(config, tmp_path_factory.mktemp("calibrated") / "run", *views, "--trainer.callbacks+", f"{__name__}.Keep")


def test_a_checkpoint_holds_the_calibration_of_its_own_weights(
    calibrated: Path, views: tuple[object, ...], labeled: Tiny
) -> None:
    rows = torch.cat([rows for rows, _ in Keep.parts])
    study = pd.read_csv(str(views[1]))["study_id"].iloc[rows.tolist()]
    images = study.map(study.value_counts()).to_numpy()
    assert sorted(images) == [1] * 4 + [2] * 8
    gold = pd.read_csv(labeled.gold, index_col="report_id").loc[study, ["Pleural Effusion", "Cardiomegaly"]].to_numpy(float)
    lines = lines_of(calibrated / "best.ckpt")
    assert sorted(lines) == ["clip.intercept", "clip.slope", "supervised.intercept", "supervised.slope"]
    for name in ("supervised", "clip"):
        logit = torch.cat([outputs[name] for _, outputs in Keep.parts])
        slope, intercept = fit_platt(logit, torch.from_numpy(gold), torch.from_numpy(1 / images))
        torch.testing.assert_close(lines[f"{name}.slope"], slope.float())
        torch.testing.assert_close(lines[f"{name}.intercept"], intercept.float())
    assert not identity(lines)


def test_scores_are_calibrated_everywhere_and_losses_nowhere(
    calibrated: Path, views: tuple[object, ...], config: Path, labeled: Tiny, tmp_path: Path
) -> None:
    model = hybridpt.load(calibrated / "best.ckpt")
    images = [str(labeled.root / image) for image in pd.read_csv(labeled.manifest)["image"][:6]]
    scores = torch.tensor(model.predict(images).to_numpy())
    line: Any = model.calibration["supervised"]
    slope, intercept = line.slope.clone(), line.intercept.clone()
    line.set(torch.ones(2), torch.zeros(2))
    raw = torch.tensor(model.predict(images).to_numpy())
    torch.testing.assert_close(scores, torch.sigmoid(torch.logit(raw) * slope + intercept), atol=1e-5, rtol=1e-4)
    assert (scores - raw).abs().max() > 1e-3
    words = ["--config", str(config), "--ckpt_path", str(calibrated / "best.ckpt"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["predict", *words]) == 0
    written = pd.read_csv(tmp_path / "predictions.csv").query("task == 'supervised'")[["Pleural Effusion", "Cardiomegaly"]]
    np.testing.assert_allclose(written.to_numpy()[:6], scores, atol=1e-4)
    plain = fit(config, tmp_path / "plain", *views, "--data.gold", "null")
    ours, theirs = (pd.read_csv(run / "metrics.csv").filter(regex="^(train|val)/") for run in (calibrated, plain))
    pd.testing.assert_frame_equal(ours, theirs)
    assert identity(lines_of(plain / "best.ckpt"))


@pytest.mark.parametrize(
    "why", ["switched off", "gold of training studies", "gold that is trained on", "of patients trained on before"]
)
def test_nothing_is_calibrated_without_gold_that_was_not_trained_on(
    why: str, config: Path, labeled: Tiny, calibrated: Path, tmp_path: Path
) -> None:
    manifest, gold = pd.read_csv(labeled.manifest, dtype=str), pd.read_csv(labeled.gold, dtype=str)
    train = manifest["study_id"][manifest["split"] == "train"]
    gold[gold["report_id"].isin(train)].to_csv(tmp_path / "train.csv", index=False)
    swapped = manifest.assign(split=manifest["split"].replace({"train": "val", "val": "train"}))
    swapped["image"] = [str(labeled.root / image) for image in swapped["image"]]
    swapped.to_csv(tmp_path / "swapped.csv", index=False)
    begun = ["--model.init_from", calibrated / "best.ckpt", "--data.manifest", tmp_path / "swapped.csv"]
    options: dict[str, list[object]] = {
        "switched off": ["--calibrate", "false"],
        "gold of training studies": ["--data.gold", tmp_path / "train.csv"],
        "gold that is trained on": ["--data.gold", "null", "--data.train_gold", labeled.gold],
        "of patients trained on before": [*begun, "--data.image_root", labeled.root],
    }
    assert identity(lines_of(fit(config, tmp_path / "run", *options[why]) / "last.ckpt"))


def test_a_mean_of_the_weights_is_calibrated_and_saved_with_its_line(config: Path, tmp_path: Path) -> None:
    run = fit(config, tmp_path / "run", "--model.ema", 0.5, "--trainer.callbacks+", f"{__name__}.Keep", "--trainer.max_epochs", 2)
    body = read_checkpoint(run / "last.ckpt")
    lines, raw = lines_of(run / "last.ckpt"), body["hybridpt_trained_weights"]
    assert not identity(lines)
    assert all(torch.equal(raw[f"calibration.{name}"], value) for name, value in lines.items())
    logit = torch.cat([outputs["supervised"] for _, outputs in Keep.parts])
    data = pd.read_csv(config.parent / "manifest.csv").iloc[torch.cat([rows for rows, _ in Keep.parts]).tolist()]
    gold = pd.read_csv(config.parent / "gold.csv", index_col="report_id").loc[data["study_id"]].to_numpy(float)
    slope, _ = fit_platt(logit, torch.from_numpy(gold), torch.ones(len(gold)))
    torch.testing.assert_close(lines["supervised.slope"], slope.float())


def test_a_checkpoint_of_before_calibration_loads_and_is_gone_on_with(calibrated: Path, config: Path, tmp_path: Path) -> None:
    body = read_checkpoint(calibrated / "last.ckpt")
    body["state_dict"] = {n: v for n, v in body["state_dict"].items() if not n.startswith("calibration.")}
    del body["hybridpt"]["kept"]
    (tmp_path / "run").mkdir()
    torch.save(body, tmp_path / "run" / "last.ckpt")
    model = hybridpt.load(tmp_path / "run" / "last.ckpt")
    assert isinstance(model, HybridModule)
    load_weights(model, body, "old.ckpt")
    assert all(identity({f"{n}.{k}": v for k, v in m.state_dict().items()}) for n, m in model.calibration.items())
    words = ["fit", "--config", config, "--ckpt_path", tmp_path / "run" / "last.ckpt", "--trainer.max_epochs", 2]
    assert main([str(word) for word in words]) == 0
    assert not identity(lines_of(tmp_path / "run" / "last.ckpt"))
