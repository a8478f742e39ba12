"""Runs that are killed, stopped, doubled or starved: nothing is lost, nothing half-written, and going on gives what would have been.

Kills come at the changes of files that a seed chooses, in the middle of a checkpoint, and after times that a seed chooses. A longer loop
of the latter::

    HYBRIDPT_KILLS=50 python -m pytest tests/hostile/test_runs.py -k kill
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hybridpt.checkpoint import read_checkpoint
from hybridpt.data.dataset import EpochSampler
from hybridpt.nonfinite import FiniteWatch, Trouble
from labelers.cli import main as labelers
from labelers.errors import InputError
from labelers.io.locks import lock
from tests.hostile.hybrid import Hybrid, one_error
from tests.hostile.processes import Command, CountChanges, Ended, KillAt, KillHalfway, Prepare, SmallFiles, run, shell, until

KILLS = int(os.environ.get("HYBRIDPT_KILLS", "2"))
"""Kills after a random time for each command."""
KILLED = 128 + signal.SIGKILL
PLUGINS, LABELERS = "tests.hostile.plugins", "tests.hostile.bad_labelers"


def callback(name: str, **options: object) -> list[object]:
    """Return the options that add a callback of the plugins."""
    return ["--trainer.callbacks+", json.dumps({"class_path": f"{PLUGINS}.{name}", "init_args": options})]


def fit(hybrid: Hybrid, folder: Path, *options: object) -> list[object]:
    return ["hybridpt", "fit", "--config", hybrid.config, "--trainer.default_root_dir", folder, *options]


def go_on(folder: Path) -> list[object]:
    return ["hybridpt", "fit", "--config", folder / "config.yaml", "--ckpt_path", folder / "last.ckpt"]


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def hidden(folder: Path) -> list[str]:
    """Return what only a process at work may have below a folder: temporary files and locks."""
    return sorted(p.name for p in folder.rglob(".*"))


def assert_same_training(mine: Path, theirs: Path) -> None:
    """Weights, optimizer and schedule are equal to the last bit."""
    a, b = read_checkpoint(mine), read_checkpoint(theirs)
    assert a["global_step"] == b["global_step"] > 0
    assert a["lr_schedulers"] == b["lr_schedulers"]
    assert list(a["state_dict"]) == list(b["state_dict"])
    assert [name for name, value in a["state_dict"].items() if not torch.equal(value, b["state_dict"][name])] == []
    for one, two in zip(a["optimizer_states"][0]["state"].values(), b["optimizer_states"][0]["state"].values(), strict=True):
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def logged(folder: Path) -> set[tuple[tuple[str, str], ...]]:
    """Return all rows of metrics that a run has written, in whatever files, but for how fast it went."""
    rows: list[dict[str, str]] = []
    for path in folder.glob("metrics*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    kept = ({n: v for n, v in row.items() if v and not n.startswith("throughput/")} for row in rows)
    return {tuple(sorted(row.items())) for row in kept if set(row) != {"epoch", "step"}}


def assert_same_run(hybrid: Hybrid, folder: Path, whole: Path) -> None:
    """A run that was disturbed ends as the one that was not: checkpoints, losses, and the results of a test."""
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_training(folder / name, whole / name)
    assert logged(folder) == logged(whole)
    assert run(["hybridpt", "test", "--config", hybrid.config, "--ckpt_path", folder / "best.ckpt"], folder.parent).status == 0
    figures = [pd.read_csv(f / "results.csv").drop(columns="checkpoint") for f in (folder, whole)]
    pd.testing.assert_frame_equal(*figures)
    assert hidden(folder) == []


# --- kill -9 ---------------------------------------------------------------------------------------------------------------------------


def kill_after(command: Command, seconds: float) -> Ended:
    until(lambda: not command.alive(), seconds)
    command.send(signal.SIGKILL)
    return command.wait()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two batches of reports."""
    path = tmp_path_factory.mktemp("reports") / "reports.csv"
    words = ("No pleural effusion.", "Possible early pneumonia.", "The heart is enlarged.", "Small nodule on the left.")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", "text"])
        writer.writerows([f"r{i}", f"{words[i % 4]} {words[(i // 4) % 4]}"] for i in range(1100))
    return path


def test_labeling_that_is_killed_leaves_the_earlier_table_and_can_be_repeated(reports: Path, tmp_path: Path) -> None:
    words = ["labelers", "run", reports, "--labeler", "keywords", "--format", "chexpert", "-o"]
    assert labelers([str(w) for w in (*words[1:], tmp_path / "whole.csv")]) == 0
    new, old = (tmp_path / "whole.csv").read_bytes(), b"an earlier table"
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "labels.csv"
    # The temporary file is made, opened again to be written, and renamed; where one was left, it is opened and removed before.
    for number in (1, 3, 2, 4):
        out.write_bytes(old)
        assert run([*words, out], tmp_path / "streams", KillAt(str(folder), number)).status == KILLED
        assert out.read_bytes() == old
    assert run([*words, out], tmp_path / "streams").status == 0
    assert out.read_bytes() == new
    assert [p.name for p in folder.iterdir()] == [out.name]


def test_labeling_by_several_processes_that_is_killed_at_any_time_can_be_repeated(reports: Path, tmp_path: Path) -> None:
    words = ["labelers", "run", reports, "--labeler", "keywords", "-o"]
    assert labelers([str(w) for w in (*words[1:], tmp_path / "whole.parquet")]) == 0
    new, old = (tmp_path / "whole.parquet").read_bytes(), b"an earlier table"
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "labels.parquet"
    generator = np.random.default_rng(0)
    for _ in range(KILLS):
        out.write_bytes(old)
        kill_after(Command([*words, out, "--jobs", 2], tmp_path / "streams"), generator.uniform(0, 3))
        assert out.read_bytes() in (old, new)
    assert run([*words, out, "--jobs", 2], tmp_path / "streams").status == 0
    assert out.read_bytes() == new
    assert [p.name for p in folder.iterdir()] == [out.name]


PHANTOM = ["hybridpt", "data", "phantom", "--studies", 60, "--size", 32]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A phantom that nobody disturbed, and how often its folder was changed."""
    folder = tmp_path_factory.mktemp("phantom")
    assert run([*PHANTOM, "-o", folder / "set"], folder, CountChanges(str(folder / "set"), str(folder / "count"))).status == 0
    return folder / "set", int((folder / "count").read_text(encoding="utf-8"))


def test_a_phantom_that_is_killed_at_any_change_of_its_folder_can_be_repeated(phantom: tuple[Path, int], tmp_path: Path) -> None:
    """The last changes put the manifest in its place, and take away what only a run at work has."""
    whole, changes = phantom
    chosen = np.random.default_rng(0).choice(np.arange(3, changes - 2), KILLS, replace=False)
    for number in [2, *map(int, chosen), changes - 2, changes - 1, changes]:
        folder = tmp_path / str(number)
        assert run([*PHANTOM, "-o", folder], tmp_path / "streams", KillAt(str(folder), number)).status == KILLED
        assert run([*PHANTOM, "-o", folder], tmp_path / "streams").status == 0
        assert digests(folder) == digests(whole)


def test_a_phantom_that_is_killed_at_any_time_can_be_repeated(phantom: tuple[Path, int], tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    words = [*PHANTOM, "--jobs", 2, "-o", tmp_path / "set"]
    for _ in range(KILLS):
        kill_after(Command(words, tmp_path / "streams"), generator.uniform(0.5, 2))
    assert run(words, tmp_path / "streams").status == 0
    assert digests(tmp_path / "set") == digests(phantom[0])


def survive(hybrid: Hybrid, folder: Path, workers: int, prepare: Prepare | None = None, seconds: float | None = None) -> Ended:
    """Start a fit or go on with it, and kill it; whatever stands under a checkpoint's name afterwards is whole."""
    words = go_on(folder) if (folder / "last.ckpt").exists() else fit(hybrid, folder, "--data.num_workers", workers)
    command = Command(words, folder.parent / "streams", prepare)
    ended = command.wait() if seconds is None else kill_after(command, seconds)
    for path in folder.glob("*.ckpt"):
        read_checkpoint(path, resume=True)
    return ended


@pytest.mark.parametrize("number", [2, 3])
def test_a_fit_that_is_killed_while_it_writes_a_checkpoint_goes_on(
    hybrid: Hybrid, whole: Path, tmp_path: Path, number: int
) -> None:
    """The first last.ckpt, the second one, and best.ckpt are half-written in turn; the second epoch is no better than the first."""
    folder = tmp_path / "run"
    assert survive(hybrid, folder, 0, KillHalfway(number)).status == KILLED
    assert (folder / "last.ckpt").exists() == (number == 3)
    assert survive(hybrid, folder, 0, KillHalfway(1)).status == KILLED
    assert survive(hybrid, folder, 0).status == 0
    assert_same_run(hybrid, folder, whole)


def test_a_fit_that_is_killed_anywhere_goes_on(hybrid: Hybrid, whole: Path, tmp_path: Path) -> None:
    """With processes that read images: those of the killed run must not keep its folder locked."""
    generator = np.random.default_rng(0)
    runs = [tmp_path / "0" / "run"]
    for number in generator.integers(1, 40, 2):
        survive(hybrid, runs[-1], 2, KillAt(str(runs[-1]), int(number)))
    for _ in range(KILLS):
        if survive(hybrid, runs[-1], 2, seconds=generator.uniform(0.2, 2)).status == 0:
            assert_same_run(hybrid, runs[-1], whole)
            runs.append(tmp_path / str(len(runs)) / "run")
    assert survive(hybrid, runs[-1], 2).status == 0
    assert_same_run(hybrid, runs[-1], whole)


# --- processes that outlive their parent -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("what", ["labelers run", "hybridpt data phantom", "hybridpt fit"])
def test_the_children_of_a_killed_process_end_by_themselves(hybrid: Hybrid, reports: Path, tmp_path: Path, what: str) -> None:
    words = {
        "labelers run": ["labelers", "run", reports, "--labeler", f"{LABELERS}:Slow", "--jobs", 2, "-o", tmp_path / "out.csv"],
        "hybridpt data phantom": [
            "hybridpt",
            "data",
            "phantom",
            "--studies",
            3000,
            "--size",
            32,
            "--jobs",
            2,
            "-o",
            tmp_path / "set",
        ],
        "hybridpt fit": fit(hybrid, tmp_path / "run", "--data.num_workers", 2, *callback("Wait", folder=str(tmp_path))),
    }[what]
    command = Command(words, tmp_path / "streams")
    assert until(lambda: len(command.relatives()) >= 2)
    if what == "hybridpt fit":
        assert until((tmp_path / "there").exists)
    command.send(signal.SIGKILL)
    assert command.wait().status == KILLED
    ended = until(lambda: not command.relatives(), 20)
    command.clear()
    assert ended


# --- what is not finite ----------------------------------------------------------------------------------------------------------------

NONFINITE: dict[str, tuple[dict[str, object], list[str], list[str]]] = {
    "nan in an image": ({"what": "image"}, ["supervised/nll", "clip/contrast", "loss"], ["image"]),
    "an infinite image": ({"what": "image", "infinite": True}, ["supervised/nll", "clip/contrast", "loss"], ["image"]),
    "nan in a loss": ({"what": "loss"}, ["supervised/nll", "loss"], []),
    "an infinite loss": ({"what": "loss", "infinite": True}, ["supervised/nll", "loss"], []),
    "nan in a gradient": ({"what": "gradient"}, ["gradients"], []),
    "an infinite gradient": ({"what": "gradient", "infinite": True}, ["gradients"], []),
    "nan in a validation image": ({"what": "image", "stage": "val"}, ["supervised/nll", "clip/contrast", "loss"], ["image"]),
}


@pytest.mark.parametrize("case", NONFINITE)
def test_what_is_not_finite_stops_the_run_and_is_named_in_a_file(
    hybrid: Hybrid, whole: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    options, names, inputs = NONFINITE[case]
    stage = str(options.get("stage", "train"))
    run_folder = tmp_path / "run"
    words = ["--trainer.max_epochs", 2, *callback("Spoil", **options)]
    assert hybrid.run("fit", run_folder, *words) == 1
    captured = capfd.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "error:" in line]
    assert f"{stage}, epoch 1, step {8 if stage == 'val' else 5}" in line
    assert str(run_folder / "nonfinite.json") in line
    body = json.loads((run_folder / "nonfinite.json").read_text(encoding="utf-8"))
    assert (body["stage"], body["epoch"], body["step"]) == (stage, 1, 8 if stage == "val" else 5)
    assert set(body["not_finite"]) == set(names)
    assert list(body["not_finite_in_the_input"]) == inputs
    rows = pd.read_csv(hybrid.data.manifest)
    assert len(body["images"]) == 8
    for image in body["images"]:
        row = rows.iloc[image["row"] - 1]
        assert (image["study_id"], image["dataset"], row["split"]) == (row["study_id"], row["dataset"], stage)
        assert image["study_id"] not in (captured.out + captured.err).split()
    if inputs:
        assert body["not_finite_in_the_input"]["image"] == [body["images"][1]["row"]]
    assert read_checkpoint(run_folder / "last.ckpt", resume=True)["global_step"] == 4
    if case in ("nan in an image", "nan in a gradient"):
        assert run([*go_on(run_folder), "--trainer.callbacks", "null"], tmp_path).status == 0
        assert_same_training(run_folder / "last.ckpt", whole / "last.ckpt")


def test_on_a_gpu_trouble_is_known_one_look_late_and_of_the_right_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU has computed arrives when its event is over, here when it is waited for."""

    class Arrival:
        def __init__(self, flags: torch.Tensor) -> None:
            self.flags, self.sent = flags, flags.clone()
            flags.fill_(True)

        def synchronize(self) -> None:
            self.flags.copy_(self.sent)

    monkeypatch.setattr("hybridpt.nonfinite._sent", lambda flags: (flags, Arrival(flags)))
    watch = FiniteWatch()
    fine, spoilt = ({"loss": torch.tensor(value)} for value in (1.0, float("nan")))
    moments = [Trouble("train", 0, step, (torch.tensor([step]),)) for step in range(4)]
    assert watch.look(fine, moments[0]) is None
    assert watch.look({**fine, **{"other": torch.tensor(float("inf"))}}, moments[1]) is None
    found = watch.look(fine, moments[2])
    assert found is not None
    assert (found.step, found.names, found.rows) == (1, ("other",), moments[1].rows)
    assert watch.look(spoilt, moments[3]) is None
    last = watch.settle()
    assert last is not None
    assert (last.step, last.names) == (3, ("loss",))
    assert watch.settle() is None


def test_gradients_that_overflow_under_a_scaler_do_not_stop_the_run(hybrid: Hybrid, tmp_path: Path) -> None:
    assert hybrid.run("fit", tmp_path, "--trainer.plugins", f"{PLUGINS}.HalfPrecision") == 0
    body = read_checkpoint(tmp_path / "last.ckpt")
    assert body["HalfPrecision"]["scale"] < 2.0**60
    assert all(value.isfinite().all() for value in body["state_dict"].values() if value.is_floating_point())


def test_scores_that_are_not_finite_stop_a_test(
    hybrid: Hybrid, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--ckpt_path", whole / "best.ckpt", *callback("Spoil", what="image", stage="test", step=0)]
    assert hybrid.run("test", tmp_path, *words) == 1
    assert "scores of clip, scores of supervised not finite (test," in one_error(capsys)
    assert json.loads((tmp_path / "nonfinite.json").read_text(encoding="utf-8"))["not_finite_in_the_input"].keys() == {"image"}
    assert not (tmp_path / "results.csv").exists()


# --- two at once -----------------------------------------------------------------------------------------------------------------------


def test_a_lock_is_refused_to_a_second_and_free_after_the_first(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with lock(path, "busy"):
        begun = time.monotonic()
        with pytest.raises(InputError, match=r"^busy$"), lock(path, "busy", patience=0.2):
            pass
        assert time.monotonic() - begun >= 0.2
    assert not path.exists()
    path.touch()  # as a process that was killed leaves it
    with lock(path, "busy"):
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_second_run_into_one_folder_is_refused(
    hybrid: Hybrid, whole: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    given = ["--ckpt_path", whole / "best.ckpt"] if command == "test" else ["--trainer.max_epochs", 1]
    words = ["hybridpt", command, "--config", hybrid.config, "--trainer.default_root_dir", folder, *given]
    first = Command(
        [*words, *callback("Wait", folder=str(tmp_path), stage="test" if command == "test" else "train", step=0)], tmp_path
    )
    assert until((tmp_path / "there").exists)
    before = digests(folder)
    assert hybrid.run(command, folder, *given) == 1
    assert one_error(capsys).endswith(
        f"{folder}: another '{command}' is writing there; wait until it ends, or choose another folder"
    )
    assert digests(folder) == before
    (tmp_path / "go").touch()
    assert first.wait().status == 0
    assert hidden(folder) == []


def test_two_runs_that_are_given_no_folder_take_one_each(hybrid: Hybrid, tmp_path: Path) -> None:
    words = ["hybridpt", "fit", "--config", hybrid.config, "--trainer.max_epochs", 1]
    first = Command([*words, *callback("Wait", folder=str(tmp_path), step=0)], tmp_path)
    assert until((tmp_path / "there").exists)
    assert run(words, tmp_path).status == 0
    (tmp_path / "go").touch()
    assert first.wait().status == 0
    folders = [tmp_path / "runs" / name for name in ("tiny", "tiny-2")]
    assert_same_training(*(folder / "last.ckpt" for folder in folders))


def test_two_processes_that_write_one_table_are_one_too_many(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused before it labels anything; the first is not disturbed."""
    out = tmp_path / "labels.csv"
    first = Command(["labelers", "run", reports, "--labeler", f"{LABELERS}:Slow", "-o", out], tmp_path / "streams")
    assert until(lambda: list(tmp_path.glob(".labels.csv.*")))
    assert labelers(["run", str(reports), "--labeler", "keywords", "-o", str(out)]) == 1
    assert f"{out}: another process is writing it; wait until it ends, or give another name" in one_error(capsys)
    assert first.wait().status == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) > 1100
    assert hidden(tmp_path) == []


# --- a machine that is too small -------------------------------------------------------------------------------------------------------

TOO_SMALL = {
    "GPU": "the GPU's memory is full; run again with a smaller --data.batch_size",
    "memory": "the memory is full; run again with a smaller --data.batch_size",
    "allocator": "the memory is full; run again with a smaller --data.batch_size",
    "worker": "a process that reads images was killed (out of memory?); run again with fewer --data.num_workers",
}


@pytest.mark.parametrize("kind", TOO_SMALL)
def test_a_lack_of_memory_is_one_line_and_leaves_the_last_checkpoint(
    hybrid: Hybrid, whole: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "run"
    ended = run(fit(hybrid, folder, "--data.num_workers", 2, *callback("Fail", kind=kind)), tmp_path)
    assert (ended.status, len(ended.lines)) == (1, 1), ended.err
    assert TOO_SMALL[kind] in ended.lines[0]
    assert read_checkpoint(folder / "last.ckpt", resume=True)["global_step"] == 4
    if kind != "worker":
        return
    assert run([*fit(hybrid, folder, "--data.num_workers", 1), "--ckpt_path", folder / "last.ckpt"], tmp_path).status == 0
    assert_same_training(folder / "last.ckpt", whole / "last.ckpt")


def test_a_labeling_process_that_is_killed_is_one_line(reports: Path, tmp_path: Path) -> None:
    words = [
        "labelers",
        "run",
        reports,
        "--labeler",
        f"{LABELERS}:Killed",
        "--jobs",
        2,
        "-o",
        tmp_path / "out" / "labels.parquet",
    ]
    ended = run(words, tmp_path / "streams")
    assert (ended.status, ended.lines) == (
        1,
        ["labelers: error: a worker process was killed (out of memory?); run again with fewer --jobs"],
    )
    assert digests(tmp_path / "out") == {}


FULL: dict[str, tuple[str, int, str]] = {
    "a checkpoint": ("fit", 100_000, "ckpt: cannot be written (File too large)"),
    "a configuration": ("fit", 1_500, "config.yaml: cannot be written (File too large)"),
    "results": ("test", 3_000, "results.csv: cannot be written (File too large)"),
    "scores of images": ("predict", 3_000, "predictions.csv: cannot be written (File too large)"),
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(hybrid: Hybrid, whole: Path, tmp_path: Path, what: str) -> None:
    """A file that may not grow stands for a disk that is full."""
    command, size, said = FULL[what]
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = digests(folder)
    words = [
        "hybridpt",
        command,
        "--config",
        hybrid.config,
        "--trainer.default_root_dir",
        folder,
        "--ckpt_path",
        folder / "last.ckpt",
    ]
    ended = run([*words, "--trainer.max_epochs", 3, "--trainer.log_every_n_steps", 1], tmp_path / "streams", SmallFiles(size))
    assert (ended.status, len(ended.lines)) == (1, 1), ended.err
    assert said in ended.lines[0]
    after = digests(folder)
    kept = ("best.ckpt", "last.ckpt", "results.csv", "results.png")
    assert [after.get(name) for name in kept] == [before[name] for name in kept]
    assert before["metrics.csv"] in after.values()
    assert hidden(folder) == []


def test_a_run_whose_folder_was_moved_keeps_its_best_checkpoint(hybrid: Hybrid, whole: Path, tmp_path: Path) -> None:
    """The second epoch was no better than the first; told so at its end, the third must beat the first as well."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    words = [*fit(hybrid, folder, "--ckpt_path", folder / "last.ckpt"), "--trainer.max_epochs", 3, "--model.weight_decay", 0.05]
    assert run(words, tmp_path / "streams").status == 0
    criterion = [float(dict(row)["val/criterion"]) for row in sorted(logged(folder)) if "val/criterion" in dict(row)]
    assert len(criterion) == 3
    assert (criterion[0] == min(criterion)) == (digests(folder)["best.ckpt"] == digests(whole)["best.ckpt"])


def test_an_epoch_without_a_validation_is_nothing_to_warn_of(hybrid: Hybrid, tmp_path: Path) -> None:
    ended = run(fit(hybrid, tmp_path / "run", "--trainer.check_val_every_n_epoch", 2), tmp_path / "streams")
    assert ended.status == 0, ended.err
    assert "ModelCheckpoint" not in ended.err


# --- Ctrl-C and SIGTERM ----------------------------------------------------------------------------------------------------------------

SUPERVISED = '{"supervised": {"class_path": "hybridpt.objectives.Supervised", "init_args": {"dim": 16}}}'
PARTS = [
    *("--trainer.val_check_interval", 0.5, "--trainer.accumulate_grad_batches", 2),
    *("--model.objectives", SUPERVISED),  # a contrast would be refused: batches that add up are no negatives of each other
]
STOPS: dict[str, tuple[dict[str, object], list[object]]] = {
    "before the first step": ({"step": 0}, []),
    "in the first epoch": ({"step": 2}, ["--data.num_workers", 2]),
    "in the last step of an epoch": ({"step": 3}, []),
    "in a validation": ({"stage": "val", "step": 4}, ["--data.num_workers", 2]),
    "in a validation within an epoch": ({"stage": "val", "step": 3}, PARTS),
    "between two batches that add up": ({"step": 3}, PARTS),
    "in the last validation": ({"stage": "val", "step": 8}, []),
}


@pytest.fixture(scope="module")
def whole_in_parts(hybrid: Hybrid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as ``whole``, with two validations an epoch and two batches a step."""
    folder = tmp_path_factory.mktemp("parts") / "run"
    assert run(fit(hybrid, folder, *PARTS), folder.parent).status == 0
    return folder


@pytest.mark.parametrize("case", STOPS)
def test_a_run_that_is_stopped_says_how_to_go_on_and_loses_nothing(
    hybrid: Hybrid, whole: Path, whole_in_parts: Path, tmp_path: Path, case: str
) -> None:
    """Going on gives the same weights to the last bit as a run that was never stopped, and the same losses at every step."""
    place, options = STOPS[case]
    number = signal.SIGTERM if "validation" in case else signal.SIGINT
    folder = tmp_path / "run"
    ended = run(fit(hybrid, folder, *options, *callback("Signal", number=int(number), **place)), tmp_path / "streams")
    assert (ended.status, len(ended.lines)) == (128 + number, 1), ended.err
    about, _, command = ended.lines[0].partition("; go on with: ")
    assert about.startswith(f"hybridpt: stopped by {signal.Signals(number).name}; the state after ")
    assert f"is in {folder / 'last.ckpt'}" in about
    assert shlex.split(command) == [str(word) for word in go_on(folder)]
    assert hidden(folder) == []
    assert run([*shlex.split(command), "--trainer.callbacks", "null"], tmp_path / "streams").status == 0
    undisturbed = whole_in_parts if options == PARTS else whole
    assert_same_training(folder / "last.ckpt", undisturbed / "last.ckpt")
    assert_same_training(folder / "best.ckpt", undisturbed / "best.ckpt")
    assert logged(folder) == logged(undisturbed)


def test_a_validation_between_batches_that_add_up_is_not_where_a_run_stops(hybrid: Hybrid, tmp_path: Path) -> None:
    """Gradients of the batches before it would be lost; the run goes on to the end of the step."""
    parts = ["--trainer.val_check_interval", 1, "--trainer.accumulate_grad_batches", 2, "--model.objectives", SUPERVISED]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert run(fit(hybrid, whole, *parts), tmp_path).status == 0
    number = int(signal.SIGTERM)
    assert (
        run(fit(hybrid, folder, *parts, *callback("Signal", number=number, stage="val", step=0)), tmp_path).status == 128 + number
    )
    assert read_checkpoint(folder / "last.ckpt", resume=True)["global_step"] == 1
    assert run([*go_on(folder), "--trainer.callbacks", "null"], tmp_path / "streams").status == 0
    assert_same_training(folder / "last.ckpt", whole / "last.ckpt")


def test_ctrl_c_in_a_terminal_reaches_the_processes_that_read_images_too(hybrid: Hybrid, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = fit(hybrid, folder, "--data.num_workers", 2, *callback("Wait", folder=str(tmp_path), step=2))
    command = Command(words, tmp_path / "streams")
    assert until((tmp_path / "there").exists)
    command.send_all(signal.SIGINT)
    (tmp_path / "go").touch()
    ended = command.wait()
    assert (ended.status, len(ended.lines)) == (130, 1), ended.err
    assert run([*go_on(folder), "--trainer.callbacks", "null"], tmp_path / "streams").status == 0
    assert_same_training(folder / "last.ckpt", whole / "last.ckpt")


def test_a_second_ctrl_c_ends_a_run_at_once(hybrid: Hybrid, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = run(fit(hybrid, folder, *callback("Signal", number=int(signal.SIGINT), times=2)), tmp_path / "streams")
    assert (ended.status, ended.lines) == (130, ["hybridpt: ended at once"])
    assert read_checkpoint(folder / "last.ckpt", resume=True)["global_step"] == 4


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["sanity", "test"])
def test_a_run_that_is_stopped_where_nothing_is_to_be_saved_says_so(
    hybrid: Hybrid, whole: Path, tmp_path: Path, stage: str, number: signal.Signals, status: int
) -> None:
    words = fit(hybrid, tmp_path / "run") if stage == "sanity" else ["hybridpt", "test", "--config", hybrid.config]
    if stage == "test":
        words += ["--trainer.default_root_dir", tmp_path / "run", "--ckpt_path", whole / "best.ckpt"]
    ended = run([*words, *callback("Signal", number=int(number), stage=stage, step=0)], tmp_path / "streams")
    said = f"hybridpt: stopped by {number.name}; nothing half-written was left behind"
    assert (ended.status, ended.lines) == (status, [said]), ended.err
    assert hidden(tmp_path / "run") == []
    assert not list((tmp_path / "run").glob("*.ckpt"))


@pytest.mark.parametrize("program", ["labelers", "hybridpt"])
def test_ctrl_c_at_several_processes_is_one_line_and_leaves_nothing_half_written(
    reports: Path, tmp_path: Path, program: str
) -> None:
    out = tmp_path / "out"
    words = {
        "labelers": ["labelers", "run", reports, "--labeler", f"{LABELERS}:Slow", "--jobs", 2, "-o", out / "labels.parquet"],
        "hybridpt": ["hybridpt", "data", "phantom", "--studies", 3000, "--size", 32, "--jobs", 2, "-o", out],
    }[program]
    command = Command(words, tmp_path / "streams")
    assert until(lambda: len(command.relatives()) >= 2)
    command.send_all(signal.SIGINT)
    ended = command.wait()
    assert (ended.status, len(ended.lines)) == (130, 1), ended.err
    said = {"labelers": "nothing half-written was left behind", "hybridpt": "run the same command again to go on"}[program]
    assert said in ended.lines[0]
    assert "Traceback" not in ended.err
    assert not out.exists() or not list(out.glob("*.csv")) + list(out.glob(".*.part"))
    ended_all = until(lambda: not command.relatives(), 20)
    command.clear()
    assert ended_all


def test_a_real_shell_command_is_stopped_in_the_same_way(hybrid: Hybrid, tmp_path: Path) -> None:
    """Once with everything as a user has it: an interpreter of its own, and a process that sends itself the signal."""
    folder = tmp_path / "run"
    ended = shell(fit(hybrid, folder, *callback("Signal", number=int(signal.SIGTERM), step=2)), tmp_path)
    assert (ended.status, len(ended.lines)) == (143, 1), ended.err
    assert "; go on with: hybridpt fit " in ended.lines[0]
    assert read_checkpoint(folder / "last.ckpt", resume=True)["global_step"] == 2


def test_a_resume_in_the_middle_of_an_epoch_needs_batches_of_the_same_size(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(fit(hybrid, folder, *callback("Signal", number=int(signal.SIGINT), step=2)), tmp_path).status == 130
    before = digests(folder)
    assert hybrid.run("fit", folder, "--ckpt_path", folder / "last.ckpt", "--data.batch_size", 4) == 2
    assert "in the middle of an epoch with 8 images a batch, not 4" in one_error(capsys)
    assert digests(folder)["last.ckpt"] == before["last.ckpt"]
    assert hybrid.run("test", folder, "--ckpt_path", folder / "last.ckpt", "--data.batch_size", 4) == 0


def test_the_order_of_an_epoch_goes_on_where_it_stopped() -> None:
    rows = np.arange(20, dtype=np.int64)
    whole = EpochSampler(rows, 3)
    whole.set_epoch(5)
    expected = list(whole)
    stopped = EpochSampler(rows, 3)
    stopped.go_on(5, 8)
    stopped.set_epoch(5)
    assert list(stopped) == expected[8:]
    stopped.set_epoch(6)
    whole.set_epoch(6)
    assert list(stopped) == list(whole)
