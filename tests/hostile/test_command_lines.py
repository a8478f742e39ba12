"""Command lines and configurations that are wrong: one line says how, and nothing is made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hybridpt.cli import main
from tests.hostile.hybrid import Hybrid, one_error

WRONG: dict[str, tuple[list[object], str]] = {
    "an unknown option": (["--trainer.epochs", 3], "unrecognized arguments: --trainer.epochs 3"),
    "an abbreviated option": (["--trainer.max_epoch", 3], "unrecognized arguments: --trainer.max_epoch 3"),
    "an unknown option of the data": (["--data.batchsize", 3], "unrecognized arguments: --data.batchsize 3"),
    "a misspelled class": (["--model.image_encoder", "hybridpt.encoders.TimEncoder"], "no attribute 'TimEncoder'"),
    "a class of another kind": (
        ["--model.image_encoder", "hybridpt.objectives.Clip"],
        "not correspond to a subclass of ImageEncoder",
    ),
    "no objective": (["--model.objectives", "{}"], "expected one objective or more"),
    "a negative batch size": (["--data.batch_size", -1], "--data.batch_size: expected a whole number from 1"),
    "a batch size in words": (["--data.batch_size", "many"], "data.batch_size"),
    "fewer than no workers": (["--data.num_workers", -1], "--data.num_workers: expected a whole number from 0"),
    "images without pixels": (["--data.image_size", 0], "--data.image_size: expected a whole number from 8"),
    "images beyond any memory": (["--data.image_size", 10**8], "--data.image_size: expected a whole number from 8"),
    "a negative seed of the data": (["--data.seed", -1], "--data.seed: expected a whole number from 0"),
    "a learning rate that is no number": (["--model.lr", "nan"], "model.lr"),
    "a negative learning rate": (["--model.lr", -1], "--model.lr: expected a finite number above 0, got -1"),
    "no learning rate": (["--model.lr", 0], "--model.lr: expected a finite number above 0, got 0"),
    "negative weight decay": (["--model.weight_decay", -1], "--model.weight_decay: expected a finite number from 0"),
    "warm-up without an end": (["--model.warmup", 1], "--model.warmup: expected a number from 0 to below 1"),
    "no epochs": (["--trainer.max_epochs", 0], "--trainer.max_epochs: expected a number from 1, got 0"),
    "endless epochs": (["--trainer.max_epochs", -1], "--trainer.max_epochs: expected a number from 1, got -1"),
    "no training batches": (["--trainer.limit_train_batches", 0], "--trainer.limit_train_batches: expected a number above 0"),
    "no accumulation": (["--trainer.accumulate_grad_batches", 0], "accumulate_grad_batches: expected a number from 1"),
    "a negative limit of gradients": (["--trainer.gradient_clip_val", -1], "gradient_clip_val: expected a number from 0"),
    "more processes than cores": (["--trainer.devices", 999], f"--trainer.devices: expected at most {os.cpu_count()}, the cores"),
    "no device": (["--trainer.devices", 0], "devices"),
    "devices in words": (["--trainer.devices", "lots"], "devices"),
    "an unknown accelerator": (["--trainer.accelerator", "quantum"], "accelerator"),
    "an unknown precision": (["--trainer.precision", 17], "trainer.precision"),
    "a negative seed": (["--seed_everything", -1], "--seed_everything: expected a number from 0 to 4294967295, got -1"),
    "no steps": (["--trainer.max_steps", 0], "--trainer.max_steps: expected a number from 1, or -1 for no limit, got 0"),
    "the same batches again": (["--trainer.overfit_batches", 2], "expected 0, got 2; give --trainer.limit_train_batches 2"),
    "weights of 16 bits": (["--trainer.precision", "bf16-true"], "expected 32-true, bf16-mixed or 16-mixed, got bf16-true"),
    "weights of 64 bits": (["--trainer.precision", 64], "expected 32-true, bf16-mixed or 16-mixed, got 64"),
    "a search for the learning rate": (
        ["--trainer.callbacks+", "lightning.pytorch.callbacks.LearningRateFinder"],
        "got LearningRateFinder; give --model.lr",
    ),
    "a search for the batch size": (
        ["--trainer.callbacks+", "lightning.pytorch.callbacks.BatchSizeFinder"],
        "got BatchSizeFinder; give --model.lr and --data.batch_size",
    ),
    "patience without validations": (
        ["--early_stopping", 1, "--trainer.limit_val_batches", 0],
        "--early_stopping 1: expected a fit with validations, got one without",
    ),
    "patience that ends before the first validation": (
        ["--early_stopping", 1, "--trainer.check_val_every_n_epoch", 2],
        "--early_stopping 1: expected a fit with validations, got one without",
    ),
    "a seed of 67 bits": (["--seed_everything", 10**20], "--seed_everything: expected a number from 0 to 4294967295"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    hybrid: Hybrid, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = WRONG[case]
    assert hybrid.run("fit", tmp_path / "run", *options) == 2
    line = one_error(capsys)
    assert said in line
    assert len(line) < 600
    assert not (tmp_path / "run").exists()


def test_an_option_that_does_not_fit_the_data_is_wrong_use(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybrid.run("fit", tmp_path, "--trainer.val_check_interval", 999) == 2
    assert "`val_check_interval` (999) must be less than or equal to the number of the training batches (4)" in one_error(capsys)


def mapping(levels: int) -> str:
    """Nested aliases: ten to the power of the levels values in a few lines."""
    first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    return first + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))


CONFIGURATIONS: dict[str, tuple[str | bytes, str]] = {
    "bytes that are no text": (bytes(range(256)), "as UTF-8 text, found other bytes"),
    "UTF-16": ("trainer: {}".encode("utf-16"), "as UTF-8 text, found other bytes"),
    "a NUL byte": (b"trainer: {}\x00", "as UTF-8 text, found other bytes"),
    "nothing": ("", "expected a mapping of options"),
    "a list": ("- trainer\n- model\n", "expected a mapping of options"),
    "a report": ("FINDINGS: No pleural effusion.\nIMPRESSION: Normal.\n", "line 1: expected the name of an option"),
    "a table": ("report_id,text\nr1,No pleural effusion.\n", "expected a mapping of options"),
    "tabs": ("trainer:\n\tmax_epochs: 1\n", "line 2: not YAML"),
    "an open bracket": ("trainer: {max_epochs: 1\n", "not YAML"),
    "an option twice": (
        "data: {}\nmodel: {lr: 1, lr: 2}\n",
        "line 2: expected plain options, found an option that the same mapping",
    ),
    "two documents": ("data: {}\n---\ndata: {}\n", "expected one YAML document, found 2"),
    "an alias of what it is in": ("trainer: &a\n  logger: *a\n", "line 2: expected plain options, found an alias"),
    "a merge that an older option undoes": ("x: &x {max_epochs: 1}\ntrainer:\n  <<: *x\n", "does not accept option"),
    "aliases without end": (mapping(12), "line 5: expected plain options, found aliases that stand for more than 100,000 values"),
    "brackets without end": ("trainer: " + "[" * 100_000, "nested more than 100 deep"),
    "a megabyte": ("# nothing\n" * 200_000, "at most 1,000,000 bytes, found more"),
    "a number that is none": ("model: {lr: .nan}\n", "--model.lr: expected a finite number above 0, got nan"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_broken_configuration_is_one_line_that_quotes_nothing(
    hybrid: Hybrid, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, said = CONFIGURATIONS[case]
    path = tmp_path / "given.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    begun = time.monotonic()
    assert hybrid.run("fit", tmp_path / "run", "--config", path) == 2
    assert time.monotonic() - begun < 10
    line = one_error(capsys)
    assert said in line
    assert "effusion" not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("folder", "found a folder"), ("missing", "found no file"), ("pipe", "found a device or a pipe")]
)
def test_a_configuration_that_is_no_file_is_refused(
    tmp_path: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{name}.yaml"
    if name == "folder":
        path.mkdir()
    if name == "pipe":
        os.mkfifo(path)
    assert main(["fit", "--config", str(path)]) == 2
    assert f"{path}: expected a configuration, {said}" in one_error(capsys)


def test_wandb_is_given_no_other_folder_than_the_runs(hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wandb").write_text("a file stands in its way", encoding="utf-8")
    assert hybrid.run("fit", tmp_path, "--wandb.mode", "offline") == 1
    assert f"{tmp_path / 'wandb'}: expected a folder that wandb can write to" in one_error(capsys)
