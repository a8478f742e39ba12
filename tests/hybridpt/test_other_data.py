"""Fits that go on with other data, or that have nothing to learn from: what is told, refused, and where the schedule stands."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from hybridpt.cli import main
from hybridpt.optimization import move, warmup_cosine
from tests.conftest import Tiny
from tests.hybridpt.test_cli import error_of


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture
def manifest(labeled: Tiny) -> pd.DataFrame:
    return pd.read_csv(labeled.manifest, dtype=str, keep_default_na=False)


def written(labeled: Tiny, table: pd.DataFrame, name: str) -> Path:
    path = labeled.root / name
    table.to_csv(path, index=False)
    return path


def rates(folder: Path) -> list[float]:
    """Learning rate of each step, as the callback of these tests wrote it."""
    return [float(line) for line in (folder / "rates.txt").read_text(encoding="utf-8").splitlines()]


class Rates(__import__("lightning").Callback):  # type: ignore[misc]
    """Writes the rate of each step and the share of the training that objectives are told."""

    def on_train_batch_end(self, trainer: object, pl_module: object, *_: object) -> None:
        path = Path(trainer.default_root_dir) / "rates.txt"  # type: ignore[attr-defined]
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{trainer.optimizers[0].param_groups[0]['lr']}\n")  # type: ignore[attr-defined]


WATCHED = ("--trainer.callbacks+", "tests.hybridpt.test_other_data.Rates")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 8), (8, 2)])
def test_a_schedule_goes_on_at_its_share_with_other_batches(config: Path, tmp_path: Path, before: int, after: int) -> None:
    """One epoch of four in small batches are more steps than the whole of four in large ones, and no reason to stop learning."""
    folder = tmp_path / "run"
    stop = ("--trainer.callbacks+", "tests.hybridpt.test_cli.StopAfterOne")
    common = ("--config", config, "--trainer.max_epochs", 4)
    assert run("fit", *common, "--data.batch_size", before, "--trainer.default_root_dir", folder, *stop) == 0
    assert run("fit", *common, "--data.batch_size", after, "--ckpt_path", folder / "last.ckpt", *WATCHED) == 0
    assert run("fit", *common, "--data.batch_size", after, "--trainer.default_root_dir", tmp_path / "whole", *WATCHED) == 0
    whole, resumed = rates(tmp_path / "whole"), rates(folder)
    assert len(resumed) == len(whole) // 4 * 3
    assert resumed == pytest.approx(whole[-len(resumed) :])
    assert min(resumed[:-2]) > 0


def test_a_schedule_that_stands_there_is_not_touched() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 0.5}], lr=0.5)
    schedule = warmup_cosine(optimizer, 100, 0.1)
    optimizer.param_groups[0]["lr"] = 0.123
    move(schedule, 0)
    assert optimizer.param_groups[0]["lr"] == 0.123
    move(schedule, 55)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25) == schedule.get_last_lr()[0]
    optimizer.step()
    schedule.step()
    assert schedule.last_epoch == 56
    assert optimizer.param_groups[0]["lr"] < 0.25


@pytest.mark.slow
def test_patients_who_join_on_a_resume_are_refused_in_a_test(
    labeled: Tiny, config: Path, manifest: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = manifest.query("split == 'train'")["patient_id"].unique()
    some = manifest[~manifest["patient_id"].isin(train[::2])]
    later = manifest[manifest["patient_id"].isin(train[::2])].assign(split="test")
    first, tested = written(labeled, some, "some.csv"), written(labeled, later, "later.csv")
    folder = tmp_path / "run"
    common = ("--config", config, "--trainer.default_root_dir", folder)
    assert run("fit", *common, "--data.manifest", first, "--trainer.max_epochs", 1, "--data.batch_size", 4) == 0
    assert run("fit", "--config", config, "--ckpt_path", folder / "last.ckpt", "--data.batch_size", 4) == 0
    capsys.readouterr()
    options = ("--ckpt_path", folder / "last.ckpt", "--data.manifest", tested, "--trainer.default_root_dir", tmp_path / "test")
    assert run("test", "--config", config, *options, "--data.gold", "null") == 1
    assert f"{len(train[::2])} patients of the split 'test' were trained on" in error_of(capsys)


def test_patients_trained_on_are_no_validation_of_the_run_that_goes_on(
    labeled: Tiny, config: Path, fitted: Path, manifest: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = manifest.assign(split=manifest["split"].replace({"train": "val", "val": "train"}))
    path = written(labeled, swapped, "val_swapped.csv")
    options = ("--config", config, "--data.manifest", path)
    assert run("fit", *options, "--ckpt_path", fitted / "last.ckpt", "--trainer.max_epochs", 3) == 1
    assert "patients of the split 'val' were trained on by this checkpoint" in error_of(capsys)
    start = ("--model.init_from", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", 1)
    assert run("fit", *options, *start) == 0
    assert "patients of the split 'val' were trained on by the checkpoint of --model.init_from" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_reports_teaches_a_contrast_nothing(
    labeled: Tiny, config: Path, manifest: pd.DataFrame, tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.loc[manifest["split"] == split, "report"] = ""
    path = written(labeled, manifest, "bare.csv")
    options = ("--config", config, "--data.manifest", path, "--trainer.default_root_dir", tmp_path / "run")
    assert run("fit", *options) == 1
    told = error_of(capsys)
    assert f"of the split '{split}' has a report that describes it, which the objective 'clip' needs" in told
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_labels_teaches_a_head_nothing(
    labeled: Tiny, config: Path, manifest: pd.DataFrame, tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(labeled.root / "labels.parquet")
    mine = manifest.query("split == @split")["study_id"]
    table[~table["report_id"].isin(mine)].to_parquet(tmp_path / "without.parquet")
    options = ("--config", config, "--data.labels", f"[{tmp_path / 'without.parquet'}]", "--data.gold", "null")
    assert run("fit", *options, "--trainer.default_root_dir", tmp_path / "run") == 1
    assert f"of the split '{split}' has a label, which the objective 'supervised' needs" in error_of(capsys)


@pytest.mark.slow
def test_what_is_remembered_by_row_does_not_go_on_with_other_images(
    labeled: Tiny, config: Path, manifest: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = manifest.drop(index=manifest.query("split == 'train'").index[:2])
    path = written(labeled, fewer, "fewer.csv")
    for term, status in (("elr", 2), ("bce", 0)):
        folder = tmp_path / term
        common = ("--config", config, "--model.objectives.supervised.init_args.label_term", term)
        assert run("fit", *common, "--trainer.max_epochs", 1, "--trainer.default_root_dir", folder) == 0
        capsys.readouterr()
        assert run("fit", *common, "--ckpt_path", folder / "last.ckpt", "--data.manifest", path) == status
        if status:
            assert "its objective 'supervised' keeps something of each" in error_of(capsys)
