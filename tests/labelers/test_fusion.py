"""Several tables to one: the chosen rule, the fused table, agreement, and the three commands on tables of known truth."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import labelers
from labelers import Gold, InputError, LabelTable, Vocabulary, estimate_channels, read_channels, read_table, score, write_table
from labelers.agreement import agreement, shared_errors
from labelers.channel import ALL_DATASETS
from labelers.cli import main
from labelers.crosswalk import load_crosswalk
from labelers.fusion import Fusion, _chosen, fit_fusion, fuse_votes
from labelers.noise_report import fusion_notes
from labelers.rules import Product
from labelers.simulation import Simulation, simulate_votes
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED
from labelers.votes import SILENT, Votes, collect_votes, common_findings, gold_truth

P, N, U, X = POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(a) for a in argv])
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return run


def table(
    source: str, states: Sequence[Sequence[int]], ids: Sequence[str] | None = None, names: Sequence[str] = ("Edema", "Mass")
) -> LabelTable:
    ids = [f"R{i}" for i in range(len(states))] if ids is None else ids
    return LabelTable.from_states(ids, Vocabulary.of(names), np.array(states), source)


def tables_of(simulation: Simulation) -> list[LabelTable]:
    votes = simulation.votes
    vocabulary = Vocabulary.of(votes.findings)
    return [
        LabelTable.from_states(list(votes.report_ids), vocabulary, states, name)
        for name, states in zip(votes.labelers, votes.state, strict=True)
    ]


def gold_of(simulation: Simulation, rows: int, seed: int = 0) -> Gold:
    chosen = np.sort(np.random.default_rng(seed).choice(len(simulation.truth), rows, replace=False))
    return Gold(simulation.votes.report_ids[chosen], simulation.votes.findings, simulation.truth[chosen])


def write_gold(gold: Gold, path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["report_id", *gold.findings])
        writer.writerows([i, *map(int, row)] for i, row in zip(gold.report_ids, gold.truth, strict=True))
    return path


def loss(p: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(y > 0, np.log(p), np.log1p(-p)).mean())


# --- votes --------------------------------------------------------------------------------------------------------------------


def test_votes_of_tables_with_other_reports_and_findings() -> None:
    one = table("a", [[P, N], [U, X]], ["x", "y"])
    other = table("b", [[N], [P]], ["y", "z"], ["Edema"])
    votes = collect_votes([one, other], ["Edema", "Mass"])
    assert list(votes.report_ids) == ["x", "y", "z"]
    assert votes.state.tolist() == [[[P, N], [U, X], [SILENT, SILENT]], [[SILENT, SILENT], [N, SILENT], [P, SILENT]]]
    assert collect_votes([one, other]).findings == ("Edema",)
    truth = gold_truth(votes, Gold(np.array(["z", "other"], object), ("Mass", "Edema"), np.array([[1, 0], [1, 1]], np.float32)))
    np.testing.assert_array_equal(truth, [[np.nan, np.nan], [np.nan, np.nan], [0, 1]])


def test_labels_in_the_words_of_a_data_set_are_mapped() -> None:
    ours = table("context", [[P, N]], ["x"], ["Pulmonary Edema", "Pleural Effusion"])
    labels = load_crosswalk("nih").labels
    theirs = table("nih", [[P if name == "Edema" else X for name in labels]], ["x"], labels)
    mapped = common_findings([ours, theirs])[1]
    assert mapped.source == "nih"
    assert mapped.state[0, mapped.vocabulary.index("Pulmonary Edema")] == P
    assert "Fibrosis" not in mapped.vocabulary


def test_tables_that_cannot_be_joined_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="two tables are by the labeler 'a'"):
        common_findings([table("a", [[P, P]]), table("a", [[P, P]])])
    with pytest.raises(InputError, match=r"'a' shares no finding with the others \(its own are Edema, Mass\)"):
        common_findings([table("a", [[P, P]]), table("b", [[P]], names=["Gallop"])])
    fused = LabelTable(**{**vars(table("fused", [[P, P]])), "parents": ("a",)})
    with pytest.raises(InputError, match="the table of 'fused' was made from that of 'a'"):
        common_findings([table("a", [[P, P]]), fused])


# --- fusion -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "hard"), [(0.0, 0.0), (0.8, 0.0), (0.5, 0.4)])
def test_a_fused_table_is_nearly_as_likely_as_the_exact_posterior(shared: float, hard: float) -> None:
    simulation = simulate_votes(6000, 1, shared=shared, hard=hard)
    gold = gold_of(simulation, 200)
    truth = gold_truth(simulation.votes, gold)
    fusion = fit_fusion(simulation.votes, truth)
    fused = fuse_votes(simulation.votes, fusion, Vocabulary.of(simulation.votes.findings))
    unseen = np.isnan(truth[:, 0])
    y = simulation.truth[unseen]
    exact = loss(simulation.posterior[unseen], y)
    assert loss(fused.probability[unseen], y) < 1.2 * exact
    assert fusion.held_out[fusion.name] <= min(fusion.held_out.values()) * 1.2
    assert fusion.held_out["calibrated vote"] >= fusion.held_out[fusion.name]
    assert not fusion.fallback
    assert fusion.siblings == ((("labeler3", "labeler4"),) if shared else ())


def test_labelers_that_know_nothing_cost_nothing() -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random((600, 2)) < 0.3).astype(np.float32)
    good = np.where(rng.random(truth.shape) < 0.9, np.where(truth > 0, P, N), np.where(truth > 0, N, P))
    hard = rng.random((600, 1)) < 0.5
    noise = [np.where(rng.random(truth.shape) < 0.2 + 0.6 * hard, P, X) for _ in range(2)]
    ids = np.array([f"R{i}" for i in range(600)], object)
    votes = Votes(ids, ("good", "noise1", "noise2"), ("Edema", "Mass"), np.array([good, *noise], np.int8))
    fusion = fit_fusion(votes, truth)
    assert fusion.held_out[fusion.name] <= fusion.held_out["best single labeler"] * 1.02
    assert Fusion.from_json(json.loads(json.dumps(fusion.to_json()))).name == fusion.name


def test_a_floor_that_is_better_is_used_and_said() -> None:
    rng = np.random.default_rng(0)
    built = rng.exponential(0.5, 200)
    losses = {"latent classes": built, "product with exponents": built * 1.1}
    within = {**losses, "calibrated vote": built - 0.01 + np.tile([1, -1], 100)}
    assert _chosen(within) == "latent classes", "a lead within its standard error is none"
    assert _chosen({**losses, "calibrated vote": built - 0.1}) == "calibrated vote"
    rule = Product(np.zeros((1, 2, 5)), np.zeros(1), np.ones(2))
    held_out = {"latent classes": 0.5, "product with exponents": 0.55, "best single labeler": 0.4}
    fusion = Fusion(("a", "b"), ("Edema",), "best single labeler", rule, held_out=held_out)
    assert fusion.fallback
    assert list(fusion_notes(fusion)) == [
        "'best single labeler' was better on held-out gold than what knows of shared errors (NLL 0.4000 against 0.5000), so it is used"
    ]


def test_what_a_fused_cell_says() -> None:
    llr = np.array([[[2.0, -2.0, 0.5, -0.5, 0.0], [1.0, -1.0, 0.0, 0.0, 0.0]]])
    rule = Product(llr, np.array([-1.0]), np.array([1.0, 0.5]), 0.25)
    fusion = Fusion(("a", "b"), ("Edema",), "product with exponents", rule)
    votes = collect_votes([table("a", [[P], [N], [X], [U]], names=["Edema"]), table("b", [[P], [P], [X], [X]], names=["Edema"])])
    fused = fuse_votes(votes, fusion, Vocabulary.of(["Edema"]))
    logits = np.array([-0.75 + 2 + 0.5, -0.75 - 2 + 0.5, -0.75 - 0.5, -0.75 + 0.5])
    np.testing.assert_allclose(fused.probability[:, 0], 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert fused.state[:, 0].tolist() == [P, N, X, U]
    assert fused.parents == ("a", "b")
    assert fused.evidence.at(0) == [
        {"start": 0, "end": 0, "state": "positive", "cue": "a +2.9 bits"},
        {"start": 0, "end": 0, "state": "positive", "cue": "b +0.7 bits"},
    ]
    assert fused.evidence.at(2) == []
    alone = fuse_votes(collect_votes([table("b", [[P]], names=["Edema"])]), fusion, Vocabulary.of(["Edema"]))
    assert alone.probability[0, 0] == pytest.approx(1 / (1 + np.exp(0.25)))


def test_fusing_in_parts_changes_nothing() -> None:
    simulation = simulate_votes(500, 2, shared=0.5, silent=0.2)
    fusion = fit_fusion(simulation.votes, gold_truth(simulation.votes, gold_of(simulation, 100)))
    vocabulary = Vocabulary.of(simulation.votes.findings)
    whole = fuse_votes(simulation.votes, fusion, vocabulary)
    parts = [fuse_votes(simulation.votes.part(slice(i, i + 77)), fusion, vocabulary) for i in range(0, 500, 77)]
    joined = LabelTable.concatenate(parts)
    np.testing.assert_array_equal(joined.probability, whole.probability)
    np.testing.assert_array_equal(joined.evidence.cell, whole.evidence.cell)
    assert [joined.evidence.cues[c] for c in joined.evidence.cue] == [whole.evidence.cues[c] for c in whole.evidence.cue]


def test_channels_without_gold() -> None:
    simulation = simulate_votes(6000, 3, shared=0.8)
    channels = estimate_channels(tables_of(simulation), None)
    assert channels.truth == "agreement"
    assert channels.fusion is not None
    assert channels.fusion.siblings == (("labeler3", "labeler4"),)
    covered = []
    for s, labeler in enumerate(simulation.votes.labelers):
        for k, finding in enumerate(simulation.votes.findings):
            channel = channels.channels[labeler][ALL_DATASETS].get(finding)
            if channel is not None and simulation.prevalence[k] > 0.05:
                assert channel.counts.sum() == 0
                assert np.abs(channel.matrix - simulation.channels[s, k]).max() < 0.15
                covered.append((channel.low <= simulation.channels[s, k]) & (simulation.channels[s, k] <= channel.high))
    assert np.mean(covered) > 0.75
    with pytest.raises(InputError, match="3 labelers or more"):
        estimate_channels(tables_of(simulation)[:2], None)


def test_fuse_from_python() -> None:
    simulation = simulate_votes(600, 9, shared=0.5)
    tables = tables_of(simulation)
    channels = estimate_channels(tables, gold_of(simulation, 200))
    fused = labelers.fuse(tables, channels.fusion)
    assert fused.parents == simulation.votes.labelers
    assert loss(fused.probability, simulation.truth) < min(loss(t.probability, simulation.truth) for t in tables)
    with pytest.raises(InputError, match="nothing to fuse"):
        labelers.fuse(tables[:1], estimate_channels(tables[:1], gold_of(simulation, 200)).fusion)


# --- agreement ----------------------------------------------------------------------------------------------------------------


def test_agreement_by_hand() -> None:
    one = table("a", [[P], [P], [N], [X], [U]], names=["Edema"])
    other = table("b", [[P], [N], [N], [X], [X]], names=["Edema"])
    found = agreement([one, other])
    assert found.coverage == {"a": {"Edema": 0.8}, "b": {"Edema": 0.6}}
    (pair,) = found.pairs
    assert (pair.reports, pair.overlap, pair.conflict) == (5, 0.6, 0.2)
    expected = (2 * 1 + 1 * 2 + 1 * 0 + 1 * 2) / 25
    assert pair.kappa == pytest.approx((3 / 5 - expected) / (1 - expected))
    assert found.conflicts == (("R1", ("Edema",)),)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_shared_errors_are_the_share_of_copied_cells(shared: float) -> None:
    simulation = simulate_votes(5000, 4, shared=shared)
    found = shared_errors(simulation.votes, simulation.truth)
    assert found[3, 4] == found[4, 3] == pytest.approx(shared, abs=0.03)
    assert np.abs(found[:3, 3:]).max() < 0.03


# --- the commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Simulation]:
    folder = tmp_path_factory.mktemp("fusion")
    simulation = simulate_votes(1500, 6, shared=0.8)
    for one in tables_of(simulation):
        write_table(one, folder / f"{one.source}.parquet")
    write_gold(gold_of(simulation, 200), folder / "gold.csv")
    return folder, simulation


def paths(folder: Path, *numbers: int) -> list[Path]:
    return [folder / f"labeler{n}.parquet" for n in numbers]


def test_noise_fuse_and_score(cli: Cli, files: tuple[Path, Simulation], tmp_path: Path) -> None:
    folder, simulation = files
    given = paths(folder, 0, 1, 2, 3, 4)
    status, out, err = cli("noise", *given, "--gold", folder / "gold.csv", "-o", tmp_path / "c.json")
    assert status == 0
    assert "labeler3 and labeler4 share errors: they are siblings, no two witnesses" in err
    assert "latent classes" in out
    assert "calibrated vote" in out
    assert "looked together" in out
    body = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert body["fusion"]["siblings"] == [["labeler3", "labeler4"]]
    assert set(body["fusion"]["exponents"]) == set(simulation.votes.labelers)
    entry = body["channels"]["labeler0"]["*"]["finding0"]
    assert 0 <= entry["bits"] <= 1
    channels = read_channels(tmp_path / "c.json")
    assert channels.pool is not None
    *independent, one, other = channels.pool.of(simulation.votes.labelers)
    assert (one + other) / 2 < min(independent)
    assert channels.fusion is not None
    assert channels.fusion.held_out == pytest.approx(body["fusion"]["held_out_nll"])
    status, out, err = cli("fuse", *given, "--channels", tmp_path / "c.json", "-o", tmp_path / "fused.parquet")
    assert (status, out) == (0, "")
    assert "fused by 'latent classes', the best on held-out gold" in err
    fused = read_table(tmp_path / "fused.parquet")
    assert fused.source == "fused"
    assert fused.parents == simulation.votes.labelers
    everything = Gold(simulation.votes.report_ids, simulation.votes.findings, simulation.truth)
    best = min(score(one, everything).macro["nll"] for one in tables_of(simulation))
    assert score(fused, everything).macro["nll"] < best / 2
    status, _, err = cli("fuse", *given[:4], "--channels", tmp_path / "c.json", "-o", tmp_path / "four.csv")
    assert status == 0
    assert "no table of labeler4 was given: fused as if they had not looked" in err
    four = read_table(tmp_path / "four.csv")
    assert score(four, everything).macro["nll"] < best


def test_noise_without_gold_warns(cli: Cli, files: tuple[Path, Simulation], tmp_path: Path) -> None:
    status, _, err = cli("noise", *paths(files[0], 0, 1, 2), "-o", tmp_path / "c.json")
    assert status == 0
    assert "without gold the truth is inferred from agreement" in err
    status, out, err = cli("noise", *paths(files[0], 0, 1), "-o", tmp_path / "d.json")
    assert (status, out) == (1, "")
    assert "expected gold, or the tables of 3 labelers or more" in err
    assert not (tmp_path / "d.json").exists()


def test_little_gold_is_said(cli: Cli, files: tuple[Path, Simulation], tmp_path: Path) -> None:
    gold = write_gold(gold_of(files[1], 20), tmp_path / "gold.csv")
    status, _, err = cli("noise", *paths(files[0], 0, 1), "--gold", gold, "-o", tmp_path / "c.json")
    assert status == 0
    assert "the gold judges 20 reports, 200 are enough to start" in err
    assert "are present in fewer than 5 gold reports" in err
    assert "no gold says whether a simpler rule would do better" in err
    few = read_channels(tmp_path / "c.json").find("labeler0", "*", "finding0")
    status, _, _ = cli("noise", *paths(files[0], 0, 1), "--gold", files[0] / "gold.csv", "-o", tmp_path / "more.json")
    more = read_channels(tmp_path / "more.json").find("labeler0", "*", "finding0")
    assert few is not None
    assert more is not None
    assert (few.high - few.low).mean() > (more.high - more.low).mean()


def test_agreement_command(cli: Cli, files: tuple[Path, Simulation]) -> None:
    given = paths(files[0], 0, 3, 4)
    status, out, _ = cli("agreement", *given, "--json")
    assert status == 0
    body = json.loads(out)
    assert {tuple(p["labelers"]) for p in body["pairs"]} == {
        ("labeler0", "labeler3"),
        ("labeler0", "labeler4"),
        ("labeler3", "labeler4"),
    }
    counts = [len(entry["findings"]) for entry in body["conflicts"]]
    assert counts == sorted(counts, reverse=True)
    status, out, _ = cli("agreement", *given)
    assert status == 0
    assert body["conflicts"][0]["report_id"] in out
    assert out.isascii()


def test_commands_refuse_what_does_not_fit(cli: Cli, files: tuple[Path, Simulation], tmp_path: Path) -> None:
    folder = files[0]
    alone = tmp_path / "alone.json"
    assert cli("noise", *paths(folder, 0), "--gold", folder / "gold.csv", "-o", alone)[0] == 0
    pair = tmp_path / "pair.json"
    assert cli("noise", *paths(folder, 0, 1), "--gold", folder / "gold.csv", "-o", pair)[0] == 0
    broken = tmp_path / "broken.json"
    body: dict[str, Any] = json.loads(pair.read_text(encoding="utf-8"))
    body["fusion"]["parameters"] = {"llr": [[1]]}
    broken.write_text(json.dumps(body), encoding="utf-8")
    out = tmp_path / "out.parquet"
    write_table(table("other", [[P]], ["x"], ["Gallop"]), tmp_path / "gallop.parquet")
    cases: list[tuple[list[object], int, str]] = [
        (["fuse", *paths(folder, 0, 1), "--channels", alone, "-o", out], 1, "holds the channels of one labeler, nothing to fuse"),
        (["fuse", *paths(folder, 0, 2), "--channels", pair, "-o", out], 1, "the channels hold no 'labeler2'"),
        (
            ["fuse", *paths(folder, 0, 1), "--channels", broken, "-o", out],
            1,
            "expected the channels that 'labelers noise' writes",
        ),
        (["fuse", *paths(folder, 0, 0), "--channels", pair, "-o", out], 1, "two tables are by the labeler 'labeler0'"),
        (
            ["fuse", folder / "labeler0.parquet", tmp_path / "gallop.parquet", "--channels", pair, "-o", out],
            1,
            "shares no finding",
        ),
        (
            ["fuse", *paths(folder, 0, 1), "--channels", pair, "-o", pair],
            2,
            "expected another file than the tables and the channels",
        ),
        (["agreement", *paths(folder, 0)], 2, "expected the tables of two labelers or more"),
    ]
    for argv, expected, part in cases:
        status, told, err = cli(*argv)
        assert (status, told) == (expected, "")
        assert part in err
        assert err.count("\n") == 1
        assert not out.exists()
