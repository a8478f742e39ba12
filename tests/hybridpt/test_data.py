"""Manifests, images and joined labels: what comes in right, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hybridpt.batch import View
from hybridpt.data.dataset import Collate, EpochSampler, Key, Sample, Table
from hybridpt.data.images import UnreadableImage, read_image
from hybridpt.data.labels import JoinedLabels, join_gold, join_labels, read_tables, truth_of_states
from hybridpt.data.manifest import read_manifest
from hybridpt.data.sources import Sources, keyed_hash
from hybridpt.data.text import report_text
from hybridpt.data.transforms import augment, crop, standard
from labelers import Gold, InputError, LabelTable, Vocabulary
from labelers.io import write_table

HEADER = "image,study_id,patient_id,dataset,split\n"


def manifest(tmp_path: Path, body: str, header: str = HEADER) -> Path:
    path = tmp_path / "manifest.csv"
    path.write_text(header + body, encoding="utf-8")
    return path


def test_manifest_paths_are_relative_to_it(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path, "images/a.png,s1,p1,nih,train\n"))
    assert table["image"][0] == str(tmp_path / "images/a.png")


def test_manifest_in_parquet_is_the_same(tmp_path: Path) -> None:
    path = manifest(tmp_path, "a.png,1,7,nih,train\nb.png,2,8,nih,val\n")
    frame = pd.read_csv(path)  # integer ids, as a user's frame would have
    frame.to_parquet(tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(read_manifest(path), read_manifest(tmp_path / "manifest.parquet"))


BROKEN = {
    "empty": ("", "one row an image, found none"),
    "no patient": ("a.png,s1,,nih,train\n", "row 1: the column 'patient_id' is empty"),
    "unknown split": ("a.png,s1,p1,nih,training\n", "row 1: expected a split of train, val, test"),
    "image twice": ("a.png,s1,p1,nih,train\na.png,s2,p2,nih,train\n", "row 2: the image of an earlier row"),
    "patient in two splits": (
        "a.png,s1,p1,nih,train\nb.png,s2,p1,nih,test\n",
        "row 2: its patient is in the splits 'train' and 'test'",
    ),
    "study in two splits": ("a.png,s1,p1,nih,train\nb.png,s1,p2,nih,test\n", "row 2: its study is in the splits"),
    "ragged": ("a.png,s1,p1,nih\n", "line 2: expected 5 fields"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_manifest_is_refused_by_row(tmp_path: Path, case: str) -> None:
    body, message = BROKEN[case]
    with pytest.raises(InputError, match=message):
        read_manifest(manifest(tmp_path, body))


def test_a_manifest_without_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing: split"):
        read_manifest(manifest(tmp_path, "a.png,s1,p1,nih\n", "image,study_id,patient_id,dataset\n"))


PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
DEEP = PIXELS.astype(np.uint16) * 200 + 100
RGB = np.stack([PIXELS] * 3, axis=-1)
ALPHA = np.concatenate([RGB, np.full((8, 8, 1), 255, np.uint8)], axis=-1)

WRITERS: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "8 bit": ("a.png", lambda: Image.fromarray(PIXELS)),
    "RGB": ("a.png", lambda: Image.fromarray(RGB)),
    "RGBA": ("a.png", lambda: Image.fromarray(ALPHA)),
    "palette": ("a.png", lambda: Image.fromarray(PIXELS).convert("P")),
    "BMP": ("a.bmp", lambda: Image.fromarray(PIXELS)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_eight_bit_image_gives_the_same_grey(tmp_path: Path, kind: str) -> None:
    name, make = WRITERS[kind]
    make().save(tmp_path / name)
    np.testing.assert_allclose(read_image(tmp_path / name), PIXELS / np.float32(255), atol=1 / 255)


def test_sixteen_bits_are_stretched_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png"), PIXELS / PIXELS.max(), atol=1e-4)


def test_unreadable_images_are_told_apart(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:600])
    (tmp_path / "text.png").write_text("not an image", encoding="utf-8")
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "flat.png")
    Image.new("L", (10_001, 10_000)).save(tmp_path / "huge.png")
    for name in ("cut.jpg", "text.png", "flat.png", "huge.png", "absent.png"):
        with pytest.raises(UnreadableImage) as error:
            read_image(tmp_path / name)
        assert name not in str(error.value)


def test_the_standard_image_is_a_centred_square() -> None:
    pixels = np.zeros((40, 80), np.float32)
    pixels[:, 20:60] = 1
    image = standard(pixels, 20)
    assert image.shape == (1, 20, 20)
    assert image.min() > 0.4  # the bright middle fills the square; only its edge is blurred by shrinking


def test_augmentation_depends_on_its_seed_alone_and_never_flips() -> None:
    pixels = np.zeros((64, 64), np.float32)
    pixels[:, :24] = 0.8
    images = [augment(pixels, 32, torch.Generator().manual_seed(seed)) for seed in (1, 1, *range(2, 42))]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])
    assert all(i[..., :10].mean() > i[..., -10:].mean() for i in images)


@pytest.mark.parametrize("seed", [0, 4295, 20260101, 2**63 - 1])
def test_any_seed_of_the_data_is_one_of_torch_and_every_row_and_epoch_has_its_own(seed: int) -> None:
    sampler = EpochSampler(np.arange(7), seed)
    seeds = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        seeds += [key.seed for key in sampler]
    assert all(torch.Generator().manual_seed(s).initial_seed() == s for s in seeds if s is not None)
    assert len(set(seeds) - {None}) == 14


def test_crops_have_the_shape_of_their_view() -> None:
    view = View("local", count=3, size=16, scale=(0.1, 0.4))
    crops = crop(np.random.default_rng(0).random((40, 50)).astype(np.float32), view, torch.Generator().manual_seed(0))
    assert crops.shape == (3, 1, 16, 16)
    assert not torch.equal(crops[0], crops[1])


def frame(rows: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["dataset", "study_id"])


def table(ids: list[str], states: list[list[int]], findings: list[str], source: str) -> LabelTable:
    return LabelTable.from_states(ids, Vocabulary.of(findings), np.array(states), source)


def test_tables_join_on_the_union_of_their_findings() -> None:
    one = table(["a", "b"], [[0], [1]], ["Edema"], "one")
    two = table(["b", "c"], [[0, 2], [1, 3]], ["Edema", "Nodule"], "two")
    joined = join_labels([(None, one), (None, two)], frame([("x", "b"), ("x", "a"), ("x", "b"), ("x", "d")]), ["Nodule", "Edema"])
    assert joined.labelers == ("one", "two")
    assert joined.state[:, 0, 1].tolist() == [1, 0, 1, 3]
    assert joined.looked[:, 0].tolist() == [[False, True], [False, True], [False, True], [False, False]]
    assert joined.looked[:, 1].tolist() == [[True, True], [False, False], [True, True], [False, False]]
    assert joined.state[0, 1].tolist() == [2, 0]


def test_a_table_bound_to_a_data_set_touches_no_other(tmp_path: Path) -> None:
    write_table(table(["1"], [[0]], ["Edema"], "one"), tmp_path / "one.parquet")
    rows = frame([("nih", "1"), ("mimic", "1")])
    bound = join_labels(read_tables([f"nih={tmp_path / 'one.parquet'}"]), rows, ["Edema"])
    assert bound.looked[:, 0, 0].tolist() == [True, False]
    with pytest.raises(InputError, match="DATASET=PATH"):
        join_labels(read_tables([str(tmp_path / "one.parquet")]), rows, ["Edema"])


def test_joining_refuses_what_does_not_meet() -> None:
    one = table(["a"], [[0]], ["Edema"], "one")
    with pytest.raises(InputError, match="share no study"):
        join_labels([(None, one)], frame([("x", "b")]), ["Edema"])
    with pytest.raises(InputError, match="no label table knows the finding 'Nodule'"):
        join_labels([(None, one)], frame([("x", "a")]), ["Nodule"])


def test_a_fused_table_beside_its_parent_is_refused(tmp_path: Path) -> None:
    parent = table(["a"], [[0]], ["Edema"], "context")
    fused = LabelTable(
        parent.report_ids, parent.vocabulary, parent.state, parent.probability, parent.uncertainty, "fused", parents=("context",)
    )
    paths = [str(tmp_path / name) for name in ("parent.parquet", "fused.parquet")]
    write_table(parent, paths[0])
    write_table(fused, paths[1])
    with pytest.raises(InputError, match="would count twice"):
        read_tables(paths)


def test_gold_joins_by_study() -> None:
    gold = Gold(np.array(["a", "b"], object), ("Edema",), np.array([[1], [np.nan]], np.float32))
    truth = join_gold(None, gold, frame([("x", "b"), ("x", "a"), ("x", "c")]), ["Nodule", "Edema"])
    np.testing.assert_array_equal(truth, np.array([[np.nan, np.nan], [np.nan, 1], [np.nan, np.nan]], np.float32))
    with pytest.raises(InputError, match="share no study"):
        join_gold(None, gold, frame([("x", "z")]), ["Edema"])
    twice = frame([("x", "a"), ("y", "a")])
    with pytest.raises(InputError, match="DATASET=PATH"):
        join_gold(None, gold, twice, ["Edema"])
    np.testing.assert_array_equal(join_gold("y", gold, twice, ["Edema"]), np.array([[np.nan], [1]], np.float32))


def test_truth_of_states_knows_only_what_is_asserted() -> None:
    state = np.array([[[0, 1, 2, 3, 0]]], np.int8)
    looked = np.array([[[True, True, True, True, False]]])
    np.testing.assert_array_equal(truth_of_states(state, looked), np.array([[1, 0, np.nan, np.nan, np.nan]], np.float32))


def test_truth_of_states_comes_from_the_first_labeler_that_looked() -> None:
    state = np.array([[[0, 0, 3]], [[1, 1, 1]]], np.int8).transpose(1, 0, 2)
    looked = np.array([[[True, False, True]], [[True, True, True]]]).transpose(1, 0, 2)
    np.testing.assert_array_equal(truth_of_states(state, looked), np.array([[1, 0, np.nan]], np.float32))


def test_sources_survive_a_checkpoint_and_hide_patients() -> None:
    key = "00" * 16
    sources = Sources(("Edema",), ("context",), ("nih",), (0.1,), 64, keyed_hash(["patient-7"], key), key)
    body = sources.to_dict()
    assert Sources.from_dict(body) == sources
    assert "patient-7" not in str(body)
    assert keyed_hash(["patient-7"], "11" * 16) != sources.patients


def test_the_contrast_reads_findings_and_impression_alone() -> None:
    report = "INDICATION: Follow-up of a mass.\nFINDINGS: Heart size is\n normal.\nIMPRESSION: No acute disease."
    assert report_text(report) == "Heart size is normal. No acute disease."
    assert report_text("") == ""


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize(("count", "world"), [(8, 4), (7, 2), (9, 4), (1, 3)])
def test_processes_visit_every_row_once_and_are_told_what_comes_again(
    count: int, world: int, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, shares = np.arange(100, 100 + count), []
    for rank in range(world):
        monkeypatch.setattr("hybridpt.data.dataset._world", lambda rank=rank: (rank, world))
        shares.append(list(EpochSampler(rows, seed)))
    assert {len(share) for share in shares} == {-(-count // world)}
    keys = [key for share in shares for key in share]
    assert sorted(key.row for key in keys if not key.again) == rows.tolist()


def test_of_what_comes_again_nothing_is_known() -> None:
    labels = JoinedLabels(("a",), ("x",), np.zeros((2, 1, 1), np.int8), np.ones((2, 1, 1), np.float32), np.ones((2, 1, 1), bool))
    ones, texts = np.ones(2, np.int64), np.fromiter((("one",), ("two",)), object, 2)
    words = np.fromiter(((1,), (2,)), object, 2)
    table = Table(np.full(2, "", object), texts, labels, np.ones((2, 1), np.float32), ones, ones, words)
    samples = [Sample(Key(row, again=again), torch.zeros(1, 1, 1), {}, "") for row, again in ((0, True), (1, False), (0, False))]
    batch = Collate(table, None)(samples).batch
    assert batch["row"].tolist() == [0, 1, 0]
    known = [False, True, True]
    assert batch["has_text"].tolist() == known
    assert batch["looked"][:, 0, 0].tolist() == known
    assert (batch["truth"][:, 0] == 1).tolist() == known
