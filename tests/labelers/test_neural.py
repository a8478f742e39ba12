"""The labeler "neural": CheXbert's layout and folders of ours against forward passes written here, and files that are neither."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, BertTokenizerFast

from labelers import InputError, Report, UsageError, create, read_table
from labelers.builtin.neural import Neural
from labelers.cli import main
from labelers.testing import check_labeler
from labelers.types import NEGATIVE, POSITIVE, STATES, UNCERTAIN, UNMENTIONED
from tests.hostile.payload import Bomb, explode

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "no", "effusion", "edema", "possible", "the", "lungs", "are", "clear"]
WORDS += [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
CONDITIONS = [
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia"),
    *("Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices", "No Finding"),
]
LENGTH = 40
TEXTS = [
    "No effusion.",
    "Possible edema. The lungs are clear.",
    "effusion",
    "The lungs are clear. " * 3,
    "No edema. No effusion.",
]
WORTH = np.array([0.95, 0.05, 0.5, 0.1])


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # the labeler is to compute in one, whatever is set
    yield
    torch.set_num_threads(before)


def make_bert(width: int, folder: Path) -> BertModel:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 2 * width, "max_position_embeddings": LENGTH}
    model = BertModel(BertConfig(vocab_size=len(WORDS), hidden_size=width, **heads)).eval()
    for parameter in model.parameters():  # far from where BERT starts, so that texts differ
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    model.config.save_pretrained(folder)
    return model


class Official:
    """CheXbert's network in small, with a forward pass of its own, and its files."""

    def __init__(self, root: Path, width: int = 32) -> None:
        self.tokenizer = root / "bert"
        self.bert = make_bert(width, self.tokenizer)
        self.heads = [(torch.randn(n, width), torch.randn(n)) for n in [4] * 13 + [2]]
        self.path = root / "chexbert.pth"
        self.save(self.path)

    def keys(self, prefix: str = "module.") -> dict[str, torch.Tensor]:
        own = {f"{prefix}bert.{k}": v for k, v in self.bert.state_dict().items()}
        for i, (weight, bias) in enumerate(self.heads):
            own |= {f"{prefix}linear_heads.{i}.weight": weight, f"{prefix}linear_heads.{i}.bias": bias}
        return own

    def save(self, path: Path) -> None:
        torch.save({"epoch": 3, "model_state_dict": self.keys(), "optimizer_state_dict": {"state": {}, "param_groups": []}}, path)

    def labeler(self, **options: Any) -> Neural:
        return Neural(**{"model": self.path, "tokenizer": str(self.tokenizer), "device": "cpu", **options})

    def says(self, text: str) -> tuple[list[int], list[float]]:
        """State and probability of each condition, of a text that CheXbert reads whole."""
        pieces = [w for word in text.lower().replace(".", " . ").split() for w in self._spell(word)]
        ids = torch.tensor([[WORDS.index(w) for w in ["[CLS]", *pieces, "[SEP]"]]])
        with torch.no_grad():
            cls = self.bert(ids).last_hidden_state[0, 0]
        states, probabilities = [], []
        for weight, bias in self.heads:
            q = torch.softmax(weight @ cls + bias, 0).tolist()  # blank, positive, negative, uncertain
            blank, positive, negative, uncertain = [*q, 0.0, 0.0] if len(q) == 2 else q
            ours = [positive, negative, uncertain, blank]
            states.append(int(np.argmax(ours)))
            probabilities.append(float(WORTH @ ours))
        return states, probabilities

    @staticmethod
    def _spell(word: str) -> list[str]:
        return [word] if word in WORDS else [word[0], *(f"##{c}" for c in word[1:])]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    return Official(tmp_path_factory.mktemp("official"))


def reports(texts: list[str]) -> list[Report]:
    return [Report(f"r{i}", text) for i, text in enumerate(texts)]


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("state", "probability", "uncertainty"))


def test_chexberts_heads_say_what_an_independent_forward_says(official: Official) -> None:
    table = official.labeler().label(reports(TEXTS))
    assert list(table.vocabulary.names) == CONDITIONS
    assert table.source == "chexbert"
    seen = set()
    for row, text in enumerate(TEXTS):
        states, probabilities = official.says(text)
        assert table.state[row].tolist() == states
        np.testing.assert_allclose(table.probability[row], probabilities, atol=1e-5)
        seen |= set(states)
    assert seen == {POSITIVE, NEGATIVE, UNCERTAIN, UNMENTIONED}, "the texts are to try every class"
    assert set(table.state[:, CONDITIONS.index("No Finding")].tolist()) <= {POSITIVE, UNMENTIONED}


def test_the_contract_is_kept(official: Official) -> None:
    check_labeler(official.labeler(), [*TEXTS, "No effusion. " * 60, "IMPRESSION: Possible edema."])


@pytest.mark.parametrize("layout", ["without module", "bare", "with position_ids"])
def test_other_forms_of_the_state_dict_are_the_same_network(official: Official, tmp_path: Path, layout: str) -> None:
    body: dict[str, Any] = official.keys("" if layout == "without module" else "module.")
    if layout == "with position_ids":
        body["module.bert.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    torch.save(body if layout == "bare" else {"model_state_dict": body}, tmp_path / "other.pth")
    table = official.labeler(model=tmp_path / "other.pth").label(reports(TEXTS))
    assert same(table, official.labeler().label(reports(TEXTS)))


def test_without_a_config_the_shape_follows_from_the_weights(tmp_path: Path) -> None:
    wide = Official(tmp_path, width=128)  # two heads of 64, as BERT-base has twelve
    told = wide.labeler().label(reports(TEXTS))
    (wide.tokenizer / "config.json").unlink()
    assert same(told, wide.labeler().label(reports(TEXTS)))


def test_neither_order_nor_neighbours_nor_threads_change_a_bit(official: Official) -> None:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS[5:14], generator.integers(1, 70))) for _ in range(40)]
    labeler = official.labeler()
    whole = labeler.label(reports(texts))
    assert torch.get_num_threads() == 2, "what the caller set is set again"
    for row in generator.permutation(40)[:12]:
        alone = labeler.label([Report("x", texts[row])])
        assert np.array_equal(alone.probability[0], whole.probability[row])
    order = generator.permutation(40)
    assert np.array_equal(labeler.label(reports([texts[i] for i in order])).probability, whole.probability[order])
    torch.set_num_threads(1)
    assert same(labeler.label(reports(texts)), whole)
    torch.set_num_threads(2)


def test_each_distinct_text_is_read_once(official: Official, monkeypatch: pytest.MonkeyPatch) -> None:
    labeler = official.labeler()
    calls: list[int] = []
    forward = labeler._forward
    monkeypatch.setattr(labeler, "_forward", lambda tokens, *rest: calls.append(len(tokens)) or forward(tokens, *rest))
    table = labeler.label(reports(["No effusion.", "edema", "No  effusion.\n", "INDICATION: Pain.\nFINDINGS: No effusion.", ""]))
    assert sum(calls) == 2
    assert (table.probability[0] == table.probability[2]).all()
    assert (table.probability[0] == table.probability[3]).all()


def test_a_text_that_says_nothing_is_unmentioned(official: Official) -> None:
    table = official.labeler().label(reports(["", " \n", "INDICATION: effusion"]))
    assert (table.state == UNMENTIONED).all()
    assert np.allclose(table.probability, 0.1)
    assert len(official.labeler().label([])) == 0


def test_a_long_text_is_read_in_windows_of_whole_sentences(official: Official) -> None:
    labeler = official.labeler()
    words = [f"{'no ' if i % 3 else ''}{'effusion' if i % 2 else 'edema'} the lungs are {'clear ' * (i % 7)}" for i in range(30)]
    sentences = [sentence.strip().capitalize() + "." for sentence in words]
    text = " ".join(sentences)
    windows = labeler._cut(text)
    assert len(windows) > 3
    assert " ".join(windows) == text
    starts = np.cumsum([0, *(len(window) + 1 for window in windows)])
    assert set(starts) <= set(np.cumsum([0, *(len(sentence) + 1 for sentence in sentences)])), "cut between sentences"
    assert max(len(t) for t in labeler._tokens(windows)) <= LENGTH
    parts = labeler.label(reports(windows))
    rank = np.array([3, 1, 2, 0])[parts.state] + parts.probability  # positive, then uncertain, then negative; then the likeliest
    best = rank.argmax(axis=0)
    whole = labeler.label(reports([text]))
    columns = np.arange(len(CONDITIONS))
    assert np.array_equal(whole.state[0], parts.state[best, columns])
    assert np.array_equal(whole.probability[0], parts.probability[best, columns])
    assert len(set(best.tolist())) > 1, "the findings come from several windows"


def test_a_sentence_that_is_too_long_is_halved_and_nothing_of_it_is_lost(official: Official) -> None:
    labeler = official.labeler()
    for text in ("effusion " * 300, "zq" * 45, "no " * 1000 + "effusion."):
        windows = labeler._cut(text)
        assert "".join(windows).replace(" ", "") == text.replace(" ", "")
        assert max(len(t) for t in labeler._tokens(windows)) <= LENGTH


def test_impressions_alone_are_read_where_asked(official: Official) -> None:
    text = "FINDINGS: Possible edema.\nIMPRESSION: No effusion."
    alone, both = official.labeler(sections="impression"), official.labeler()
    assert same(alone.label(reports([text])), both.label(reports(["No effusion."])))
    assert same(both.label(reports([text])), both.label(reports(["Possible edema. No effusion."])))
    assert same(alone.label(reports(["FINDINGS: Possible edema."])), both.label(reports(["Possible edema."])))


def bomb(official: Official, folder: Path) -> Path:
    (folder / "bad.pth").write_bytes(explode(folder / "marker"))
    return folder / "bad.pth"


def bomb_beside_weights(official: Official, folder: Path) -> Path:
    torch.save({"model_state_dict": {**official.keys(), "module.extra": Bomb(folder / "marker")}}, folder / "bad.pth")
    return folder / "bad.pth"


def saved(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Official, Path], Path]:
    def write(official: Official, folder: Path) -> Path:
        body = official.keys()
        changed = change(body)
        torch.save({"model_state_dict": body if changed is None else changed}, folder / "bad.pth")
        return folder / "bad.pth"

    return write


def text_file(official: Official, folder: Path) -> Path:
    (folder / "bad.pth").write_text("Small effusion of Mr. Miller", encoding="utf-8")
    return folder / "bad.pth"


BROKEN: dict[str, tuple[Callable[[Official, Path], Path], str]] = {
    "a pickle that executes": (bomb, "not a checkpoint that can be read safely"),
    "weights beside what executes": (bomb_beside_weights, "not a checkpoint that can be read safely"),
    "no checkpoint": (text_file, "not a checkpoint that can be read safely"),
    "other weights": (saved(lambda keys: {"fc.weight": torch.zeros(2)}), "found others"),
    "no weights": (saved(lambda keys: {"module.bert.x": "words", "module.linear_heads.0.weight": 3}), "found others"),
    "a list": (saved(lambda keys: [1, 2]), "found others"),
    "a head less": (
        saved(lambda keys: {k: v for k, v in keys.items() if "heads.13.weight" not in k}),
        "13 heads of four classes",
    ),
    "VisualCheXbert": (
        saved(lambda keys: {k: v[:1] if "linear_heads" in k else v for k, v in keys.items()}),
        "such as VisualCheXbert",
    ),
    "a layer less": (
        saved(lambda keys: {k: v for k, v in keys.items() if "layer.1." not in k}),
        "its weights do not fit the BERT described in",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_such_checkpoint_is_refused_and_nothing_runs(official: Official, tmp_path: Path, case: str) -> None:
    make, message = BROKEN[case]
    path = make(official, tmp_path)
    with pytest.raises(InputError, match=message) as error:
        official.labeler(model=path)
    assert "Miller" not in str(error.value)
    assert not (tmp_path / "marker").exists()


def test_a_tokenizer_is_asked_for_and_must_fit(official: Official, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brings no tokenizer; give a folder"):
        official.labeler(tokenizer=None)
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="cannot be loaded"):
            official.labeler(tokenizer=str(nothing))
    shutil.copytree(official.tokenizer, tmp_path / "larger")
    (tmp_path / "larger" / "vocab.txt").write_text("\n".join([*WORDS, "more", "words"]), encoding="utf-8")
    with pytest.raises(InputError, match=f"with {len(WORDS)} words, found {len(WORDS) + 2}"):
        official.labeler(tokenizer=str(tmp_path / "larger"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sections": "impresion"}, "did you mean impression"),
        ({"device": "tpu"}, "expected auto, cpu or a GPU"),
        ({"device": "cuda:99"}, "expected auto, cpu or a GPU"),
        ({"device": "no device"}, "expected auto, cpu or a GPU"),
    ],
)
def test_options_that_do_not_fit(official: Official, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        official.labeler(**options)


def test_a_model_is_asked_for() -> None:
    with pytest.raises(UsageError, match="needs the option 'model'"):
        create("neural")
    with pytest.raises(InputError, match="no such model"):
        create("neural", {"model": "nowhere"})


# --- folders of ours -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as docstring of ``write_labeler`` describes it, written by hand: two findings of a vocabulary of its own."""
    path = tmp_path_factory.mktemp("run") / "labeler"
    model = make_bert(32, path)
    model.save_pretrained(path)
    BertTokenizerFast.from_pretrained(path).save_pretrained(path)
    torch.manual_seed(1)
    heads = {"query": torch.randn(2, 32), "weight": torch.randn(2, 4, 32), "bias": torch.randn(2, 4)}
    save_file(heads, path / "heads.safetensors")
    body = {
        "format": "hybridpt report labeler",
        "version": 1,
        "name": "ours",
        "states": list(STATES),
        "vocabulary": {"name": "house", "version": "7", "hash": "0123456789abcdef"},
        "findings": [{"name": "Edema", "parent": None}, {"name": "Interstitial Edema", "parent": "Edema"}],
        "probability": [[0.9, 0.02, 0.4, 0.1], [0.8, 0.01, 0.3, 0.2]],
        "max_length": LENGTH,
        "tokenizer_check": {"text": "no effusion.", "tokens": [2, 6, 7, 5, 3]},
        "trained_on": ["context"],
    }
    (path / "labeler.json").write_text(json.dumps(body), encoding="utf-8")
    return path


def test_a_folder_says_what_an_independent_forward_says(folder: Path) -> None:
    labeler = Neural(model=folder, device="cpu")
    assert (labeler.name, labeler.vocabulary.name, labeler.vocabulary.digest) == ("ours", "house", "0123456789abcdef")
    table = labeler.label(reports(TEXTS))
    model = BertModel.from_pretrained(folder).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    heads = {name: value.numpy() for name, value in load_file(folder / "heads.safetensors").items()}
    worth = np.array([[0.9, 0.02, 0.4, 0.1], [0.8, 0.01, 0.3, 0.2]])
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            hidden = model(**tokenizer(" ".join(text.split()), return_tensors="pt")).last_hidden_state[0].numpy()
        for k in range(2):
            attention = np.exp(hidden @ heads["query"][k])
            logit = heads["weight"][k] @ (attention / attention.sum() @ hidden) + heads["bias"][k]
            q = np.exp(logit - logit.max()) / np.exp(logit - logit.max()).sum()
            assert table.state[row, k] == q.argmax()
            assert table.probability[row, k] == pytest.approx(q @ worth[k], abs=1e-5)
    check_labeler(labeler, TEXTS)


def test_the_folder_of_the_run_is_the_folder_too(folder: Path) -> None:
    assert same(Neural(model=folder.parent).label(reports(TEXTS)), Neural(model=folder).label(reports(TEXTS)))
    with pytest.raises(UsageError, match="brings its own tokenizer"):
        Neural(model=folder, tokenizer=str(folder))


def test_other_weights_are_another_version(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert Neural(model=tmp_path / "copy").version == Neural(model=folder).version
    heads = load_file(folder / "heads.safetensors")
    heads["bias"][0, 0] += 1e-3
    save_file(heads, tmp_path / "copy" / "heads.safetensors")
    assert Neural(model=tmp_path / "copy").version != Neural(model=folder).version


def test_the_command_line_labels_with_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["report_id,text", *(f"a{i},{text}" for i, text in enumerate(TEXTS)), "e,"]
    (tmp_path / "reports.csv").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "neural.parquet"
    options = ["--labeler", "neural", "--set", f"model={folder}", "--set", "device=cpu"]
    assert main(["run", str(tmp_path / "reports.csv"), *options, "-o", str(out)]) == 0
    assert "(1 of them empty" in capsys.readouterr().err
    table = read_table(out)
    assert (table.source, table.vocabulary.name) == ("ours", "house")
    assert np.array_equal(table.state[: len(TEXTS)], Neural(model=folder).label(reports(TEXTS)).state)
    assert main(["run", str(tmp_path / "reports.csv"), "--labeler", "neural", "--set", "model=nowhere", "-o", str(out)]) == 1


def edit(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        body = json.loads((path / "labeler.json").read_text(encoding="utf-8"))
        (path / "labeler.json").write_text(json.dumps({**body, **values}), encoding="utf-8")

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda path: save_file(change(load_file(path / name)), path / name, {"format": "pt"})


def pickled_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(explode(path / "marker"))


def code_beside_weights(path: Path) -> None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config |= {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}, "model_type": "evil"}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(path / 'marker')!r}).touch()", encoding="utf-8")


def another_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("\n".join([*WORDS[:5], *reversed(WORDS[5:])]), encoding="utf-8")


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no labeler.json": (without("labeler.json"), "found no labeler.json"),
    "not JSON": (lambda path: (path / "labeler.json").write_text("{"), "not JSON"),
    "another format": (edit(format="other"), "expected the format"),
    "a newer version": (edit(version=2), "written by a newer hybridpt"),
    "other states": (edit(states=["yes", "no"]), "with the states positive"),
    "a bad length": (edit(max_length="long"), "a max_length from 8"),
    "a finding twice": (
        edit(findings=[{"name": "Edema", "parent": None}] * 2),
        "its findings, vocabulary or probabilities are damaged",
    ),
    "too few probabilities": (edit(probability=[[0.5] * 4]), r"a probability in \[0, 1\]"),
    "a probability above one": (edit(probability=[[0.5] * 4, [0.5, 0.5, 0.5, 1.5]]), r"a probability in \[0, 1\]"),
    "no network": (without("model.safetensors"), "its network cannot be loaded"),
    "no config": (without("config.json"), "its network cannot be loaded"),
    "a torn network": (lambda path: (path / "model.safetensors").write_bytes(b"torn"), "its network cannot be loaded"),
    "a weight less": (
        tensors("model.safetensors", lambda t: {k: v for k, v in t.items() if k != "encoder.layer.1.output.dense.weight"}),
        "1 of the network's weights are missing",
    ),
    "no heads": (without("heads.safetensors"), "the heads cannot be loaded"),
    "heads of other findings": (
        tensors("heads.safetensors", lambda t: {**t, "query": torch.zeros(3, 32)}),
        "expected heads of 2",
    ),
    "no tokenizer": (
        lambda path: [p.unlink() for p in path.iterdir() if "token" in p.name or p.name == "vocab.txt"] and None,
        "its tokenizer",
    ),
    "another tokenizer": (another_tokenizer, "its tokenizer is not the one"),
    "a pickle in the place of weights": (pickled_weights, "its network cannot be loaded"),
    "code beside the weights": (code_beside_weights, "its network cannot be loaded"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_folder_is_refused_and_nothing_runs(folder: Path, tmp_path: Path, case: str) -> None:
    damage, message = DAMAGED[case]
    shutil.copytree(folder, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(InputError, match=message) as error:
        Neural(model=tmp_path / "copy")
    assert "hybridpt fit" in str(error.value)
    assert not list(tmp_path.rglob("marker"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu_and_with_itself(official: Official) -> None:
    texts = [" ".join(WORDS[5 + (i * j) % 9] for j in range(1, 3 + i)) for i in range(150)]
    labeler = official.labeler(device="cuda")
    whole = labeler.label(reports(texts))
    np.testing.assert_allclose(whole.probability, official.labeler().label(reports(texts)).probability, atol=0.1)
    for row in (0, 17, 149):
        assert np.array_equal(labeler.label([Report("x", texts[row])]).probability[0], whole.probability[row])
