"""Words planted in reports, patient ids, study ids and names of image files are looked for in everything that commands leave.

What may be where: report text and patient ids in nothing at all. Study ids and paths of images in the files that are there to name
them, which stay beside the run: quarantine.csv, nonfinite.json and predictions.csv.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelers.cli import main as labelers
from tests.conftest import make_tiny
from tests.hostile.hybrid import Hybrid
from tests.hostile.processes import TEMPORARY, run, shell
from tests.hostile.search import BLOCK, contents, forms, leaks

WORDS = {"text": "Zébratext7q", "patient": "Zébrapatient7q", "study": "Zébrastudy7q", "image": "Zébraimage7q"}
PLUGINS = "tests.hostile.plugins"


@dataclass(frozen=True)
class Homes:
    """Puts everything that a program keeps outside its folder into one folder."""

    root: Path

    def variables(self) -> dict[str, str]:
        """Return the variables that do it, and make their folders."""
        names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
        folders = {name: self.root / name.lower() for name in names}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        return {name: str(folder) for name, folder in folders.items()}

    def __call__(self) -> None:
        os.environ.update(self.variables())
        tempfile.tempdir = None


@pytest.fixture(scope="module")
def marked(hybrid: Hybrid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set full of marks, one of its images unreadable; the labels are made by the command line."""
    root = tmp_path_factory.mktemp("marked") / "data"
    make_tiny(root)
    rows = pd.read_csv(root / "manifest.csv", dtype=str)
    for row, old in enumerate(rows["image"]):
        (root / old).rename(root / "images" / f"{row}{WORDS['image']}.png")
    rows["image"] = [f"images/{row}{WORDS['image']}.png" for row in range(len(rows))]
    rows["study_id"] += WORDS["study"]
    rows["patient_id"] += WORDS["patient"]
    rows["report"] = WORDS["text"] + " " + rows["report"] + " " + WORDS["text"] + "."
    rows.to_csv(root / "manifest.csv", index=False)
    reports = rows[["study_id", "report"]].rename(columns={"study_id": "report_id", "report": "text"})
    reports.to_csv(root / "reports.csv", index=False)
    gold = pd.read_csv(root / "gold.csv", dtype=str)
    gold["report_id"] += WORDS["study"]
    gold.to_csv(root / "gold.csv", index=False)
    assert labelers(["run", str(root / "reports.csv"), "-o", str(root / "labels.parquet")]) == 0
    (root / "images" / f"0{WORDS['image']}.png").write_bytes(b"no image")
    return root


def command(hybrid: Hybrid, data: Path, name: str, folder: Path, *options: object) -> list[object]:
    given = [
        *(
            "--data.manifest",
            data / "manifest.csv",
            "--data.labels",
            f"[{data / 'labels.parquet'}]",
            "--data.gold",
            data / "gold.csv",
        ),
        *("--trainer.default_root_dir", folder, "--wandb.mode", "offline", "--data.num_workers", 2),
    ]
    return ["hybridpt", name, "--config", hybrid.config, *given, *options]


def spoil(name: str, **options: object) -> list[object]:
    return ["--trainer.callbacks+", json.dumps({"class_path": f"{PLUGINS}.{name}", "init_args": options})]


def test_a_whole_run_with_failures_in_it_leaks_nothing(
    hybrid: Hybrid, marked: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A fit with a loss that is not finite, a crash that quotes the manifest, test and predict; then every byte is searched."""
    scratch = tmp_path_factory.mktemp("p")  # short, since it holds sockets, whose names have 107 bytes at the most
    folder, homes = scratch / "run", Homes(scratch)
    last = ["--ckpt_path", folder / "last.ckpt"]
    stopped = run(command(hybrid, marked, "fit", folder, *spoil("Spoil", what="image", step=5)), scratch / "1", homes)
    assert (stopped.status, "nonfinite.json names the" in stopped.err) == (1, True)
    words = command(hybrid, marked, "fit", folder, *last, *spoil("Fail", kind="quoting", step=6))
    crashed = shell(words, scratch / "2", **homes.variables())
    assert (crashed.status, "internal error (ValueError)" in crashed.err) == (1, True)
    assert run(command(hybrid, marked, "test", folder, *last), scratch / "3", homes).status == 0
    assert run(command(hybrid, marked, "predict", folder, *last), scratch / "4", homes).status == 0
    names = {path.name for path in scratch.rglob("*") if path.is_file()}
    assert {"best.ckpt", "last.ckpt", "metrics.csv", "config.yaml", "results.csv", "results.png"} <= names
    assert any(name.endswith(".wandb") for name in names)
    known = leaks(scratch, {"finding": "Pleural Effusion", "metric": "val/criterion"})  # what must be there is found there
    for place in (".ckpt!", ".wandb!records", "results.csv", ".table.json"):
        assert any(place in leak for leak in known), place
    assert leaks(Path(TEMPORARY.name), WORDS) == []
    found = [leak.split(": ") for leak in leaks(scratch, WORDS)]
    assert {(Path(place.partition("!")[0]).name, about.partition(" as ")[0]) for place, about in found} == {
        ("quarantine.csv", "image"),
        ("nonfinite.json", "image"),
        ("nonfinite.json", "study"),
        ("predictions.csv", "image"),
        ("predictions.csv", "study"),
    }


def test_wandb_is_given_the_configuration_without_any_path(hybrid: Hybrid, tmp_path: Path) -> None:
    """The folders of the data and of the run bear a patient's name; warnings would stand beside the run's own lines."""
    data, folder = tmp_path / f"data {WORDS['patient']}", tmp_path / WORDS["patient"] / "run"
    shutil.copytree(hybrid.data.root, data)
    ended = run(command(hybrid, data, "fit", folder, "--trainer.max_epochs", 1), tmp_path / "streams")
    assert ended.status == 0, ended.err
    assert "anonymous" not in ended.err
    (file,) = folder.rglob("*.wandb")
    records = dict(contents(file.name, file.read_bytes()))[f"{file.name}!records"]
    for given in (b'"lr":0.003', b'"max_epochs":1', b'"batch_size":8', b'"label_term":"channel"', b'"name":"test_resnet"'):
        assert given in records
    assert [form for form, needle in forms(WORDS["patient"]).items() if needle in records] == []


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "Unpicklable", "MemoryError"])
def test_a_labeler_that_fails_with_the_report_in_its_message_leaks_nothing(
    marked: Path, tmp_path: Path, kind: str, jobs: int
) -> None:
    options = ["--labeler", "tests.hostile.bad_labelers:Quoting", "--set", f"kind={kind}", "--jobs", jobs]
    out = tmp_path / "out" / "labels.parquet"
    ended = run(["labelers", "run", marked / "reports.csv", *options, "-o", out], tmp_path / "streams")
    assert (ended.status, len(ended.err.splitlines())) == (1, 1), ended.err
    assert "the labeler 'quoting'" in ended.err
    assert not out.exists()
    assert leaks(tmp_path, WORDS) == []


# --- that the search would find it -----------------------------------------------------------------------------------------------------


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"before" + data)
    return buffer.getvalue()


def parquet(data: bytes) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"a": [data.decode("latin-1")] * 9}), buffer, compression="zstd")
    return buffer.getvalue()


def wandb_file(data: bytes) -> bytes:
    """A record that is cut in two by the end of a block, in the middle of what is planted."""
    room = BLOCK - 7 - 7
    filling = bytes(room - len(data) // 2)
    first, second = filling + data[: len(data) // 2], data[len(data) // 2 :]
    parts = [struct.pack("<IHB", 0, len(part), kind) + part for part, kind in ((first, 2), (second, 4))]
    return b":W&B\xee\xbe\x00" + b"".join(parts)


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda data: b"before" + data + b"after",
    "zip": zipped,
    "zip in gzip": lambda data: gzip.compress(zipped(data)),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "zlib": zlib.compress,
    "wandb": wandb_file,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_search_finds_every_form_in_every_container(tmp_path: Path, container: str) -> None:
    for form, needle in forms(WORDS["text"]).items():
        path = tmp_path / "planted.bin"
        path.write_bytes(CONTAINERS[container](needle))
        assert any(leak.endswith(f"text as {form}") for leak in leaks(tmp_path, WORDS)), form


def test_the_search_finds_what_libraries_write(tmp_path: Path) -> None:
    word = WORDS["patient"]
    text = f"some text before {word} and after"
    (tmp_path / "a.parquet").write_bytes(parquet(word.encode("latin-1")))
    (tmp_path / "b.json").write_text(json.dumps({"a": text}), encoding="utf-8")
    (tmp_path / "c.txt").write_bytes(base64.b64encode(text.encode()))
    np.savez_compressed(tmp_path / "d.npz", tokens=np.array(list(text.encode())) + 1)
    (tmp_path / f"{word}.txt").touch()
    (tmp_path / word).mkdir()
    found = leaks(tmp_path, WORDS)
    assert {leak.partition(":")[0].partition("!")[0] for leak in found} == {"a.parquet", "b.json", "c.txt", "d.npz", "name"}
