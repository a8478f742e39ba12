"""A report labeler, from reports and label tables to the folder that ``labelers run --labeler neural`` loads, by the real command lines."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning import Callback
from safetensors import SafetensorError

import hybridpt
from hybridpt.checkpoint import read_checkpoint
from hybridpt.cli import main
from hybridpt.configuration import gives_option
from hybridpt.data.reports import read_report_rows, split_of
from hybridpt.encoders import LexiconEncoder
from hybridpt.encoders.lexicon import lexicon_pieces
from hybridpt.functional import presence_logit, state_logits, state_loss
from hybridpt.report_labeler import ReportModule, write_labeler
from labelers import InputError, LabelTable, Vocabulary, create, read_reports, read_table, write_table
from labelers.builtin.neural import Neural
from labelers.cli import main as labelers
from labelers.testing import check_labeler
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED
from tests.conftest import ROOT, write_csv
from tests.hostile.search import leaks

FINDINGS = ["Pleural Effusion", "Pneumothorax", "Edema", "Cardiomegaly"]
SAYINGS = {
    POSITIVE: ("There is {}.", "Small {}.", "{} is seen."),
    NEGATIVE: ("No {}.", "There is no {}.", "No evidence of {}."),
    UNCERTAIN: ("Possible {}.", "{} cannot be excluded."),
}


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    return lines[0]


def say(generator: np.random.Generator) -> str:
    """A report that says something of some findings, under headers, with a history that says what is not to be read."""
    parts = []
    for finding in generator.permutation(FINDINGS):
        state = generator.choice([POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED], p=[0.3, 0.3, 0.15, 0.25])
        if state != UNMENTIONED:
            saying = str(generator.choice(SAYINGS[int(state)])).format(str(finding).lower())
            parts.append(saying[0].upper() + saying[1:])
    return f"INDICATION: {generator.choice(FINDINGS)}?\nFINDINGS: {' '.join(parts) or 'Unremarkable.'}"


class World:
    """Reports in a file, the labels of ``context`` and ``keywords``, gold, channels, and a configuration."""

    def __init__(self, root: Path, count: int = 480) -> None:
        self.root = root
        generator = np.random.default_rng(3)
        rows: list[list[object]] = [["report_id", "patient_id", "split", "text"]]
        for i in range(count):
            split = ("train", "train", "train", "train", "val", "test")[i // 2 % 6]
            rows.append([f"r{i}", f"p{i // 2}", split, say(generator)])
        self.reports = write_csv(root / "reports.csv", rows)
        self.labels = {name: root / f"{name}.parquet" for name in ("context", "keywords")}
        for name, path in self.labels.items():
            assert labelers(["run", str(self.reports), "--labeler", name, "-o", str(path)]) == 0
        table = read_table(self.labels["context"])
        columns = [table.vocabulary.index(finding) for finding in FINDINGS]
        truth = (table.state[:, columns] == POSITIVE).astype(int)
        gold = [["report_id", *FINDINGS], *([i, *row] for i, row in zip(table.report_ids, truth.tolist(), strict=True))]
        self.gold = write_csv(root / "gold.csv", gold)
        self.channels = root / "channels.json"
        tables = [str(path) for path in self.labels.values()]
        assert labelers(["noise", *tables, "--gold", str(self.gold), "-o", str(self.channels)]) == 0
        given = yaml.safe_load((ROOT / "configs/fit/report_labeler.yaml").read_text(encoding="utf-8"))
        given["trainer"] |= {"max_epochs": 12, "accelerator": "cpu"}
        given["model"] |= {"lr": 3e-3, "name": "second"}
        given["model"]["text_encoder"]["init_args"] = {"width": 64, "depth": 1, "max_length": 64}
        given["data"] = {
            "reports": str(self.reports),
            "labels": [str(self.labels["context"])],
            "findings": FINDINGS,
            "batch_size": 16,
        }
        given["wandb"] = {"mode": "disabled"}
        self.config = root / "config.yaml"
        self.config.write_text(yaml.safe_dump(given), encoding="utf-8")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def fitted(world: World) -> Path:
    folder = world.root / "run"
    assert run("fit", "--config", world.config, "--trainer.default_root_dir", folder, "--data.gold", world.gold) == 0
    return folder


def test_gold_does_not_calibrate_what_the_folder_could_not_hold(fitted: Path) -> None:
    """Else the labeler would not say what the model says; labels are worth what 'labelers noise' finds them worth."""
    state = read_checkpoint(fitted / "best.ckpt")["state_dict"]
    assert (state["calibration.states.slope"] == 1).all()
    assert (state["calibration.states.intercept"] == 0).all()
    assert (fitted / "val_reliability.png").exists()


def test_the_loss_falls_and_the_folder_is_there(fitted: Path) -> None:
    names = {path.name for path in fitted.iterdir()}
    assert {"best.ckpt", "last.ckpt", "config.yaml", "metrics.csv", "labeler"} <= names
    assert not [name for name in names if name.endswith((".new", ".old", ".part"))]
    metrics = pd.read_csv(fitted / "metrics.csv")
    assert {"train/states/states", "train/states/nll", "val/criterion"} <= set(metrics.columns)
    validated = metrics["val/loss"].dropna()
    assert validated.iloc[-1] < 0.5 * validated.iloc[0]
    body = json.loads((fitted / "labeler" / "labeler.json").read_text(encoding="utf-8"))
    assert (body["name"], body["trained_on"]) == ("second", ["context"])
    assert [finding["name"] for finding in body["findings"]] == FINDINGS


def test_the_labeler_reads_held_out_reports_far_better_than_the_floor(world: World, fitted: Path, tmp_path: Path) -> None:
    """Floors: what is likeliest of each finding whatever the text says, and ``keywords``, to which every mention is positive."""
    out = tmp_path / "second.parquet"
    assert labelers(["run", str(world.reports), "--labeler", "neural", "--set", f"model={fitted}", "-o", str(out)]) == 0
    learned, teacher, keywords = (read_table(path) for path in (out, world.labels["context"], world.labels["keywords"]))
    assert (learned.source, learned.vocabulary.names, learned.vocabulary.name) == ("second", tuple(FINDINGS), "chest")
    test = np.array([row["split"] == "test" for row in csv.DictReader(world.reports.open(encoding="utf-8"))])
    columns = [teacher.vocabulary.index(finding) for finding in FINDINGS]
    truth = teacher.state[test][:, columns]
    constant = max((truth == code).mean() for code in range(4))
    floor = max(constant, (keywords.state[test][:, columns] == truth).mean())
    reached = (learned.state[test] == truth).mean()
    assert reached > 0.9 > floor + 0.2
    target = teacher.probability[test][:, columns]

    def nll(p: Any) -> float:
        return float(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())

    assert nll(learned.probability[test]) < 0.75 * nll(np.broadcast_to(target.mean(axis=0), target.shape))


def test_the_labeler_keeps_the_contract_and_says_what_the_model_says(world: World, fitted: Path) -> None:
    labeler = Neural(model=fitted / "labeler", device="cpu")
    check_labeler(labeler, ["FINDINGS: Possible edema. " * 40])
    module = rebuilt(world, fitted / "best.ckpt")
    reports = list(read_reports(world.reports))[:20]
    table = labeler.label(reports)
    texts = [" ".join(report.text.partition("FINDINGS:")[2].split()) for report in reports]
    tokens, mask = module.encoders.text.tokenizer(texts)
    hidden, mask = module.encoders.text.states(tokens, mask)
    heads = module.heads
    with torch.no_grad():
        logits = state_logits(hidden, mask, heads.query, heads.head, heads.bias)
        present = torch.sigmoid(presence_logit(logits, heads.worth))
    assert np.array_equal(table.state, logits.argmax(-1).numpy())
    np.testing.assert_allclose(table.probability, present.numpy(), atol=1e-5)


def rebuilt(world: World, checkpoint: Path) -> Any:
    from hybridpt.checkpoint import load_weights, sources_of
    from hybridpt.objectives import ReportStates

    body = read_checkpoint(checkpoint)
    module = ReportModule(LexiconEncoder(width=64, depth=1, max_length=64), {"states": ReportStates()})
    module.build(sources_of(body, checkpoint))
    load_weights(module, body, checkpoint)
    return module.eval()


def test_a_test_scores_against_gold_of_patients_not_trained_on(world: World, fitted: Path, tmp_path: Path) -> None:
    command = ["--config", world.config, "--ckpt_path", fitted / "best.ckpt", "--trainer.default_root_dir", tmp_path]
    assert run("test", *command, "--data.gold", world.gold) == 0
    table = pd.read_csv(tmp_path / "results.csv")
    macro = table[(table.finding == "macro") & (table.metric == "auprc")]
    assert float(macro["value"].iloc[0]) > 0.9
    assert run("predict", *command) == 0
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 480
    assert run("validate", *command) == 0
    best = pd.read_csv(fitted / "metrics.csv")["val/criterion"].min()
    assert pd.read_csv(tmp_path / "validate" / "metrics.csv")["val/criterion"].iloc[0] == pytest.approx(best, rel=1e-4)


class StopAfterTwo(Callback):
    """Asks the run to end after its second epoch, as Ctrl-C would."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(world: World, tmp_path: Path) -> None:
    three = ["--config", world.config, "--trainer.max_epochs", 3]
    assert run("fit", *three, "--trainer.default_root_dir", tmp_path / "whole") == 0
    stop = ["--trainer.callbacks+", f"{__name__}.StopAfterTwo"]
    assert run("fit", *three, "--trainer.default_root_dir", tmp_path / "run", *stop) == 130
    assert not (tmp_path / "run" / "labeler").exists(), "a labeler is written when the training is done"
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    config["trainer"]["callbacks"] = None
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert run("fit", "--config", tmp_path / "run" / "config.yaml", "--ckpt_path", tmp_path / "run" / "last.ckpt") == 0
    whole, resumed = (read_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (tmp_path / "whole", tmp_path / "run"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    ours, theirs = (create("neural", {"model": str(folder)}) for folder in (tmp_path / "whole", tmp_path / "run"))
    assert ours.version == theirs.version


def test_two_labelers_and_their_channels(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the channels, the mentions that ``keywords`` takes for findings are seen through."""
    tables = [world.labels["context"], world.labels["keywords"]]
    given = ["--data.labels", *tables, "--data.channels", world.channels, "--trainer.default_root_dir", tmp_path]
    assert run("fit", "--config", world.config, *given) == 0
    labeler = Neural(model=tmp_path)
    assert json.loads((tmp_path / "labeler" / "labeler.json").read_text(encoding="utf-8"))["trained_on"] == [
        "context",
        "keywords",
    ]
    denied = labeler.label(list(read_reports(world.reports)))
    teacher = read_table(world.labels["context"])
    negative = teacher.state[:, [teacher.vocabulary.index(finding) for finding in FINDINGS]] == NEGATIVE
    assert denied.probability[negative].mean() < 0.3, "one of the two says positive of each of them"
    capsys.readouterr()
    channels = json.loads(world.channels.read_text(encoding="utf-8"))
    del channels["channels"]["keywords"]
    (tmp_path / "half.json").write_text(json.dumps(channels), encoding="utf-8")
    half = ["--data.labels", *tables, "--data.channels", tmp_path / "half.json", "--trainer.default_root_dir", tmp_path / "x"]
    assert run("fit", "--config", world.config, *half) == 2
    assert "the channels have none of 'keywords'" in error_of(capsys)


def test_findings_that_hardly_any_report_mentions_stay_unknown(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data.findings", "null", "--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", 1]
    assert run("fit", "--config", world.config, *given) == 0
    assert "findings are learned; the others are mentioned in fewer than 5 training reports" in capsys.readouterr().err
    names = create("neural", {"model": str(tmp_path)}).vocabulary.names
    assert set(FINDINGS) <= set(names)
    assert len(names) < 20
    assert run("fit", "--config", tmp_path / "config.yaml", "--ckpt_path", tmp_path / "last.ckpt", "--trainer.max_epochs", 2) == 0


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--data.labels", "null"], 1, "expected findings"),
        (["--data.reports", "nowhere.csv"], 1, "no such file"),
        (["--data.manifest", "m.csv"], 2, "data.manifest"),
        (["--model.text_encoder", "hybridpt.encoders.ByteEncoder"], 2, "needs a text encoder of transformers, got ByteEncoder"),
        (["--model.text_encoder.init_args.width", "50"], 2, "a multiple of 32"),
        (
            ["--model.objectives.states", "hybridpt.objectives.Supervised"],
            2,
            "needs one objective hybridpt.objectives.ReportStates",
        ),
        (["--model.name", " x"], 2, "expected the name of a labeler"),
        (["--data.findings", '["Rickets"]'], 1, "no label table knows the finding 'Rickets'"),
    ],
)
def test_what_does_not_fit_is_refused(
    world: World, tmp_path: Path, options: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if options[:2] == ["--data.labels", "null"]:
        options = [*options, "--data.findings", "null"]
    assert run("fit", "--config", world.config, "--trainer.default_root_dir", tmp_path / "run", *options) == status
    assert message in error_of(capsys)
    assert not (tmp_path / "run").exists()


def test_a_fused_table_beside_one_of_its_parents_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    context = read_table(world.labels["context"])
    fused = dataclasses.replace(context, source="fused", parents=("context", "keywords"))
    write_table(fused, tmp_path / "fused.parquet")
    tables = ["--data.labels", tmp_path / "fused.parquet", world.labels["keywords"]]
    assert run("fit", "--config", world.config, *tables, "--trainer.default_root_dir", tmp_path / "run") == 1
    assert "were made of 'keywords', which is given too" in error_of(capsys)


def test_a_checkpoint_of_reports_reads_no_images(fitted: Path) -> None:
    with pytest.raises(InputError, match="labels reports and reads no images"):
        hybridpt.load(fitted / "best.ckpt")


def test_nothing_of_a_report_is_left_in_the_run(tmp_path: Path) -> None:
    """A rare word of the reports and a patient's name are looked for in every file of a run, wandb's among them."""
    words = {"text": "Zébratext7q", "patient": "Zébrapatient7q"}
    generator = np.random.default_rng(0)
    rows: list[list[object]] = [["report_id", "patient_id", "text"]]
    rows += [[f"r{i}", f"{words['patient']}{i}", f"{say(generator)} {words['text']}."] for i in range(120)]
    reports = write_csv(tmp_path / "reports.csv", rows)
    assert labelers(["run", str(reports), "-o", str(tmp_path / "labels.parquet")]) == 0
    given = ["--data.reports", reports, "--data.labels", tmp_path / "labels.parquet", "--trainer.accelerator", "cpu"]
    small = ["--model.text_encoder.init_args.width", 32, "--model.text_encoder.init_args.depth", 1, "--trainer.max_epochs", 1]
    folder = tmp_path / "run"
    assert run("fit", "--config", "configs/fit/report_labeler.yaml", *given, *small, "--trainer.default_root_dir", folder) == 0
    assert {path.name for path in (folder / "labeler").iterdir()} >= {"labeler.json", "heads.safetensors", "model.safetensors"}
    assert list(folder.rglob("*.wandb"))
    assert leaks(folder, {"finding": "Pleural Effusion"})
    assert leaks(folder, words) == []


def test_an_earlier_labeler_is_replaced_as_a_whole(world: World, fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "run")
    (tmp_path / "run" / "labeler" / "stray.txt").write_text("of an earlier run", encoding="utf-8")
    (tmp_path / "run" / ".labeler.0123abcd.new").mkdir()
    again = ["--ckpt_path", tmp_path / "run" / "last.ckpt"]
    assert run("fit", "--config", world.config, *again) == 0, (
        "nothing is left to train; the folder is written from the best checkpoint"
    )
    assert not (tmp_path / "run" / "labeler" / "stray.txt").exists()
    assert not list((tmp_path / "run").glob(".labeler.*"))
    assert create("neural", {"model": str(tmp_path / "run")}).version == create("neural", {"model": str(fitted)}).version


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SafetensorError("I/O error"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_written_leaves_the_earlier_one(
    world: World, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    module = rebuilt(world, fitted / "best.ckpt")
    vocabulary = Vocabulary.of(FINDINGS)
    write_labeler(module, vocabulary, tmp_path / "labeler")
    before = {path.name: path.read_bytes() for path in (tmp_path / "labeler").iterdir()}

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(
        KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else InputError, match=r"^$|cannot be written"
    ):
        write_labeler(module, vocabulary, tmp_path / "labeler")
    assert {path.name: path.read_bytes() for path in (tmp_path / "labeler").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["labeler"]


# --- the parts -------------------------------------------------------------------------------------------------------------------------


def test_presence_follows_from_the_states() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(50, 3, 4, generator=generator, dtype=torch.float64)
    worth = torch.rand(3, 4, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    expected = (torch.softmax(logits, -1) * worth).sum(-1)
    torch.testing.assert_close(torch.sigmoid(presence_logit(logits, worth)), expected)
    sure = presence_logit(torch.tensor([[[200.0, 0, 0, 0]]]), torch.tensor([[0.999, 0.001, 0.5, 0.1]]))
    assert float(sure) == pytest.approx(np.log(0.999 / 0.001), rel=1e-4)


def test_state_loss_shares_a_cell_among_those_who_looked() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0, -1.0]]])
    log_q = torch.log_softmax(logits[0, 0], -1)
    state = torch.tensor([[[0], [1], [3]]])
    for looked, expected in (([1, 1, 0], -(log_q[0] + log_q[1]) / 2), ([0, 0, 1], -log_q[3]), ([0, 0, 0], torch.tensor(0.0))):
        mask = torch.tensor(looked, dtype=torch.bool).view(1, 3, 1)
        torch.testing.assert_close(state_loss(logits, state, mask)[0, 0], expected)


def test_heads_ignore_padding_and_a_text_of_nothing_is_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, query = torch.randn(2, 5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    weight, bias = torch.randn(3, 4, 8, generator=generator), torch.randn(3, 4, generator=generator)
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    padded = state_logits(tokens, mask, query, weight, bias)
    alone = state_logits(tokens[:1, :3], mask[:1, :3], query, weight, bias)
    torch.testing.assert_close(padded[:1], alone)
    assert torch.isfinite(padded).all()
    assert state_logits(tokens[:, :0], mask[:, :0], query, weight, bias).shape == (2, 3, 4)


def test_the_lexicon_spells_what_it_does_not_know() -> None:
    pieces = lexicon_pieces()
    assert len(set(pieces)) == len(pieces)
    tokenizer = LexiconEncoder(width=32, depth=1).tokenizer.tokenizer
    assert tokenizer.tokenize("No pleural effusion, 12 cm.") == ["no", "pleural", "effusion", ",", "1", "##2", "c", "##m", "."]
    assert "".join(tokenizer.tokenize("Xylophonist's qzk")).replace("##", "") == "xylophonist'sqzk"
    assert "[UNK]" not in tokenizer.tokenize("Straße naïve café effusion/edema")[1:]


def write_reports(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_report_rows_of_every_kind_of_file(tmp_path: Path, world: World) -> None:
    bare = read_report_rows(write_reports(tmp_path / "a.csv", "report_id,text", *(f"r{i},x" for i in range(400))))
    assert 20 < (bare["split"] == "val").sum() < 65
    assert list(bare["split"]) == [split_of(f"r{i}") for i in range(400)]
    patients = read_report_rows(
        write_reports(tmp_path / "b.csv", "report_id,patient_id,text", *(f"r{i},p{i // 8},x" for i in range(400)))
    )
    assert (patients.groupby("patient_id")["split"].nunique() == 1).all()
    patients[["study_id", "patient_id", "report"]].rename(columns={"report": "text"}).to_parquet(tmp_path / "b.parquet")
    assert read_report_rows(tmp_path / "b.parquet").equals(patients)
    (tmp_path / "c.jsonl").write_text('{"id": "r1", "text": "x"}\n', encoding="utf-8")
    assert read_report_rows(tmp_path / "c.jsonl").iloc[0].to_dict()["study_id"] == "r1"
    manifest = "image,study_id,patient_id,dataset,split,report"
    rows = [
        "1.png,s1,p1,north,train,No edema.",
        "2.png,s1,p1,north,train,No edema.",
        "3.png,s2,p2,north,val,",
        "4.png,s3,p3,south,val,x",
    ]
    studies = read_report_rows(write_reports(tmp_path / "m.csv", manifest, *rows))
    assert studies[["study_id", "dataset", "split"]].to_numpy().tolist() == [["s1", "north", "train"], ["s3", "south", "val"]]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("report_id,text", [], "expected one report or more"),
        ("report_id,text,split", ["a,x,train", "b,x,dev"], "report 2: expected a split of train, val, test"),
        ("report_id,text,patient_id", ["a,x,p", "b,x,"], "report 2: the column 'patient_id' is empty"),
        ("report_id,text,dataset", ["a,x,n", "b,x, "], "report 2: the column 'dataset' is empty"),
        (
            "report_id,text,patient_id,split",
            ["a,x,p,train", "b,x,p,val"],
            "report 2: the patient of an earlier row in another split",
        ),
        ("report_id,text", ["a,x", "a,y"], "report id of line 2 again"),
        ("image,study_id,patient_id,dataset,split", ["1.png,a,p,n,train"], "expected a column 'report' in the manifest"),
        ("image,study_id,patient_id,dataset,split,report", ["1.png,a,p,n,train,"], "expected one report or more"),
        (
            "image,study_id,patient_id,dataset,split,report",
            ["1.png,a,p,n,train,x", "2.png,a,p,n,train,y"],
            "report 2: the study of an earlier row with another text",
        ),
    ],
)
def test_reports_that_do_not_fit_are_refused_by_row(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_report_rows(write_reports(tmp_path / "reports.csv", header, *rows))


def test_too_few_reports_to_validate_on_are_said(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"r{i},train,No edema." for i in range(20)]
    reports = write_reports(tmp_path / "reports.csv", "report_id,split,text", *rows)
    given = ["--data.reports", reports, "--trainer.default_root_dir", tmp_path / "run"]
    assert run("fit", "--config", world.config, *given) == 1
    assert "expected labelled reports in the split 'val', found none" in error_of(capsys)


def test_reports_without_labels_are_left_out(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = read_table(world.labels["context"])
    half = LabelTable.from_states(table.report_ids[:200], Vocabulary.of(FINDINGS), np.zeros((200, 4), np.int8), "half")
    write_table(half, tmp_path / "half.parquet")
    given = [
        "--data.labels",
        tmp_path / "half.parquet",
        "--trainer.default_root_dir",
        tmp_path / "run",
        "--trainer.max_epochs",
        1,
    ]
    assert run("fit", "--config", world.config, *given, "--trainer.log_every_n_steps", 1) == 0
    assert "200 of 480 studies met" in capsys.readouterr().err
    steps = pd.read_csv(tmp_path / "run" / "metrics.csv")["train/loss"].count()
    assert steps == 8, "16 reports a batch of the 136 that are labelled and to be trained on"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--config", "a.yaml"], True),
        (["--config=a.yaml"], True),
        (["-c", "b.yaml"], False),
        (["-c", "b.yaml", "--data.reports", "r.csv"], True),
        (["-c", "b.yaml", "--data.reports=r.csv"], True),
        (["--config", '{"data": {"reports": "r.csv"}}'], True),
        (["--config", "nowhere.yaml", "--config", "broken.yaml"], False),
        (["--ckpt_path", "a.yaml"], False),
        ([], False),
    ],
)
def test_what_is_trained_follows_from_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], given: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("data: {reports: r.csv}", encoding="utf-8")
    Path("b.yaml").write_text("data: {manifest: m.csv}\nreports: 1", encoding="utf-8")
    Path("broken.yaml").write_text("data: {reports: [", encoding="utf-8")
    assert gives_option(arguments, "data", "reports") == given
