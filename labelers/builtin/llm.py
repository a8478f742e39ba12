"""The labeler "llm": a language model behind an OpenAI-compatible endpoint, such as a local vLLM, llama.cpp or Ollama server."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from labelers.answers import SAID, Answer, Statement, answer_schema, graded, place_of, read_answer, voted
from labelers.endpoint import Endpoint, Failure, in_threads
from labelers.errors import InputError, UsageError
from labelers.run import Stopped
from labelers.sections import IMPRESSION, SILENT, split_sections
from labelers.soften import FINDINGS_RANK, Places, soften
from labelers.types import Evidence, LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["LLM"]

KEY = "LABELERS_LLM_KEY"
"""Environment variable of the server's key, where it wants one; a command line would be seen by everybody on the machine."""
LONGEST_ANSWER = 4096
"""Tokens of an answer at the most."""
ALTERNATIVES = 10
"""Tokens whose log-probabilities are asked for at each place; vLLM and OpenAI give 20 at the most."""
HEADERS = ("FINDINGS:\n", "IMPRESSION:\n")
_UNSENDABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
"""Control characters and halves of characters, which many servers refuse."""


class LLM:
    """Language model on a server of yours, such as vLLM, llama.cpp or Ollama: reads findings and impression, answers in JSON.

    The findings and the impression of a report are sent, never its history, id or anything else; the answer must be JSON of one
    schema and may name no other finding than those of the vocabulary. Questions that fail are asked again; a report whose
    questions all fail is left out of the table and counted in ``missed``, since nothing is known of it.

    The probability of a finding comes from the log-probabilities of the token that decided its state (``answers.graded``), where the
    server gives them, else from the states of several answers (``answers.voted``). The findings above one in the tree follow
    from it as with the other labelers, and so does No Finding.

    A server needs room for some 4,000 tokens of instruction and report and ``LONGEST_ANSWER`` more.

    Attributes:
        version: Version of the labeler, of the prompt, and the model.
        missed: Why reports of the last batch are missing from its table, reason -> reports.
    """

    name = "llm"
    version = "1"

    def __init__(
        self,
        url: str,
        model: str,
        vocabulary: str = "chest",
        concurrency: int = 8,
        samples: int = 5,
        timeout: float = 120.0,
        retries: int = 3,
        cache: Path | None = None,
        allow_host: str = "",
        name: str = "llm",
    ) -> None:
        """Check the options; nothing is sent yet. A key that the server wants is read from the environment (``KEY``).

        Args:
            url: Where the API begins, such as ``http://127.0.0.1:8000/v1``.
            model: The model's name, as the server has it.
            vocabulary: Name of a shipped vocabulary or path of a vocabulary file; a smaller one makes faster answers.
            concurrency: Questions under way at the same time.
            samples: Answers to a report where the server gives no log-probabilities: the most likely one and others drawn at random.
            timeout: Seconds for one answer.
            retries: How often a question that failed is asked again, with growing pauses.
            cache: Folder in which answers are kept, under hashes of model, prompt and text and without any words of the text.
            allow_host: A host outside loopback and private ranges that may have the reports.
            name: The source that the table names; another one for each model whose labels are to be told apart.

        Raises:
            UsageError: An option cannot be used, or the address is neither loopback nor private and not allowed.
        """
        _check_options(
            {"concurrency": (concurrency, 1), "samples": (samples, 1), "retries": (retries, 0)},
            timeout,
            {"model": model, "name": name},
        )
        self.name = name
        self._lexicon = load_vocabulary(vocabulary)
        self.vocabulary: Vocabulary = self._lexicon.vocabulary
        names = self.vocabulary.names
        self._asked = [name for k, name in enumerate(names) if k != self._lexicon.no_finding]  # that one follows from the others
        if not self._asked:
            raise UsageError("--set vocabulary: expected a finding to ask for besides No Finding; add one")
        self._prompt = _load_prompt(self._asked)
        self.version = f"1 prompt {self._prompt.version} {model}"
        self._model, self._samples, self._concurrency = model, samples, concurrency
        self._endpoint = Endpoint(
            url, "/chat/completions", timeout=timeout, retries=retries, allowed=[allow_host] if allow_host else [], key=_key()
        )
        self._kept = _Cache(cache, [model, self._prompt.version, self._prompt.system, samples]) if cache is not None else None
        self.missed: Counter[str] = Counter()

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label reports, each by itself; one that got no answer is left out and counted in ``missed``.

        Raises:
            Stopped: The server is not there or answers no question at all, or the cache cannot be written.
        """
        excerpts = [_excerpt(report.text) for report in reports]
        texts = list(dict.fromkeys(excerpt.text for excerpt in excerpts if excerpt.text))
        answers = in_threads(self._answered, texts, self._concurrency, self._endpoint.stop)
        told: dict[str, list[_Said] | str] = {"": [], **dict(zip(texts, answers, strict=True))}
        outcomes = [(report, excerpt, told[excerpt.text]) for report, excerpt in zip(reports, excerpts, strict=True)]
        self.missed = Counter(said for _, _, said in outcomes if isinstance(said, str))
        known = [(report.report_id, excerpt, said) for report, excerpt, said in outcomes if not isinstance(said, str)]
        places = self._places([(row, excerpt, one) for row, (_, excerpt, said) in enumerate(known) for one in said])
        read = np.array([bool(excerpt.text) for _, excerpt, _ in known], bool)
        ids = [report_id for report_id, _, _ in known]
        table = soften(ids, read, places, (self._prompt.cue,), self._lexicon, self.name, self.version)
        return replace(table, evidence=_placed(table.evidence))

    def _places(self, said: Sequence[tuple[int, _Excerpt, _Said]]) -> Places:
        """Lay out (row, what was sent, what was said of it) for ``soften``; start = end where nothing was quoted."""
        bounds = np.array([excerpt.place(one.start, one.end) for _, excerpt, one in said], np.int64).reshape(-1, 2)
        return Places(
            row=np.array([row for row, _, _ in said], np.int64),
            finding=np.array([self.vocabulary.index(one.finding) for _, _, one in said], np.int64),
            start=bounds[:, 0],
            end=bounds[:, 1],
            state=np.array([one.state for _, _, one in said], np.int8),
            probability=np.array([one.probability for _, _, one in said], np.float64),
            cue=np.zeros(len(said), np.int64),
            rank=np.full(len(said), FINDINGS_RANK, np.int8),
        )

    def _answered(self, text: str) -> list[_Said] | str:
        """Return what the model says of a text, or why it says nothing."""
        kept = self._kept.get(text, self._asked) if self._kept is not None else None
        if kept is not None:
            return kept
        try:
            first = self._ask(text, 0)
            answers = [first] if first.graded else [first, *(self._ask(text, seed) for seed in range(1, self._samples))]
        except Failure as failure:
            return failure.reason
        said = [_said(s, text) for s in (graded(first) if first.graded else voted(answers))]
        if self._kept is not None:
            self._kept.put(text, said)
        return said

    def _ask(self, text: str, seed: int) -> Answer:
        """Ask once: the most likely answer for seed 0, one drawn at random for each other seed."""

        def question(attempt: int) -> dict[str, Any]:
            body: dict[str, Any] = {
                "model": self._model,
                "messages": [{"role": "system", "content": self._prompt.system}, {"role": "user", "content": text}],
                "response_format": self._prompt.format,
                "max_tokens": LONGEST_ANSWER,
                "temperature": 1.0 if seed or attempt else 0.0,  # what failed would be said again word for word
                "seed": seed + self._samples * attempt,
            }
            return body if seed else {**body, "logprobs": True, "top_logprobs": ALTERNATIVES}

        return self._endpoint.ask(question, lambda reply: read_answer(reply, self._asked))


def _check_options(counts: Mapping[str, tuple[int, int]], timeout: float, words: Mapping[str, str]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise UsageError(f"--set {name}: expected a whole number from {least}, got {value}")
    if not (math.isfinite(timeout) and 0 < timeout <= 86_400):
        raise UsageError(f"--set timeout: expected seconds, more than 0 and no more than a day, got {timeout:g}")
    for name, text in words.items():
        if not text.strip() or not text.isprintable():
            raise UsageError(f"--set {name}: expected words on one line, got none or more; give a name")


def _key() -> str | None:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the environment variable {KEY} holds no key: expected printable ASCII; correct it")
    return key or None


# --- the prompt and what is sent ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prompt:
    version: str
    cue: str
    system: str
    format: dict[str, Any]


def _load_prompt(findings: Sequence[str]) -> _Prompt:
    file = importlib.resources.files("labelers.resources") / "prompts" / "findings.yaml"
    data = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    system = data["system"].replace("{findings}", "\n".join(f"- {name}" for name in findings))
    schema = {"name": "findings", "strict": True, "schema": answer_schema(findings)}
    return _Prompt(data["version"], data["cue"], system, {"type": "json_schema", "json_schema": schema})


class _Piece(NamedTuple):
    """A stretch of a report in what is sent: where it begins there, where in the report, and its length."""

    sent: int
    start: int
    length: int


class _Excerpt(NamedTuple):
    """What is sent of a report, empty where nothing is."""

    text: str
    pieces: tuple[_Piece, ...]

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return where a stretch of what is sent stands in the report, (0, 0) where in no single piece of it."""
        for piece in self.pieces:
            if start < end and piece.sent <= start and end <= piece.sent + piece.length:
                return start - piece.sent + piece.start, end - piece.sent + piece.start
        return 0, 0


def _excerpt(text: str) -> _Excerpt:
    """Take the findings and the impression out of a report, one code point for each of it, under headers of ours."""
    sent, pieces = "", []
    for kind, start, end in split_sections(text):
        body = text[start:end].strip()
        if kind == SILENT or not body:
            continue
        sent += ("\n\n" if sent else "") + HEADERS[kind == IMPRESSION]
        start = text.index(body, start)
        pieces.append(_Piece(len(sent), start, len(body)))
        sent += _UNSENDABLE.sub("\N{REPLACEMENT CHARACTER}", body)
    return _Excerpt(sent, tuple(pieces))


# --- what was said, and the cache of it -----------------------------------------------------------------------------------------


class _Said(NamedTuple):
    """A statement with the place of its quote in what was sent, start = end where it has none."""

    finding: str
    state: int
    probability: float
    start: int
    end: int


def _said(statement: Statement, text: str) -> _Said:
    start, end = place_of(statement.quote, text) or (0, 0)
    return _Said(statement.finding, statement.state, round(statement.probability, 6), start, end)


def _placed(evidence: Evidence) -> Evidence:
    """Leave out what has no place in the text."""
    kept = evidence.end > evidence.start
    probability = None if evidence.probability is None else evidence.probability[kept]
    columns = (evidence.cell[kept], evidence.start[kept], evidence.end[kept], evidence.state[kept], evidence.cue[kept])
    return Evidence(*columns, evidence.cues if kept.any() else (), probability)


class _Cache:
    """Answers in a folder, one file each; many threads and processes may share it, since a file appears whole."""

    def __init__(self, folder: Path, context: Sequence[object]) -> None:
        self._folder, self._context = folder, json.dumps(context)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--set cache: {folder}: no folder can be made there ({error.strerror}); give another") from None

    def _path(self, text: str) -> Path:
        digest = hashlib.sha256(json.dumps([self._context, text]).encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"

    def get(self, text: str, findings: Sequence[str]) -> list[_Said] | None:
        """Return what is kept of a text; a file that holds anything else counts as none."""
        try:
            said = [_Said(*one) for one in json.loads(self._path(text).read_bytes())]
            return said if all(_is_said(one, findings, len(text)) for one in said) else None
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def put(self, text: str, said: Sequence[_Said]) -> None:
        """Keep what was said of a text."""
        path = self._path(text)
        try:
            path.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
                file.write(json.dumps(said).encode())
            try:
                os.replace(file.name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)
                raise
        except OSError as error:
            raise Stopped(
                f"the cache {self._folder} cannot be written ({error.strerror}); make room, or give another folder"
            ) from None


def _is_said(one: _Said, findings: Sequence[str], length: int) -> bool:
    whole = all(type(value) is int for value in (one.state, one.start, one.end)) and type(one.probability) is float
    return (
        whole
        and one.finding in findings
        and 0 <= one.state < len(SAID)
        and 0.0 <= one.probability <= 1.0
        and 0 <= one.start <= one.end <= length
    )
