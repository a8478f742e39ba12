"""What a fit says while it runs and when it ends, and what of its configuration others are given."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from hybridpt.cli import main
from hybridpt.tracking import without_paths


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard output, without how long an epoch took."""
    lines = capsys.readouterr().out.splitlines()
    return [line.rpartition("  ")[0] if line.startswith("epoch ") else line for line in lines]


def test_a_fit_says_where_it_writes_how_it_goes_and_what_comes_next(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a validation after every second epoch; the others have no figures of one."""
    words = ("fit", "--config", config, "--trainer.default_root_dir", tmp_path, "--trainer.check_val_every_n_epoch", 2)
    assert run(*words, "--trainer.max_epochs", 3) == 0
    where, *epochs, outcome = said(capsys)
    assert where == f"the run writes into {tmp_path}"
    assert [(e.partition("  ")[0], "val/criterion" in e, "val/loss" in e) for e in epochs] == [
        ("epoch 1/3", False, False),
        ("epoch 2/3", True, True),
        ("epoch 3/3", False, False),
    ]
    figure = epochs[1].split()[epochs[1].split().index("val/criterion") + 1]
    about, _, command = outcome.partition("; test it with: ")
    assert about == f"the best checkpoint is {tmp_path / 'best.ckpt'} (epoch 2, val/criterion {figure})"
    assert run(*shlex.split(command)[1:]) == 0
    assert (tmp_path / "results.csv").exists()
    assert not [line for line in said(capsys) if "the run writes into" in line or "the best checkpoint" in line]
    assert run(*words, "--trainer.max_epochs", 3, "--ckpt_path", tmp_path / "last.ckpt") == 0  # nothing is left to train
    assert said(capsys)[-1] == outcome


def test_the_configuration_of_a_run_that_went_on_says_nothing_of_where(config: Path, fitted: Path, tmp_path: Path) -> None:
    words = ("--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", 3)
    assert run("fit", "--config", config, "--ckpt_path", fitted / "last.ckpt", *words) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["ckpt_path"] is None


def test_a_fit_without_a_best_checkpoint_says_so(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a validation there is none, and one that was deleted is not looked for."""
    words = ("fit", "--config", config, "--trainer.default_root_dir", tmp_path, "--trainer.limit_val_batches", 0)
    none = f"no validation chose a best checkpoint; the last state is in {tmp_path / 'last.ckpt'}"
    assert run(*words, "--trainer.max_epochs", 1) == 0
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"last.ckpt"}
    assert said(capsys)[-1] == none
    go_on = (*words, "--ckpt_path", tmp_path / "last.ckpt")
    assert run(*go_on, "--trainer.limit_val_batches", 1.0, "--trainer.max_epochs", 2) == 0
    assert "(epoch 2, " in said(capsys)[-1]
    (tmp_path / "best.ckpt").unlink()
    assert run(*go_on, "--trainer.max_epochs", 3) == 0
    assert said(capsys)[-1] == none


def test_a_fit_of_so_many_steps_shows_steps(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--trainer.max_epochs", -1, "--trainer.max_steps", 6)
    assert run("fit", "--config", config, "--trainer.default_root_dir", tmp_path, *words) == 0
    epochs = [line for line in said(capsys) if line.startswith("epoch ")]
    assert [line.partition("  train/loss")[0] for line in epochs] == ["epoch 1  step 4/6", "epoch 2  step 6/6"]


def test_what_may_be_a_path_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Smith").mkdir()
    config = {
        "lr": 0.1,
        "ema": None,
        "compile": True,
        "name": "resnet50",
        "init_from": "Smith",
        "data": {"labels": ["a.parquet", "runs/Smith/b.parquet"], "findings": ["Edema"], "gold": Path("gold.csv")},
        "callbacks": [{"class_path": "a.B", "init_args": {"folder": "/Smith", "k": 1}}],
    }
    assert without_paths(config) == {
        "lr": 0.1,
        "ema": None,
        "compile": True,
        "name": "resnet50",
        "data": {"findings": ["Edema"]},
        "callbacks": [{"class_path": "a.B", "init_args": {"k": 1}}],
    }
