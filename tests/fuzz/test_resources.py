"""Vocabulary files, cross-walks and CHANNELS.json, given anything: an InputError or something that works."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from labelers import STATES, InputError, Report, read_channels
from labelers.builtin.context import Context
from labelers.channel import channel_information
from labelers.crosswalk import from_scheme, listed, load_crosswalk, to_scheme
from labelers.rows import FLOOR
from labelers.testing import check_labeler
from labelers.vocabulary import load_vocabulary
from tests.fuzz import budget

pytestmark = pytest.mark.filterwarnings("error")

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)


@st.composite
def bent(draw: st.DrawFn, good: Any) -> Any:
    """A good structure in which a few values were replaced, removed or doubled."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        at, key = value, None
        while isinstance(at, dict | list) and at and (key is None or draw(st.booleans())):
            parent, key = at, draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            at = at[key]
        if key is None:
            continue
        what = draw(st.sampled_from(["replace", "remove", "double"]))
        if what == "remove":
            del parent[key]
        elif what == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(at))
        else:
            parent[key] = draw(ANYTHING | WORDS)
    return value


WORDS = st.sampled_from(
    ["heart + big", "heart", "big", "A", "B", "No Finding", "mass", "", " ", "a" * 2000, "-", "[", "x:state", "report_id", "A\nB"]
)
VOCABULARY: dict[str, Any] = {
    "name": "small",
    "version": 2,
    "anatomy": {"heart": ["heart", "cardiac silhouette"], "lung": ["lung"]},
    "observations": {"big": ["enlarged"], "clear": ["clear"]},
    "findings": [
        {"name": "No Finding", "terms": ["normal chest"]},
        {
            "name": "A",
            "terms": ["mass", "tumor"],
            "patterns": ["heart + big"],
            "borderline_terms": ["maybe mass"],
            "borderline": [],
        },
        {"name": "B", "parent": "A", "chronic": True, "names_parent": False, "terms": ["edema"]},
    ],
    "shared": [{"findings": ["A", "B"], "terms": ["disease"]}],
    "normal": [{"denies": ["A"], "affirms": ["No Finding"], "terms": [], "patterns": ["lung + clear"]}],
    "unaffected": [{"denies": ["B"], "terms": ["acute disease"]}],
    "abnormal": ["abnormal"],
    "ignored": ["edema protocol"],
}
SMALL = yaml.safe_dump(VOCABULARY, sort_keys=False)
PIECES = [
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!!python/object/apply:os.mkdir [x]",
    "!!timestamp x",
    "? ",
    "- ",
    "{",
    "[",
    ": ",
    "\t",
    "#",
    "|",
    "\0",
    "\x07",
    "0x",
    "1:2",
]


@st.composite
def misspelt(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 8))
        text = text[:at] + draw(st.sampled_from(PIECES) | st.text(max_size=4)) + text[at + length :]
    return text


@budget(2)
@given(
    text=bent(VOCABULARY).map(lambda v: yaml.safe_dump(v, allow_unicode=True))
    | ANYTHING.map(yaml.safe_dump)
    | misspelt(SMALL)
    | st.text(max_size=50)
)
def test_a_vocabulary_of_anything(folder: Path, text: str) -> None:
    (folder / "any.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        lexicon = load_vocabulary(str(folder / "any.yaml"))
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder / "any.yaml"))
        return
    assert len(lexicon.vocabulary)
    names = [n for n in lexicon.vocabulary.names if n.isprintable()]
    assert len(names) == len(lexicon.vocabulary)


@budget(0.2)
@given(vocabulary=bent(VOCABULARY))
def test_a_vocabulary_that_is_read_labels(folder: Path, vocabulary: Any) -> None:
    (folder / "own.yaml").write_text(yaml.safe_dump(vocabulary, allow_unicode=True), encoding="utf-8", errors="replace")
    try:
        labeler: Any = Context(str(folder / "own.yaml"))
    except InputError:
        return
    words = [
        word for words in (labeler._lexicon.terms, labeler._lexicon.anatomy, labeler._lexicon.observations) for word in words
    ]
    check_labeler(labeler, [". ".join(words), "The heart is enlarged. No " + " or ".join(words)])
    assert len(labeler.label([Report("a", "x")])) == 1


EXTENDING: dict[str, Any] = {
    "extends": "chest",
    "name": "ours",
    "anatomy": {"gland": ["thyroid gland"]},
    "findings": [
        {"name": "Goiter", "terms": ["struma"], "patterns": ["gland + enlarged"]},
        {"name": "Plunging Goiter", "parent": "Goiter", "chronic": True, "terms": ["plunging goiter"]},
    ],
    "normal": [{"denies": ["Goiter", "Nodule"], "patterns": ["gland + normal"]}],
    "ignored": ["struma ovarii"],
}


@budget(0.2)
@given(text=bent(EXTENDING).map(lambda v: yaml.safe_dump(v, allow_unicode=True)) | misspelt(yaml.safe_dump(EXTENDING)))
def test_an_extension_of_anything(folder: Path, text: str) -> None:
    (folder / "ours.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        lexicon = load_vocabulary(str(folder / "ours.yaml"))
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder / "ours.yaml"))
        return
    assert len(set(lexicon.vocabulary.names)) == len(lexicon.vocabulary) > 0


CROSSWALK: dict[str, Any] = {
    "name": "theirs",
    "source": "a paper",
    "count": 3,
    "labels": {
        "nodule": {"exact": "Nodule", "narrower": ["Lung Lesion"]},
        "hole": {"broader": ["Cavitation", "Bulla"]},
        "bad picture": {"none": "quality"},
    },
}


@budget(1)
@given(
    text=bent(CROSSWALK).map(lambda v: yaml.safe_dump(v, allow_unicode=True))
    | ANYTHING.map(yaml.safe_dump)
    | misspelt(yaml.safe_dump(CROSSWALK))
)
def test_a_crosswalk_of_anything(folder: Path, text: str) -> None:
    (folder / "theirs.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        crosswalk = load_crosswalk(str(folder / "theirs.yaml"))
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder / "theirs.yaml"))
        return
    ours = from_scheme(["a"], listed([crosswalk.labels], crosswalk), crosswalk)
    to_scheme(ours, crosswalk)


CHANNEL = {
    "matrix": [[0.05, 0.55, 0.1, 0.3], [0.8, 0.05, 0.05, 0.1]],
    "low": [[0.0, 0.5, 0.0, 0.2], [0.7, 0.0, 0.0, 0.0]],
    "high": [[0.1, 0.6, 0.2, 0.4], [0.9, 0.1, 0.1, 0.2]],
    "counts": [[1, 20, 2, 9], [12, 0, 0, 2]],
}
CHANNELS: dict[str, Any] = {
    "version": 1,
    "states": list(STATES),
    "truth": "reports",
    "channels": {"me": {"*": {"Edema": CHANNEL, "Mass": CHANNEL}, "here": {"Edema": CHANNEL}}},
    "refused": {"me": {"Fracture": "why"}},
    "prior": {"Edema": 0.2, "Mass": 0.1},
}
NUMBERS = st.sampled_from([0, -1, 1e-9, 2, 10**400, float("nan"), float("inf"), 1e308, "0.5", True])


@budget(3)
@given(
    text=bent(CHANNELS).map(json.dumps)
    | NUMBERS.map(lambda n: json.dumps(CHANNELS).replace("0.05", json.dumps(n)))
    | ANYTHING.map(json.dumps)
    | misspelt(json.dumps(CHANNELS))
    | st.sampled_from(["[" * 100_000, "1" * 5000, '{"version": 1, "states": 5, "channels": {}, "prior": {}}'])
)
def test_channels_of_anything(folder: Path, text: str) -> None:
    (folder / "any.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        channels = read_channels(folder / "any.json")
    except InputError as error:
        message = str(error)
        assert message.startswith(str(folder / "any.json"))
        return
    for by_dataset in channels.channels.values():
        for by_finding in by_dataset.values():
            for channel in by_finding.values():
                assert 0 <= channel_information(channel.matrix, 0.5) <= 1 + FLOOR
    channels.write(folder / "again.json")
    again = read_channels(folder / "again.json")
    assert (again.truth, dict(again.prior), again.refused) == (channels.truth, dict(channels.prior), channels.refused)
    assert {k: {d: set(f) for d, f in v.items()} for k, v in again.channels.items()} == {
        k: {d: set(f) for d, f in v.items()} for k, v in channels.channels.items()
    }
