"""Files that try to be programs: whatever they hold, nothing of it is executed, and one line says what they are."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import hybridpt
from hybridpt.checkpoint import CheckpointFiles, read_checkpoint
from hybridpt.cli import main
from labelers.cli import main as labelers
from labelers.errors import InputError
from tests.hostile.hybrid import Hybrid, lines_of, one_error
from tests.hostile.payload import Bomb, explode

STRANGE = "tests.hostile.never_imported"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that a payload makes if it is executed."""
    return tmp_path / "executed"


def test_the_payload_would_be_noticed(marker: Path) -> None:
    pickle.loads(explode(marker))
    assert marker.exists()


# --- checkpoints -----------------------------------------------------------------------------------------------------------------------


def beside(body: dict[str, Any], bomb: Bomb, path: Path) -> None:
    torch.save({**body, "extra": bomb}, path)


def in_the_weights(body: dict[str, Any], bomb: Bomb, path: Path) -> None:
    torch.save({**body, "state_dict": {**body["state_dict"], "extra": bomb}}, path)


def in_a_callback(body: dict[str, Any], bomb: Bomb, path: Path) -> None:
    torch.save({**body, "callbacks": {"extra": bomb}}, path)


def in_the_old_format(body: dict[str, Any], bomb: Bomb, path: Path) -> None:
    torch.save({**body, "extra": bomb}, path, _use_new_zipfile_serialization=False)


def alone(body: dict[str, Any], bomb: Bomb, path: Path) -> None:
    path.write_bytes(pickle.dumps(bomb))


CHECKPOINTS: dict[str, Callable[[dict[str, Any], Bomb, Path], None]] = {
    "beside the rest": beside,
    "in the weights": in_the_weights,
    "in a callback's state": in_a_callback,
    "in torch's old format": in_the_old_format,
    "a bare pickle": alone,
}


@pytest.mark.parametrize(
    ("case", "command"),
    [*((case, "fit") for case in CHECKPOINTS), *(("in the weights", c) for c in ("validate", "test", "predict"))],
)
def test_no_checkpoint_is_executed(
    hybrid: Hybrid, whole: Path, tmp_path: Path, marker: Path, case: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.ckpt"
    CHECKPOINTS[case](read_checkpoint(whole / "last.ckpt"), Bomb(marker), path)
    assert hybrid.run(command, tmp_path / "run", "--ckpt_path", path) == 1
    assert "not a checkpoint that can be read safely" in one_error(capsys)
    for read in (hybridpt.load, CheckpointFiles().load_checkpoint):
        with pytest.raises(InputError, match="read safely"):
            read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", [f"{STRANGE}.Encoder", "hybridpt.__main__.Encoder", "os.system", "torch.nn.Linear", "hybridpt.checkpoint.load", 7, ""]
)
def test_a_class_that_a_checkpoint_names_is_imported_only_from_the_encoders_and_objectives(
    whole: Path, tmp_path: Path, name: object
) -> None:
    body = read_checkpoint(whole / "last.ckpt")
    body["hybridpt"]["model"]["image_encoder"] = {"class_path": name, "init_args": {"command": "true"}}
    torch.save(body, tmp_path / "strange.ckpt")
    before = set(sys.modules)
    with pytest.raises(InputError):
        hybridpt.load(tmp_path / "strange.ckpt")
    assert not {module for module in set(sys.modules) - before if module.startswith((STRANGE, "hybridpt.__main__"))}


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": 'test_resnet"); open("executed", "w") #'},
        {"name": 'test_resnet.a"); open("executed", "w") #'},
        {"name": "test_vit", "image_size": '32); open("executed", "w") #'},
    ],
)
def test_an_export_carries_out_no_python_of_a_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: dict[str, Any]
) -> None:
    """The model card's Python, which an export runs, has names and numbers of the checkpoint in it."""
    monkeypatch.chdir(tmp_path)
    body = read_checkpoint(whole / "last.ckpt")
    body["hybridpt"]["model"]["image_encoder"]["init_args"] = arguments
    torch.save(body, "strange.ckpt")
    assert main(["export", "strange.ckpt", "-o", "encoder"]) in (1, 2)
    one_error(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strange.ckpt"]


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a newer version": (lambda b: b["hybridpt"].update(version=9), "expected a checkpoint of version 2, found version 9; update"),
    "an older version": (lambda b: b["hybridpt"].update(version=0), "found version 0; read it with the hybridpt that wrote it"),
    "a version in words": (lambda b: b["hybridpt"].update(version="one"), "found another's"),
    "another's checkpoint": (lambda b: b.pop("hybridpt"), "expected a checkpoint of hybridpt, found another's"),
    "words in place of ours": (lambda b: b.update(hybridpt="words"), "found another's"),
    "no findings": (lambda b: b["hybridpt"].pop("sources"), "what it says of findings"),
    "findings that are numbers": (lambda b: b["hybridpt"]["sources"].update(findings=[1, 2]), "what it says of findings"),
    "an impossible prevalence": (lambda b: b["hybridpt"]["sources"].update(prevalence=[2.0, 0.1]), "what it says of findings"),
    "no image size": (lambda b: b["hybridpt"]["sources"].update(image_size=0), "what it says of findings"),
    "no weights": (lambda b: b.pop("state_dict"), "expected a checkpoint with 'state_dict', found none"),
    "a weight less": (lambda b: b["state_dict"].pop(next(iter(b["state_dict"]))), "its weights do not fit"),
    "weights of another shape": (
        lambda b: b["state_dict"].update({k: v[:1] for k, v in b["state_dict"].items() if v.ndim == 4}),
        "its weights do not fit",
    ),
    "weights that are words": (lambda b: b.update(state_dict={"a": "b"}), "its weights do not fit"),
    "no optimizer": (lambda b: b.pop("optimizer_states"), "expected a checkpoint with 'optimizer_states', found none"),
    "no place in the training": (lambda b: b.pop("loops"), "expected a checkpoint with 'loops', found none"),
    "no version of Lightning": (lambda b: b.pop("pytorch-lightning_version"), "'pytorch-lightning_version', found none"),
    "another learning rate": (lambda b: b["hybridpt"]["model"].update(lr=0.5), "was trained with another model: lr differs"),
    "other findings": (
        lambda b: b["hybridpt"]["sources"].update(findings=["Edema", "Nodule"]),
        "the labels' findings are not the checkpoint's",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_checkpoint_that_is_damaged_or_anothers_is_one_line(
    hybrid: Hybrid, whole: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, said = DAMAGED[case]
    body = read_checkpoint(whole / "last.ckpt")
    damage(body)
    torch.save(body, tmp_path / "damaged.ckpt")
    assert hybrid.run("fit", tmp_path / "run", "--ckpt_path", tmp_path / "damaged.ckpt") in (1, 2)
    assert said in one_error(capsys)


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("kind", ["cut short", "empty", "text", "a folder", "absent"])
def test_what_is_no_checkpoint_is_one_line(
    hybrid: Hybrid, whole: Path, tmp_path: Path, kind: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no.ckpt"
    data = (whole / "last.ckpt").read_bytes()
    contents = {"cut short": data[: len(data) // 2], "empty": b"", "text": b"No pleural effusion.\n"}
    if kind in contents:
        path.write_bytes(contents[kind])
    if kind == "a folder":
        path.mkdir()
    assert hybrid.run(command, tmp_path / "run", "--ckpt_path", path) == 1
    said = {"a folder": "found a folder", "absent": "found no file"}.get(kind, "read safely")
    line = one_error(capsys)
    assert said in line
    assert "effusion" not in line
    assert not (tmp_path / "run").exists()


# --- YAML ------------------------------------------------------------------------------------------------------------------------------

TAGS = {
    "a call": "!!python/object/apply:os.mkdir [{marker}]",
    "an object": "!!python/object/new:subprocess.Popen [[touch, {marker}]]",
    "a module": "!!python/module:tests.hostile.never_imported",
    "a name": "!!python/name:os.system",
    "a local tag": "!touch {marker}",
}


def tagged(kind: str, marker: Path) -> str:
    return TAGS[kind].format(marker=marker)


@pytest.mark.parametrize("kind", TAGS)
def test_no_configuration_is_executed(
    hybrid: Hybrid, tmp_path: Path, marker: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(f"seed_everything: {tagged(kind, marker)}\n", encoding="utf-8")
    assert hybrid.run("fit", tmp_path / "run", "--config", path) == 2
    assert f"{path}, line 1: expected plain options, found a tag that would build an object" in one_error(capsys)
    assert not marker.exists()


def test_the_call_in_yaml_would_be_noticed(marker: Path) -> None:
    yaml.load(tagged("a call", marker), Loader=yaml.UnsafeLoader)
    assert marker.exists()


@pytest.mark.parametrize("kind", TAGS)
def test_no_vocabulary_is_executed(
    hybrid: Hybrid, tmp_path: Path, marker: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text(f"name: chest\nversion: {tagged(kind, marker)}\n", encoding="utf-8")
    words = ["run", hybrid.data.reports, "--set", f"vocabulary={path}", "-o", tmp_path / "out.csv"]
    assert labelers([str(w) for w in words]) in (1, 2)
    one_error(capsys)
    assert not marker.exists()
    assert STRANGE not in sys.modules


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--model.image_encoder", '{"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "MARKER"]}}'),
        ("--model.objectives", '{"x": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "MARKER"]}}}'),
        ("--trainer.callbacks", '{"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "MARKER"]}}'),
        ("--trainer.logger", '{"class_path": "os.mkdir", "init_args": {"path": "MARKER"}}'),
        ("--trainer.plugins", '{"class_path": "os.mkdir", "init_args": {"path": "MARKER"}}'),
    ],
)
def test_a_class_of_another_kind_is_never_called(
    hybrid: Hybrid, tmp_path: Path, marker: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybrid.run("fit", tmp_path / "run", option, value.replace("MARKER", str(marker))) == 2
    one_error(capsys)
    assert not marker.exists()


# --- tables, arrays, channels, plugins -------------------------------------------------------------------------------------------------


def explosive(table: pa.Table, marker: Path) -> pa.Table:
    """Give every column the metadata by which old releases of Arrow unpickled its type."""
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": explode(marker)}
    fields = [field.with_metadata(metadata) for field in table.schema]
    return table.cast(pa.schema(fields)).replace_schema_metadata({**(table.schema.metadata or {}), b"pandas": explode(marker)})


@pytest.mark.filterwarnings("ignore:.*py_extension_type:RuntimeWarning")
@pytest.mark.parametrize("what", ["reports", "labels", "manifest"])
def test_no_parquet_is_executed(
    hybrid: Hybrid, tmp_path: Path, marker: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{what}.parquet"
    frames = {"reports": hybrid.data.reports, "manifest": hybrid.data.manifest}
    table = (
        pq.read_table(hybrid.data.root / "labels.parquet")
        if what == "labels"
        else pa.Table.from_pandas(pd.read_csv(frames[what], dtype=str), preserve_index=False)
    )
    pq.write_table(explosive(table, marker), path)
    if what == "reports":
        status = labelers(["run", str(path), "-o", str(tmp_path / "out.csv")])
    else:
        option = (
            ["--data.labels", f"[{path}]"]
            if what == "labels"
            else ["--data.manifest", path, "--data.image_root", hybrid.data.root]
        )
        status = hybrid.run("fit", tmp_path / "run", *option)
    assert status in (0, 1)
    assert len(lines_of(capsys, "error:")) == status
    assert not marker.exists()


def test_no_array_is_executed(hybrid: Hybrid, tmp_path: Path, marker: Path) -> None:
    """A .npy file of objects is a pickle; such an image is left out and named."""
    rows = pd.read_csv(hybrid.data.manifest, dtype=str)
    rows["image"] = [str(hybrid.data.root / image) for image in rows["image"]]
    rows.loc[0, "image"] = str(tmp_path / "array.npy")
    rows.to_csv(tmp_path / "manifest.csv", index=False)
    np.save(tmp_path / "array.npy", np.array([[Bomb(marker)]], dtype=object), allow_pickle=True)
    assert not marker.exists()
    words = ["--data.manifest", tmp_path / "manifest.csv", "--data.image_root", hybrid.data.root]
    assert hybrid.run("fit", tmp_path / "run", *words) == 0
    quarantined = pd.read_csv(tmp_path / "run" / "quarantine.csv")
    assert [Path(image).name for image in quarantined["image"]] == ["array.npy"]
    assert not marker.exists()


def test_a_labeler_that_channels_or_tables_name_is_never_imported(
    hybrid: Hybrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both name labelers by strings that on the command line would mean a class to import."""
    name = f"{STRANGE}:Labeler"
    channels = json.loads((hybrid.data.root / "channels.json").read_text(encoding="utf-8").replace('"context"', json.dumps(name)))
    (tmp_path / "channels.json").write_text(json.dumps(channels), encoding="utf-8")
    assert labelers(["run", str(hybrid.data.reports), "-o", str(tmp_path / "labels.csv")]) == 0
    table = pd.read_csv(tmp_path / "labels.csv", dtype=str, keep_default_na=False)
    table["source"] = name
    table.to_csv(tmp_path / "labels.csv", index=False)
    capsys.readouterr()
    words = ["--data.labels", f"[{tmp_path / 'labels.csv'}]", "--data.channels", tmp_path / "channels.json"]
    status = hybrid.run("fit", tmp_path / "run", *words)
    assert status in (0, 1)
    assert len(lines_of(capsys, "error:")) == status
    assert STRANGE not in sys.modules


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("os:system", ["command=touch MARKER"]),
        ("subprocess:Popen", ["args=MARKER"]),
        ("pathlib:Path", []),
        ("os:mkdir", ["path=MARKER"]),
        ("builtins:exec", ["source=open('MARKER', 'w')"]),
    ],
)
def test_what_is_no_labeler_is_never_called(
    hybrid: Hybrid, tmp_path: Path, marker: Path, name: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(hybrid.data.reports), "--labeler", name, "-o", str(tmp_path / "out.csv")]
    for option in options:
        words += ["--set", option.replace("MARKER", str(marker))]
    assert labelers(words) == 2
    assert "is not a labeler" in one_error(capsys)
    assert not marker.exists()


def test_a_data_set_is_no_path_to_another_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("../../tests/hostile/payload", "tests.hostile.payload", "_phantom", "datamodule"):
        assert main(["data", name, "-o", str(tmp_path / "set")]) == 2
        assert "unknown data set" in one_error(capsys)


def test_nothing_is_imported_from_the_folder_in_which_a_command_runs(tmp_path: Path, marker: Path) -> None:
    """A folder of data may hold a file with the name of a module that is imported."""
    for name in ("yaml", "torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    script = Path(sys.executable).parent / "labelers"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(script), "list"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
