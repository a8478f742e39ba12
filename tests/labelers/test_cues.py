"""The cue resource: what is wrong with a file is told with its line."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping

import pytest

from labelers.cues import load_cues, read_cues
from labelers.errors import InputError

FOLDER = importlib.resources.files("labelers.resources") / "cues"
FILES = sorted((entry for entry in FOLDER.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
SHIPPED = {entry.name: entry.read_text(encoding="utf-8") for entry in FILES}
CUE = """cues:
  - cue: doubted
    effect: uncertain
    probability: 0.5
    scope: forward
    phrases: [doubted]
"""
BROKEN = [
    ("probability: 0.5", "probability: 1.5", 4, "key 'probability'.*a number from 0 to 1"),
    ("probability: 0.5", "probability: half", 4, "key 'probability'.*a number from 0 to 1"),
    ("effect: uncertain", "effect: unsure", 3, "key 'effect'.*one of negative, uncertain"),
    ("scope: forward", "scope: ahead", 5, "key 'scope'.*one of forward"),
    ("scope: forward", "scope: forward\n    reach: far", 6, "key 'reach'.*one of next"),
    ("scope: forward", "scope: forward\n    chronic: -1", 6, "key 'chronic'.*a number from 0 to 1"),
    ("scope: forward", "scope: forward\n    change: gone", 6, "key 'change'.*resolved"),
    ("scope: forward", "scopes: forward", 5, "cue 1, key 'scopes'.*a key among"),
    ("    scope: forward\n", "", 2, "cue 1: expected the key 'scope'"),
    ("cue: doubted", "cue: no", 2, "key 'cue'.*quote"),
    ("[doubted]", "[doubted, no]", 6, "key 'phrases'.*quote"),
    ("[doubted]", "doubted", 6, "key 'phrases'.*a list"),
    ("    phrases: [doubted]", "    phrases: [doubted]\n  - 3", 7, "cue 2: expected a mapping"),
    ("cues:", "cue:", 1, "key 'cue'.*a key among cues"),
]
BROKEN_WORDS = [
    ("grammar.yaml", "turn: [with,", "turns: [with,", "key 'turns'.*a key among"),
    ("grammar.yaml", "affirmed: 0.95", "affirmed: certain", "key 'affirmed'.*a number"),
    ("grammar.yaml", 'colon: [":"]', "colon: 3", "key 'colon'.*a list"),
    ("attributes.yaml", "  left: [left,", "  port: [left,", "side, key 'port'.*a key among left, right"),
    ("attributes.yaml", "  left: [left,", "  left: [3, left,", "key 'left'.*phrases in words"),
]


def refused(files: Mapping[str, str], name: str, line: int, what: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: line {line}: .*{what}.*; correct the cue file$"):
        read_cues(files)


@pytest.mark.parametrize(("old", "new", "line", "what"), BROKEN)
def test_a_broken_cue_is_told_with_its_line(old: str, new: str, line: int, what: str) -> None:
    assert CUE.count(old) == 1
    refused({**SHIPPED, "own.yaml": CUE.replace(old, new)}, "own.yaml", line, what)


@pytest.mark.parametrize(("file", "old", "new", "what"), BROKEN_WORDS)
def test_broken_words_are_told_with_their_line(file: str, old: str, new: str, what: str) -> None:
    text = SHIPPED[file]
    assert text.count(old) == 1
    refused({**SHIPPED, file: text.replace(old, new)}, file, 1 + text[: text.index(old)].count("\n"), what)


def test_what_is_no_yaml_is_told_with_its_line() -> None:
    with pytest.raises(InputError, match=r"own.yaml, line 2: not YAML"):
        read_cues({**SHIPPED, "own.yaml": "cues:\n  - ]"})


def test_files_together_give_all_cues() -> None:
    shipped = load_cues()
    assert read_cues({**SHIPPED, "own.yaml": CUE}).phrases["doubted"].cues == (len(shipped.cues),)
    assert read_cues(SHIPPED) == shipped
