"""The real command line on the tiny data set: fit, validate, test, predict, resume; and what it refuses."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer

import hybridpt
from hybridpt.checkpoint import read_checkpoint
from hybridpt.cli import main
from hybridpt.evaluation.table import COLUMNS
from labelers.errors import InputError
from tests.conftest import Tiny, make_tiny


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says what went wrong."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def test_fit_leaves_checkpoints_config_and_metrics(fitted: Path) -> None:
    assert {"best.ckpt", "last.ckpt", "config.yaml", "metrics.csv"} <= {p.name for p in fitted.iterdir()}
    metrics = pd.read_csv(fitted / "metrics.csv")
    assert {"train/loss", "train/supervised/nll", "train/clip/contrast", "val/criterion"} <= set(metrics.columns)
    assert metrics["val/criterion"].count() == 2


def test_checkpoint_is_plain_and_says_what_it_knows(fitted: Path) -> None:
    body = read_checkpoint(fitted / "best.ckpt")["hybridpt"]
    assert body["sources"]["findings"] == ["Pleural Effusion", "Cardiomegaly"]
    assert body["sources"]["labelers"] == ["context"]
    assert body["model"]["objectives"]["supervised"]["init_args"]["label_term"] == "channel"
    assert not {"p0", "s0"} & set(map(str, body["sources"]["patients"]))


def test_test_writes_rows_a_picture_and_both_tasks(config: Path, fitted: Path, tmp_path: Path) -> None:
    assert run("test", "--config", config, "--ckpt_path", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path) == 0
    table = pd.read_csv(tmp_path / "results.csv")
    assert tuple(table.columns) == COLUMNS
    assert set(table["task"]) == {"supervised", "zero_shot"}
    assert set(table["metric"]) == {"auprc", "auroc", "nll", "ece", "prevalence"}
    row = table[(table.task == "supervised") & (table.finding == "Pleural Effusion") & (table.metric == "auprc")].iloc[0]
    assert row["low"] <= row["value"] <= row["high"]
    assert (tmp_path / "results.png").stat().st_size > 5000


def test_without_gold_the_truth_is_said_to_be_labels(config: Path, fitted: Path, tmp_path: Path) -> None:
    arguments = ["--ckpt_path", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path, "--data.gold", "null"]
    assert run("test", "--config", config, *arguments) == 0
    assert set(pd.read_csv(tmp_path / "results.csv")["task"]) == {"supervised/labels", "zero_shot/labels"}


def test_validate_reads_what_the_fit_logged(
    config: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("validate", "--config", config, "--ckpt_path", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path) == 0
    best = pd.read_csv(fitted / "metrics.csv")["val/criterion"].min()
    again = pd.read_csv(tmp_path / "validate" / "metrics.csv")["val/criterion"].iloc[0]
    assert again == pytest.approx(best, rel=1e-4)


def test_the_criterion_does_not_hang_on_how_the_data_are_cut_into_batches(
    labeled: Tiny, config: Path, fitted: Path, tmp_path: Path
) -> None:
    """Where half of the studies have no label at all: a batch counts by the cells that are judged in it."""
    table = pd.read_parquet(labeled.root / "labels.parquet")
    studies = sorted(pd.read_csv(labeled.manifest, dtype=str).query("split == 'val'")["study_id"])
    table[~table["report_id"].isin(studies[::2])].to_parquet(tmp_path / "half.parquet")
    found = []
    for size in (1, 3, 64):
        folder = tmp_path / str(size)
        words = (
            "--ckpt_path",
            fitted / "best.ckpt",
            "--data.labels",
            f"[{tmp_path / 'half.parquet'}]",
            "--data.batch_size",
            size,
        )
        assert run("validate", "--config", config, *words, "--trainer.default_root_dir", folder) == 0
        found.append(pd.read_csv(folder / "validate" / "metrics.csv").iloc[0])
    assert len(studies) < 64
    for one in found:
        assert one["val/criterion"] == one["val/supervised/nll"] == pytest.approx(found[-1]["val/criterion"], rel=1e-5)
        assert one["val/loss"] == pytest.approx(one["val/supervised/nll"] + 0.1 * one["val/clip/contrast"], rel=1e-5)


def test_predict_and_load_agree(labeled: Tiny, config: Path, fitted: Path, tmp_path: Path) -> None:
    assert run("predict", "--config", config, "--ckpt_path", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path) == 0
    written = pd.read_csv(tmp_path / "predictions.csv").query("task == 'supervised'")
    assert len(written) == 48
    model = hybridpt.load(fitted / "best.ckpt")
    scores = model.predict(list(written["image"]))
    assert list(scores.columns) == ["Pleural Effusion", "Cardiomegaly"]
    np.testing.assert_allclose(scores.to_numpy(), written[list(scores.columns)].to_numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(config: Path, fitted: Path, tmp_path: Path) -> None:
    """Two epochs at once, and one epoch, a stop, and one more, give the same weights to the last bit."""
    folder = tmp_path / "run"
    assert run("fit", "--config", config, "--trainer.default_root_dir", folder, *STOP_AFTER_ONE) == 0
    assert pd.read_csv(folder / "metrics.csv")["val/criterion"].count() == 1
    assert run("fit", "--config", config, "--ckpt_path", folder / "last.ckpt") == 0
    whole, resumed = (read_checkpoint(f / "last.ckpt") for f in (fitted, folder))
    assert resumed["global_step"] == whole["global_step"] > 0
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for mine, theirs in zip(
        *(pd.read_csv(f / "metrics.csv")["val/criterion"].dropna().tail(1) for f in (fitted, folder)), strict=True
    ):
        assert mine == theirs
    assert (folder / "metrics_1.csv").exists()


STOP_AFTER_ONE = ("--trainer.callbacks+", "tests.hybridpt.test_cli.StopAfterOne")


def epochs_of(folder: Path) -> int:
    return int(read_checkpoint(folder / "last.ckpt")["epoch"]) + 1


WORSE = ("--trainer.callbacks+", "tests.hybridpt.test_cli.Worse")
"""Every epoch is worse than the one before it."""


class Worse(Callback):
    """Puts the number of the epoch in the place of val/criterion."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.callback_metrics["val/criterion"].fill_(trainer.current_epoch)


def test_patience_given_by_hand_wins_over_the_checkpoints(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fit", "--config", config, "--data.gold", "null", *WORSE)
    assert run(*words, "--trainer.default_root_dir", tmp_path, "--early_stopping", 1, "--trainer.max_epochs", 9) == 0
    assert epochs_of(tmp_path) == 2
    assert "ended by --early_stopping 1 after epoch 2: val/criterion no longer falls below 0.0000" in capsys.readouterr().out
    go_on = (*words, "--ckpt_path", tmp_path / "last.ckpt")
    assert run(*go_on, "--early_stopping", 3, "--trainer.max_epochs", 9) == 0
    assert epochs_of(tmp_path) == 4
    assert "ended by --early_stopping 3 after epoch 4" in capsys.readouterr().out
    assert run(*go_on, "--early_stopping", 3, "--trainer.max_epochs", 9) == 0  # nothing is left to train
    assert epochs_of(tmp_path) == 4
    assert run(*go_on, "--early_stopping", 9, "--trainer.max_epochs", 5) == 0
    assert epochs_of(tmp_path) == 5
    assert "--early_stopping 9" not in capsys.readouterr().out


def test_patience_counts_epochs_with_a_validation(config: Path, tmp_path: Path) -> None:
    words = ("--early_stopping", 1, "--trainer.max_epochs", 9, "--trainer.check_val_every_n_epoch", 2)
    assert run("fit", "--config", config, "--data.gold", "null", *WORSE, "--trainer.default_root_dir", tmp_path, *words) == 0
    assert epochs_of(tmp_path) == 4


class StopAfterOne(Callback):
    """Ends a run after its first epoch, as if somebody had stopped it."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def test_resuming_with_another_model_is_refused(config: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", config, "--ckpt_path", fitted / "last.ckpt", "--model.lr", "0.1") == 2
    assert "trained with another model: lr differs" in error_of(capsys)


def test_resuming_with_other_channels_is_refused(
    labeled: Tiny, config: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    body = json.loads((labeled.root / "channels.json").read_text(encoding="utf-8"))
    for by_finding in body["channels"]["context"].values():
        for channel in by_finding.values():
            channel["matrix"] = [[0.1, 0.7, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]]
    other.write_text(json.dumps(body), encoding="utf-8")
    arguments = ["--ckpt_path", fitted / "last.ckpt", "--data.channels", other, "--trainer.max_epochs", 3]
    assert run("fit", "--config", config, *arguments) == 2
    assert "not those that the checkpoint was trained with" in error_of(capsys)


@pytest.mark.parametrize("command", ["fit", "test"])
def test_another_image_size_is_refused(config: Path, fitted: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--config", config, "--ckpt_path", fitted / "last.ckpt", "--data.image_size", 48) == 2
    assert "give --data.image_size 32" in error_of(capsys)


def test_another_run_is_not_written_over(config: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (fitted / "last.ckpt").read_bytes()
    assert run("fit", "--config", config, "--trainer.default_root_dir", fitted) == 1
    assert "holds another run" in error_of(capsys)
    assert (fitted / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_command_that_needs_a_checkpoint_says_so(config: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--config", config) == 2
    assert "--ckpt_path" in error_of(capsys)


def test_a_vocabulary_that_differs_from_the_checkpoints_is_refused(
    config: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", config, "--ckpt_path", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path]
    assert run("test", *arguments, "--data.findings", '["Pleural Effusion", "Edema"]') == 1
    message = error_of(capsys)
    assert "lacking: Cardiomegaly" in message
    assert "unknown to it: Edema" in message


def test_patients_that_were_trained_on_are_refused_in_a_test(
    labeled: Tiny, config: Path, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(labeled.manifest)
    table["split"] = table["split"].replace({"train": "test", "test": "train"})
    table.to_csv(labeled.root / "swapped.csv", index=False)
    assert (
        run("test", "--config", config, "--ckpt_path", fitted / "best.ckpt", "--data.manifest", labeled.root / "swapped.csv") == 1
    )
    assert "were trained on by this checkpoint" in error_of(capsys)


def test_a_missing_channel_is_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", config, "--trainer.default_root_dir", tmp_path / "x", "--data.channels", "null") == 2
    assert "needs a measured channel of 'context'" in error_of(capsys)


def test_the_label_term_is_chosen_by_name(config: Path, tmp_path: Path) -> None:
    term = ["--model.objectives.supervised.init_args.label_term", "soft", "--trainer.max_epochs", "1"]
    assert run("fit", "--config", config, "--trainer.default_root_dir", tmp_path, *term) == 0
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["objectives"]["supervised"]["init_args"]["label_term"] == "soft"


def spoil(data: Tiny, count: int) -> None:
    """Cut some images short."""
    for i in range(count):
        path = data.root / "images" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:60])


def broken_images(tmp_path: Path, config: Path, count: int, studies: int) -> list[object]:
    data = make_tiny(tmp_path / "data", studies=studies)
    labels = [str(config.parent / "labels.parquet")]
    spoil(data, count)
    return [
        "--data.manifest",
        data.manifest,
        "--data.labels",
        str(labels),
        "--trainer.default_root_dir",
        tmp_path / "run",
        "--trainer.max_epochs",
        1,
    ]


def test_few_unreadable_images_are_left_out_and_named(config: Path, tmp_path: Path) -> None:
    assert run("fit", "--config", config, *broken_images(tmp_path, config, 1, 120)) == 0
    with (tmp_path / "run" / "quarantine.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(r["image"]).name for r in rows] == ["0.png"]
    assert all(r["reason"] for r in rows)


@pytest.mark.parametrize(("count", "extra", "why"), [(4, [], "more than 1%"), (1, ["--data.strict", "true"], "strict is set")])
def test_unreadable_images_stop_the_run(
    config: Path, tmp_path: Path, count: int, extra: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--config", config, *broken_images(tmp_path, config, count, 120), *extra) == 1
    assert why in error_of(capsys)
    assert (tmp_path / "run" / "quarantine.csv").exists()


def test_an_unknown_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fitt") == 2
    assert "did you mean fit" in error_of(capsys)


@pytest.mark.parametrize("preview", [["--preview"], ["--preview", "true"], []])
def test_a_data_set_is_made_by_its_name(tmp_path: Path, preview: list[str]) -> None:
    assert run("data", "phantom", *preview, "--studies", 6, "--size", 32, "-o", tmp_path / "set") == 0
    assert len(pd.read_csv(tmp_path / "set" / "truth.csv")) == 6
    assert (tmp_path / "set" / "contact_sheet.png").exists() == bool(preview)


def test_a_checkpoint_that_names_a_strange_class_is_refused(fitted: Path, tmp_path: Path) -> None:
    body = read_checkpoint(fitted / "best.ckpt")
    body["hybridpt"]["model"]["image_encoder"]["class_path"] = "antigravity.Anything"
    torch.save(body, tmp_path / "strange.ckpt")
    with pytest.raises(InputError, match="names the class antigravity"):
        hybridpt.load(tmp_path / "strange.ckpt")
    assert "antigravity" not in sys.modules
