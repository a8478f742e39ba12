"""The labeler "llm" against a server of the test that answers well, badly, late or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labelers.console
import labelers.endpoint
import labelers.ray_engine
from labelers import LabelTable, Report, UsageError, read_table
from labelers.answers import graded, place_of, read_answer, voted
from labelers.builtin.llm import KEY, LLM
from labelers.cli import main
from labelers.endpoint import Failure
from labelers.run import Stopped, label_safely
from labelers.testing import check_labeler
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED

MARKER = "Xylophonist"
"""Planted in texts; only what is sent to the server may hold it."""
VOCABULARY = """
name: small
findings:
  - {name: Lung Opacity}
  - {name: Pneumonia, parent: Lung Opacity}
  - {name: Pleural Effusion}
  - {name: Pneumothorax}
  - {name: No Finding}
"""
ASKED = ["Lung Opacity", "Pneumonia", "Pleural Effusion", "Pneumothorax"]
STATES = ("positive", "negative", "uncertain")
Body = dict[str, Any]


def entry(finding: str, state: str, quote: str = "") -> dict[str, str]:
    return {"finding": finding, "quote": quote, "state": state}


def read_by_rule(body: Body) -> list[dict[str, str]]:
    """What a model might say: the sentence that names a finding, and whether "No" or "possible" begins it."""
    found = []
    for sentence in re.findall(r"[^.\n]+", body["messages"][1]["content"]):
        for name, word in (("Pleural Effusion", "effusion"), ("Pneumothorax", "pneumothorax"), ("Pneumonia", "pneumonia")):
            if word in sentence.lower():
                start = sentence.strip().lower()
                state = "negative" if start.startswith("no") else "uncertain" if start.startswith("possible") else "positive"
                found.append(entry(name, state, sentence.strip()[-200:]))
    return found


def tokens_of(content: str, chances: Sequence[float] = (0.7, 0.1, 0.2)) -> list[Body]:
    """Cut an answer into tokens; those that begin a state have the alternatives of ``chances``, in the order of ``STATES``."""
    pieces = re.split(r'((?<="state": ")\w+)', content)
    tokens: list[Body] = []
    for piece in pieces:
        if piece in STATES:
            told = [
                {"token": s[:4], "bytes": list(s[:4].encode()), "logprob": float(np.log(p))}
                for s, p in zip(STATES, chances, strict=True)
            ]
            mine = told[STATES.index(piece)]
            tokens += [{**mine, "top_logprobs": told}, {"token": piece[4:], "bytes": list(piece[4:].encode()), "logprob": 0.0}]
        else:
            raw = piece.encode()
            cut = [raw[i : i + 3] for i in range(0, len(raw), 3)]  # in the middle of characters, as tokens are
            tokens += [{"token": c.decode(errors="replace"), "bytes": [*c], "logprob": -0.1, "top_logprobs": []} for c in cut]
    return tokens


def completion(content: Any, logprobs: list[Body] | None = None, finish: str = "stop") -> Body:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"object": "chat.completion", "choices": [{**choice, "logprobs": None if logprobs is None else {"content": logprobs}}]}


def answering(findings: list[dict[str, str]], logprobs: bool = True) -> Body:
    content = json.dumps({"findings": findings}, ensure_ascii=False)
    return completion(content, tokens_of(content) if logprobs else None)


class Server(ThreadingHTTPServer):
    """Answers chat completions by ``behave(body, number of the call)``: a reply as JSON, or (status, headers, bytes)."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behave: Callable[[Body, int], Any] = lambda body, _: answering(read_by_rule(body), bool(body.get("logprobs")))
        self.calls: list[tuple[str, dict[str, str], Body]] = []
        self.lock = threading.Lock()
        self.busy = self.most = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """The other side may hang up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.calls.append((self.path, dict(self.headers), body))
            number = len(self.server.calls)
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
        try:
            reply = self.server.behave(body, number)
        finally:
            with self.server.lock:
                self.server.busy -= 1
        status, headers, data = reply if isinstance(reply, tuple) else (200, {}, json.dumps(reply).encode())
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelers.endpoint, "FIRST_WAIT", 0.001)
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(VOCABULARY, encoding="utf-8")
    return str(path)


@pytest.fixture
def make(server: Server, vocabulary: str) -> Callable[..., LLM]:
    return lambda **options: LLM(**{"url": server.url, "model": "tiny", "vocabulary": vocabulary, "timeout": 5.0, **options})


Make = Callable[..., LLM]


def label(labeler: LLM, *texts: str) -> LabelTable:
    return labeler.label([Report(f"r{i}", text) for i, text in enumerate(texts)])


def cell(table: LabelTable, finding: str, row: int = 0) -> tuple[int, float]:
    k = table.vocabulary.index(finding)
    return int(table.state[row, k]), float(table.probability[row, k])


# --- what is asked, and what an answer means ------------------------------------------------------------------------------------


@pytest.mark.parametrize("logprobs", [True, False])
def test_the_contract_holds(server: Server, make: Make, logprobs: bool) -> None:
    server.behave = lambda body, _: answering(read_by_rule(body), logprobs and "logprobs" in body)
    check_labeler(make(), ["No effusion. Possible pneumonia.", f"{MARKER} HISTORY: effusion.", "No pneumothorax. Pneumothorax."])


def test_two_models_are_two_sources(make: Make) -> None:
    check_labeler(make(name="qwen"))
    assert label(make(name="qwen"), "Effusion.").source == "qwen"


def test_the_question(server: Server, make: Make) -> None:
    text = f"INDICATION: {MARKER}, effusion?\n\nFINDINGS: Small effusion.\x00\ud83d\n\nIMPRESSION: No pneumonia."
    labeler = make()
    labeler.label([Report("patient 7", text)])
    ((path, headers, body),) = server.calls
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert "patient 7" not in json.dumps([headers, body])
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"] == "FINDINGS:\nSmall effusion.\ufffd\ufffd\n\nIMPRESSION:\nNo pneumonia."
    assert "- Pleural Effusion\n" in system["content"]
    assert MARKER not in system["content"]
    assert (body["model"], body["temperature"], body["logprobs"]) == ("tiny", 0.0, True)
    form = body["response_format"]["json_schema"]
    assert form["strict"] is True
    schema = form["schema"]["properties"]["findings"]["items"]
    assert schema["properties"]["finding"]["enum"] == ASKED, "No Finding follows from the others"
    assert list(schema["properties"]) == ["finding", "quote", "state"], "the quote before the state"
    assert schema["additionalProperties"] is False
    assert labeler.version == "1 prompt 1 tiny"


def test_nothing_is_sent_of_a_report_without_findings(server: Server, make: Make) -> None:
    table = label(make(), "", " \n", "HISTORY: effusion, pneumonia.")
    assert server.calls == []
    assert (table.state == UNMENTIONED).all()


def test_the_key_comes_from_the_environment(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret-7")
    label(make(), "Effusion.")
    assert server.calls[0][1]["Authorization"] == "Bearer secret-7"
    monkeypatch.setenv(KEY, "secret\n7")
    with pytest.raises(UsageError) as error:
        make()
    assert KEY in str(error.value)
    assert "secret" not in str(error.value)


def test_probabilities_of_tokens(server: Server, make: Make) -> None:
    table = label(make(), "Large effusion. No pneumothorax.\nPossible pneumonia.")
    for finding, state in (("Pleural Effusion", POSITIVE), ("Pneumothorax", NEGATIVE), ("Pneumonia", UNCERTAIN)):
        assert cell(table, finding) == (state, pytest.approx(0.7 + 0.2 / 2))
    assert cell(table, "Lung Opacity")[0] == UNCERTAIN, "the parent follows"
    assert cell(table, "No Finding")[0] == NEGATIVE
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([('"state": "', {}), ("positive", {"positive": 0.6, "negative": 0.3, "the": 0.1})], 0.6 / 0.9),
        ([('"state":', {}), (' "pos', {' "pos': 0.6, ' "neg': 0.2, ' "unc': 0.2, ' "': 0.3, "\n": 0.1}), ("itive", {})], 0.7),
        ([('"state": "', {}), ("p", {"p": 0.5, "n": 0.4, "uncertain": 0.1, "": 0.2, "x": 0.9}), ("ositive", {})], 0.55),
        ([('"state": "', {}), ('positive"}', {'positive"}': 0.8, 'negative"': 0.2})], 0.8),
        ([('"state": "positive', {'"state": "positive': 0.5, '"state": "negative': 0.5, '"xxxxx": "negative': 0.5})], 0.5),
        ([('"state": "', {}), ("positive", {"positive": 1.0})], 0.99),
    ],
)
def test_tokens_cut_anyhow(tokens: list[tuple[str, dict[str, float]]], expected: float) -> None:
    head = '{"findings": [{"finding": "Pneumonia", "quote": "\\"state\\": \\"negative\\" é😀", '
    made: list[Body] = [{"token": "<think></think>", "logprob": 0.0}, {"token": head, "logprob": 0.0}]
    for text, chances in tokens:
        told = [{"token": t, "logprob": float(np.log(p))} for t, p in chances.items()]
        made.append({"token": text, "logprob": float(np.log(chances.get(text, 1.0))), "top_logprobs": told})
    content = head + "".join(text for text, _ in tokens)
    content += "]}" if content.endswith('"}') else '"}]}'
    made.append({"token": content[len(head) + sum(len(t) for t, _ in tokens) :], "logprob": 0.0})
    answer = read_answer(completion(content, made), ASKED)
    assert answer.graded
    (statement,) = graded(answer)
    assert (statement.state, statement.probability) == (POSITIVE, pytest.approx(expected))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        [{"token": "other words", "logprob": 0.0}],
        [{"token": "x"}],
        [7],
        [{"token": "x", "logprob": "?"}],
        [{"token": "x", "logprob": float("nan")}],
        [{"token": "x", "logprob": -(10**400)}],
        [{"token": "x", "logprob": 0.0, "bytes": [999]}],
        [{"token": "x", "logprob": 0.0, "bytes": 10**15}],
    ],
)
def test_log_probabilities_of_no_use(logprobs: Any) -> None:
    content = json.dumps({"findings": [entry("Pneumonia", "positive")]})
    assert not read_answer(completion(content, logprobs), ASKED).graded


def test_votes(server: Server, make: Make) -> None:
    said = [
        [entry("Pneumonia", "uncertain", "a"), entry("Pneumothorax", "negative")],
        [entry("Pneumonia", "positive"), entry("Pneumonia", "negative")],
        [entry("Pneumonia", "positive")],
        [entry("Pneumonia", "uncertain"), entry("Pleural Effusion", "positive")],
    ]
    server.behave = lambda body, _: answering(said[body["seed"] % 4], logprobs=False)
    table = label(make(samples=4), "Patchy change.")
    assert sorted(body["seed"] for _, _, body in server.calls) == [0, 1, 2, 3]
    assert sorted(body["temperature"] for _, _, body in server.calls) == [0.0, 1.0, 1.0, 1.0]
    # two of four say positive, two uncertain, the first of them that; a quarter of an answer for each of the four states
    expected = (2.25 * 1.0 + 0.25 * 0.0 + 2.25 * 0.5 + 0.25 * 0.05) / 5
    assert cell(table, "Pneumonia") == (UNCERTAIN, pytest.approx(expected, abs=1e-6))
    assert cell(table, "Pneumothorax") == (UNMENTIONED, pytest.approx(0.05)), "most answers leave it out"
    assert cell(table, "Pleural Effusion")[0] == UNMENTIONED


def test_one_answer_is_no_certainty() -> None:
    answer = read_answer(answering([entry("Pneumonia", "negative"), entry("Pneumothorax", "positive")], logprobs=False), ASKED)
    assert [s.probability for s in voted([answer])] == [pytest.approx(x) for x in ((0.25 * 1.55) / 2, (1.25 + 0.25 * 0.55) / 2)]
    assert [s.probability for s in voted([answer] * 999)] == [pytest.approx(0.01), pytest.approx(0.99)]


def test_evidence_is_where_the_words_stand(server: Server, make: Make) -> None:
    said = [
        entry("Pleural Effusion", "positive", "small  LEFT\neffusion"),
        entry("Pneumothorax", "negative", "words that nobody wrote"),
        entry("Pneumonia", "negative", "no pneumonia"),
        entry("Lung Opacity", "negative", ""),
    ]
    server.behave = lambda body, _: answering(said)
    text = "HISTORY: no pneumonia.\n\n😀 FINDINGS:\n Small left\n effusion.\nIMPRESSION: 1. no pneumonia"
    table = label(make(), text)
    places = {row["finding"]: row["evidence"] for row in table.rows()}
    (place,) = places["Pleural Effusion"]
    assert text[place["start"] : place["end"]] == "Small left\n effusion"
    assert (place["state"], place["cue"]) == ("positive", "quoted")
    (place,) = places["Pneumonia"]
    assert place["start"] == text.rindex("no pneumonia"), "what was not sent is no evidence"
    assert places["Pneumothorax"] == places["Lung Opacity"] == []


@pytest.mark.parametrize(
    ("quote", "place"),
    [
        ("b c", (2, 5)),
        (" B\n C ", (2, 5)),
        ("a.c", None),
        ("b", None),
        ("", None),
        ("x" * 99, None),
        ("(b c d)", None),
        ("C D", (4, 7)),
    ],
)
def test_places_of_quotes(quote: str, place: tuple[int, int] | None) -> None:
    assert place_of(quote, "a b c d") == place


def test_a_contradiction_raises_the_uncertainty(server: Server, make: Make) -> None:
    server.behave = lambda body, _: answering([entry("Pneumonia", "positive"), entry("Pneumonia", "negative")])
    table = label(make(), "x")
    assert cell(table, "Pneumonia")[0] == POSITIVE
    k = table.vocabulary.index("Pneumonia")
    p = float(table.probability[0, k])
    assert table.uncertainty[0, k] > -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) + 0.05


# --- what goes wrong ------------------------------------------------------------------------------------------------------------


def garbled(content: Any, **options: Any) -> Callable[[Body, int], Any]:
    return lambda body, number: completion(content, **options)


def raw(status: int, data: bytes = b"", **headers: str) -> Callable[[Body, int], Any]:
    return lambda body, number: (status, {k.replace("_", "-"): v for k, v in headers.items()}, data)


def said(*entries: Any) -> Callable[[Body, int], Any]:
    return garbled(json.dumps({"findings": list(entries)}))


GOOD = entry("Pneumonia", "positive")
BAD: dict[str, tuple[Callable[[Body, int], Any], str, int]] = {
    "no JSON": (garbled(f"{MARKER} is well"), "broken answer", 3),
    "half of it": (garbled('{"findings": [{"finding": "Pneu'), "broken answer", 3),
    "JSON in words": (garbled('Here you are: {"findings": []}'), "broken answer", 3),
    "another object": (garbled('{"results": []}'), "broken answer", 3),
    "more than the object": (garbled('{"findings": [], "note": ""}'), "broken answer", 3),
    "no list": (garbled('{"findings": {}}'), "broken answer", 3),
    "deep": (garbled("[" * 100_000), "broken answer", 3),
    "a number of many digits": (garbled('{"findings": ' + "1" * 10_000 + "}"), "broken answer", 3),
    "null": (garbled(None), "broken answer", 3),
    "an entry that is none": (said(7), "broken answer", 3),
    "no state": (said({"finding": "Pneumonia", "quote": ""}), "broken answer", 3),
    "a further key": (said({**GOOD, "side": "left"}), "broken answer", 3),
    "a state nobody asked for": (said(entry("Pneumonia", "unmentioned")), "broken answer", 3),
    "a state in capitals": (said(entry("Pneumonia", "Positive")), "broken answer", 3),
    "a state that is no word": (said({**GOOD, "state": ["positive"]}), "broken answer", 3),
    "one key twice": (
        garbled('{"findings": [{"finding": "Pneumonia", "quote": "", "state": "positive", "state": "negative"}]}'),
        "broken answer",
        3,
    ),
    "a finding nobody asked for": (said(GOOD, entry(MARKER, "positive")), "findings nobody asked for", 3),
    "no finding": (said(entry("No Finding", "positive")), "findings nobody asked for", 3),
    "a finding in lower case": (said(entry("pneumonia", "positive")), "findings nobody asked for", 3),
    "cut off": (garbled('{"findings": []}', finish="length"), "answer cut off", 3),
    "no choice": (lambda body, _: {"choices": []}, "broken answer", 3),
    "a list": (lambda body, _: [1, 2], "broken answer", 3),
    "no body": (raw(200), "broken answer", 3),
    "a page": (raw(200, b"<html>" + MARKER.encode()), "broken answer", 3),
    "a body of another code": (raw(200, b'{"choices": "\xff\xfe"}'), "broken answer", 3),
    "a body that ends early": (raw(200, b'{"choices"', Content_Length="999", Connection="close"), "broken answer", 3),
    "no number as length": (raw(200, b"{}", Content_Length="many", Connection="close"), "broken answer", 3),
    "overloaded": (raw(503, MARKER.encode()), "HTTP 503", 3),
    "limited": (raw(429, MARKER.encode()), "HTTP 429", 3),
    "refused": (raw(400, MARKER.encode()), "HTTP 400", 1),
    "too long": (raw(413, MARKER.encode()), "HTTP 413", 1),
}


@pytest.mark.parametrize("case", BAD)
def test_what_fails_is_missing_and_never_invented(
    server: Server, make: Make, case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, reason, calls = BAD[case]
    server.behave = lambda body, n: bad(body, n) if MARKER in json.dumps(body) else answering(read_by_rule(body))
    labeler = make(retries=2, cache=tmp_path / "cache")
    table = label(labeler, "Effusion.", f"{MARKER}: effusion, pneumonia.", "No effusion.")
    assert list(table.report_ids) == ["r0", "r2"]
    assert dict(labeler.missed) == {reason: 1}
    assert len(server.calls) == 2 + calls
    assert [cell(table, "Pleural Effusion", r)[0] for r in (0, 1)] == [POSITIVE, NEGATIVE]
    assert len([p for p in (tmp_path / "cache").rglob("*") if p.is_file()]) == 2, "what failed is not kept"
    assert capfd.readouterr() == ("", "")
    server.behave = lambda body, _: answering(read_by_rule(body))
    assert len(label(labeler, "Effusion.", f"{MARKER}: effusion, pneumonia.", "No effusion.")) == 3, "asked again in the next run"
    assert not labeler.missed


@pytest.mark.parametrize(
    "bad", [garbled("{"), said(entry("Mass", "positive")), raw(500), raw(429, Retry_After="0"), raw(503, b"x" * 100_000)]
)
def test_what_fails_for_a_while_is_asked_again(server: Server, make: Make, bad: Callable[[Body, int], Any]) -> None:
    server.behave = lambda body, n: bad(body, n) if n < 3 else answering(read_by_rule(body))
    labeler = make(retries=2)
    assert cell(label(labeler, "Effusion."), "Pleural Effusion")[0] == POSITIVE
    assert not labeler.missed
    assert [body["temperature"] for _, _, body in server.calls] == [0.0, 1.0, 1.0], "word for word it would fail again"
    assert len({body["seed"] for _, _, body in server.calls}) == 3


def test_a_sample_that_fails_makes_the_report_missing(server: Server, make: Make) -> None:
    server.behave = lambda body, _: answering([GOOD], logprobs=False) if body["seed"] % 3 != 2 else (500, {}, b"")
    labeler = make(samples=3, retries=1)
    assert len(label(labeler, "Pneumonia.")) == 0
    assert labeler.missed == {"HTTP 500": 1}


def test_pauses_grow_and_heed_the_server(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(labelers.endpoint, "FIRST_WAIT", 1.0)
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waits.append(timeout) or False)
    labeler = make(retries=6)
    asked = {"Retry-After": "7"}
    replies = iter([(500, {}, b""), (500, {}, b""), (429, asked, b""), (429, {"Retry-After": "99999"}, b""), (500, {}, b"")])

    class Instant:
        def __init__(self, *_: Any) -> None: ...
        def _once(self, *_: Any) -> Any:
            status, headers, _ = next(replies)
            labelers.endpoint._check_status(status, headers.get("Retry-After"))

    monkeypatch.setattr(labeler._endpoint, "_once", Instant()._once)
    with pytest.raises(StopIteration):
        labeler._endpoint.ask(lambda _: {}, lambda reply: reply)
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert waits[2:4] == [7.0, 30.0]
    assert 8.0 <= waits[4] <= 16.0


@pytest.mark.parametrize("how", ["silent", "dripping body", "dripping header"])
def test_a_server_that_takes_its_time(server: Server, make: Make, how: str) -> None:
    over = threading.Event()

    def slow(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        server.calls.append(("", {}, {}))
        first = b"" if how == "silent" else b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 999\r\n\r\n" if "body" in how else b"X: ")
        handler.wfile.write(first)
        while not over.wait(0.02) and how != "silent":
            handler.wfile.write(b" ")  # each byte in time
        over.wait()

    before, Handler.do_POST = Handler.do_POST, slow  # type: ignore[method-assign, assignment]
    try:
        labeler = make(timeout=0.2, retries=1)
        start = time.monotonic()
        assert len(label(labeler, "Effusion.")) == 0
        assert 0.35 < time.monotonic() - start < 2.0
        assert labeler.missed == {"no answer in time": 1}
        assert len(server.calls) == 2
    finally:
        over.set()
        Handler.do_POST = before  # type: ignore[method-assign]


def test_an_answer_without_end(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelers.endpoint, "LARGEST", 1000)
    server.behave = raw(200, b" " * 100_000)
    labeler = make(retries=0)
    assert len(label(labeler, "Effusion.")) == 0
    assert labeler.missed == {"answer too large": 1}


def test_a_connection_that_was_closed_meanwhile_is_no_failure(server: Server, make: Make) -> None:
    server.behave = lambda body, _: answering(read_by_rule(body))
    labeler = make(retries=0, concurrency=1)

    class Closing(Handler):
        def handle_one_request(self) -> None:
            super().handle_one_request()
            self.close_connection = True  # without a word of it

    server.RequestHandlerClass = Closing
    for _ in range(3):
        assert len(label(labeler, "Effusion.", "No effusion.")) == 2
    assert not labeler.missed


def test_a_server_that_hangs_up(server: Server, make: Make) -> None:
    def hang_up(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.close_connection = True

    server.RequestHandlerClass = type("HangingUp", (Handler,), {"do_POST": hang_up})
    labeler = make(retries=1)
    assert len(label(labeler, "Effusion.")) == 0
    assert labeler.missed == {"connection lost": 1}


def test_connections_are_kept(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *given, **more: opened.append(given) or connect(*given, **more))
    label(make(concurrency=2), *(f"Effusion {i}." for i in range(20)))
    assert len(server.calls) == 20
    assert len(opened) <= 2
    assert {given[0][0] for given in opened} == {"127.0.0.1"}


# --- a server that is not there, or not the one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (401, "refuses access (HTTP 401)"),
        (403, "refuses access"),
        (404, "expected url=http://HOST:PORT/v1"),
        (405, "HTTP 405"),
        (301, "redirect (HTTP 301)"),
        (302, "redirect"),
        (303, "redirect"),
        (307, "redirect"),
        (308, "redirect"),
    ],
)
def test_a_server_that_will_never_answer_ends_the_run(server: Server, make: Make, status: int, part: str) -> None:
    with Server() as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, args=(0.01,), daemon=True).start()
        server.behave = raw(status, MARKER.encode(), Location=f"{elsewhere.url}/chat/completions")
        with pytest.raises(Stopped) as error:
            label(make(), *(f"{MARKER} effusion {i}" for i in range(50)))
        elsewhere.shutdown()
    assert elsewhere.calls == []
    assert len(server.calls) <= 8, "the first answer ends it"
    assert part in str(error.value)
    assert f"http://127.0.0.1:{server.server_address[1]}" in str(error.value)
    assert MARKER not in str(error.value)
    assert error.value.__cause__ is None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_nobody_there(make: Make) -> None:
    with pytest.raises(Stopped, match="cannot be reached"):
        label(make(url=f"http://127.0.0.1:{free_port()}/v1", retries=1), "Effusion.")


def test_a_server_that_goes_away_is_given_up_in_the_end(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelers.endpoint, "LOST", 5)
    server.behave = lambda body, n: answering(read_by_rule(body)) if n == 1 else (404, {}, b"")
    labeler = make(retries=0, concurrency=1)
    assert len(label(labeler, "Effusion.", "No effusion.", "Pneumonia.")) == 1
    assert labeler.missed == {"HTTP 404": 2}
    with pytest.raises(Stopped):
        label(labeler, *(f"Effusion {i}." for i in range(10)))
    assert len(server.calls) == 1 + 5


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_must_be_trusted_and_bear_the_name(
    server: Server, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*command, *name, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_address[1]}/v1"
    with pytest.raises(Stopped, match="no certificate that this machine trusts"):
        label(make(url=url), "Effusion.")
    monkeypatch.setenv("SSL_CERT_FILE", files[1])
    assert len(label(make(url=url), "Effusion.")) == 1
    with pytest.raises(Stopped, match="no certificate"):
        label(make(url=url.replace("localhost", "127.0.0.1")), "Effusion.")
    assert len(server.calls) == 1


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "169.254.169.254", "100.64.0.1", "[::ffff:8.8.8.8]", "0.0.0.0"])
def test_addresses_outside_are_refused_at_once(make: Make, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("nothing may be sent"))
    bare = host.strip("[]")
    with pytest.raises(UsageError) as error:
        make(url=f"http://{host}:8000/v1")
    assert f"'{bare}' is outside loopback and private ranges" in str(error.value)
    assert f"--set allow_host={bare}" in str(error.value)
    make(url=f"http://{host}:8000/v1", allow_host=bare)


def test_a_name_is_looked_up_once(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *given: Any, **more: Any) -> Any:
        if host != "gpu.example":
            return real(host, *given, **more)
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "8.8.8.8"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, given[0]))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    labeler = make(url=server.url.replace("127.0.0.1", "gpu.example"))
    assert len(label(labeler, "Effusion.")) == 1
    assert lookups == ["gpu.example"]
    assert server.calls[0][1]["Host"] == f"gpu.example:{server.server_address[1]}"


def test_proxies_of_the_environment_are_not_used(server: Server, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert len(label(make(), "Effusion.")) == 1
        proxy.shutdown()
    assert proxy.calls == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"url": "localhost:8000/v1"}, "--set url: expected http://HOST:PORT/v1"),
        ({"url": "ftp://localhost/v1"}, "--set url"),
        ({"url": "http:///v1"}, "--set url"),
        ({"url": "http://localhost:99999/v1"}, "--set url"),
        ({"url": "http://[::1/v1"}, "--set url"),
        ({"url": "http://localhost/v1?key=hush"}, "--set url"),
        ({"url": "http://localhost/v1\r\nX: y"}, "--set url"),
        ({"url": "http://me:hush@localhost/v1"}, "no name or password"),
        ({"url": "http://no.such.host.invalid/v1"}, "'no.such.host.invalid' is unknown"),
        ({"model": " "}, "--set model"),
        ({"name": "a\nb"}, "--set name"),
        ({"concurrency": 0}, "--set concurrency: expected a whole number from 1, got 0"),
        ({"samples": 0}, "--set samples"),
        ({"retries": -1}, "--set retries: expected a whole number from 0, got -1"),
        ({"timeout": 0.0}, "--set timeout"),
        ({"timeout": float("nan")}, "--set timeout"),
        ({"timeout": float("inf")}, "--set timeout"),
    ],
)
def test_wrong_use(make: Make, options: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError) as error:
        make(**options)
    assert part in str(error.value)
    assert "hush" not in str(error.value)


def test_a_vocabulary_with_nothing_to_ask_for(make: Make, tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("findings: [{name: No Finding}]", encoding="utf-8")
    with pytest.raises(UsageError, match="besides No Finding"):
        make(vocabulary=str(tmp_path / "none.yaml"))


# --- the cache and many at a time -------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("logprobs", [True, False])
def test_the_cache_answers_the_second_time(server: Server, make: Make, tmp_path: Path, logprobs: bool) -> None:
    server.behave = lambda body, _: answering(read_by_rule(body), logprobs)
    texts = [f"{MARKER} effusion.", f"No {MARKER} pneumonia.", "Nothing."]
    first = label(make(cache=tmp_path / "c"), *texts)
    calls = len(server.calls)
    server.behave = raw(500)
    again = label(make(cache=tmp_path / "c"), *texts)
    assert len(server.calls) == calls
    assert list(again.rows()) == list(first.rows())
    files = files_of(tmp_path / "c")
    assert len(files) == 3
    assert all(re.fullmatch(r"[0-9a-f]{64}\.json", file.name) for file in files)
    kept = b"".join(file.read_bytes() for file in files)
    assert MARKER.encode() not in kept
    assert b"effusion" not in kept, "no words of the quotes"
    assert b"Pleural Effusion" in kept


@pytest.mark.parametrize("change", ["model", "vocabulary", "samples", "text", "prompt"])
def test_the_cache_tells_questions_apart(
    server: Server, make: Make, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(make(cache=tmp_path / "c"), "Effusion.")
    other = tmp_path / "other.yaml"
    other.write_text(VOCABULARY + "  - {name: Mass}\n", encoding="utf-8")
    options = {"model": {"model": "large"}, "vocabulary": {"vocabulary": str(other)}, "samples": {"samples": 2}}
    labeler = make(cache=tmp_path / "c", **options.get(change, {}))
    if change == "prompt":
        load = labelers.builtin.llm.yaml.load
        monkeypatch.setattr(labelers.builtin.llm.yaml, "load", lambda *a, **k: {**load(*a, **k), "version": "2"})
        labeler = make(cache=tmp_path / "c")
    label(labeler, "Effusion!" if change == "text" else "Effusion.")
    assert len(server.calls) == 2


def test_history_makes_no_other_question(server: Server, make: Make, tmp_path: Path) -> None:
    one, two = "FINDINGS: Large effusion.", "HISTORY: fever.\nFINDINGS: Large effusion."
    table = label(make(), one, two, one)
    assert len(server.calls) == 1, "what is sent alike is asked once"
    label(make(cache=tmp_path / "c"), two)
    from_cache = label(make(cache=tmp_path / "c"), one)
    assert len(server.calls) == 2
    rows = [row for t in (table, from_cache) for row in t.rows() if row["finding"] == "Pleural Effusion"]
    assert [row["evidence"][0]["start"] for row in rows] == [text.index("Large") for text in (one, two, one, one)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"7",
        b"[7]",
        b'[["Mass", 0, 0.5, 0, 0]]',
        b'[["Pneumonia", 3, 0.5, 0, 0]]',
        b'[["Pneumonia", true, 0.5, 0, 0]]',
        b'[["Pneumonia", 0, 1.5, 0, 0]]',
        b'[["Pneumonia", 0, 0.5, 0, 9999]]',
        b'[["Pneumonia", 0, 0.5, 5, 2]]',
        b'[["Pneumonia", 0, 0.5]]',
        b'[["Pneumonia", 0, NaN, 0, 0]]',
    ],
)
def test_a_broken_entry_is_asked_for_again(server: Server, make: Make, tmp_path: Path, content: bytes) -> None:
    first = label(make(cache=tmp_path / "c"), "Effusion.")
    (file,) = files_of(tmp_path / "c")
    good = file.read_bytes()
    file.write_bytes(content)
    assert list(label(make(cache=tmp_path / "c"), "Effusion.").rows()) == list(first.rows())
    assert len(server.calls) == 2
    assert file.read_bytes() == good


def test_a_cache_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(labelers.InputError, match=r"--set cache: .*file"):
        make(cache=tmp_path / "file")
    labeler = make(cache=tmp_path / "c")
    (tmp_path / "c").rmdir()
    with pytest.raises(Stopped, match=r"the cache .* cannot be written"):
        label(labeler, f"{MARKER} effusion.")


def test_many_processes_share_a_cache(server: Server, vocabulary: str, tmp_path: Path) -> None:
    code = (
        "import sys; from labelers import Report; from labelers.builtin.llm import LLM\n"
        "labeler = LLM(sys.argv[1], 'tiny', vocabulary=sys.argv[2], cache=__import__('pathlib').Path(sys.argv[3]))\n"
        "table = labeler.label([Report(str(i), f'Effusion {i}.') for i in range(60)])\n"
        "print(len(table), (table.state[:, 2] == 0).sum())"
    )
    command = [sys.executable, "-c", code, server.url, vocabulary, str(tmp_path / "c")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split() for process in running] == [["60", "60"]] * 2
    files = files_of(tmp_path / "c")
    assert len(files) == 60
    assert all(file.suffix == ".json" for file in files), "no temporary file is left"


def test_so_many_at_a_time(server: Server, make: Make) -> None:
    def slow(body: Body, _: int) -> Body:
        time.sleep(0.03)
        return answering(read_by_rule(body))

    server.behave = slow
    table = label(make(concurrency=4), *(f"Effusion {i}." if i % 2 else f"No effusion {i}." for i in range(16)))
    assert server.most == 4
    assert table.state[:, 2].tolist() == [NEGATIVE, POSITIVE] * 8, "in the order of the reports"


# --- the command line -------------------------------------------------------------------------------------------------------------

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: Server, vocabulary: str, tmp_path: Path
) -> Cli:
    monkeypatch.setattr(labelers.console, "SECONDS", float("inf"))

    def run(command: str, *argv: object) -> tuple[int, str, str]:
        options = {"url": server.url, "model": "tiny", "vocabulary": vocabulary, "retries": "1", "timeout": "5"}
        given = [text for key, value in options.items() for text in ("--set", f"{key}={value}")]
        status = main([command, *map(str, argv), "--labeler", "llm", *given])
        return status, *capfd.readouterr()

    return run


def write_reports(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"report_id": f"p{i}", "text": t}) + "\n" for i, t in enumerate(texts)), encoding="utf-8")
    return path


def failing(body: Body, _: int) -> Any:
    text = body["messages"][1]["content"]
    return (400, {}, b"") if "long" in text else completion(text) if MARKER in text else answering(read_by_rule(body))


@pytest.mark.parametrize("format", ["long", "wide", "chexpert"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_run_counts_what_is_missing(server: Server, cli: Cli, tmp_path: Path, suffix: str, format: str) -> None:
    server.behave = failing
    source = write_reports(
        tmp_path / "r.jsonl", "Effusion.", f"{MARKER} effusion.", "", "A long report.", f"No {MARKER}.", "None."
    )
    out = tmp_path / f"t{suffix}"
    status, printed, err = cli("run", source, "-o", out, "--format", format)
    assert (status, printed) == (0, "")
    assert err == (
        f"labeled 3 reports (1 of them empty: every finding unmentioned) with 'llm' -> {out}\n"
        f"labelers: 3 of 6 reports have no labels and no row in {out} (broken answer: 2, HTTP 400: 1); "
        "run them again, or count them as unknown\n"
    )
    if format != "chexpert":
        assert list(read_table(out).report_ids) == ["p0", "p2", "p5"]


@pytest.mark.slow
def test_processes_write_the_same(server: Server, cli: Cli, tmp_path: Path) -> None:
    server.behave = failing
    texts = ["Effusion.", f"{MARKER}.", "No effusion.", ""]
    source = write_reports(tmp_path / "r.jsonl", *(texts[i % 4] for i in range(2100)))
    told = []
    for jobs in (1, 2):
        status, _, err = cli("run", source, "-o", tmp_path / f"{jobs}.csv", "--jobs", jobs)
        assert status == 0, err
        told.append(err.replace(f"{jobs}.csv", "t.csv"))
    assert told[0] == told[1]
    assert "525 of 2,100 reports have no labels" in told[0]
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_ray_counts_them_too(server: Server, make: Make) -> None:
    server.behave = failing
    reports = [Report(f"r{i}", text) for i, text in enumerate(["Effusion.", f"{MARKER}.", ""])]
    table, empty, missed = labelers.ray_engine._outcome((1, reports), make(retries=0))
    assert (list(table.report_ids), empty, missed) == (["r0", "r2"], 1, {"broken answer": 1})


@pytest.mark.parametrize("counted", [{}, {"HTTP 400": 2}])
def test_what_is_missing_must_be_counted(server: Server, make: Make, counted: dict[str, int]) -> None:
    server.behave = failing
    labeler = make(retries=0)
    reports = [Report("r0", "Effusion."), Report("r1", "A long report.")]
    assert len(label_safely(labeler, reports, "both")) == 1
    whole = labeler.label

    def forgetful(batch: Sequence[Report]) -> LabelTable:
        table = whole(batch)
        labeler.missed = Counter(counted)
        return table

    labeler.label = forgetful  # type: ignore[method-assign]
    with pytest.raises(labelers.InputError, match="gave other reports than both"):
        label_safely(labeler, reports, "both")


def test_nothing_is_written_where_everything_failed(server: Server, cli: Cli, tmp_path: Path) -> None:
    server.behave = raw(500, MARKER.encode())
    source = write_reports(tmp_path / "r.jsonl", f"{MARKER} effusion.", "Effusion.")
    status, printed, err = cli("run", source, "-o", tmp_path / "out" / "t.csv")
    assert (status, printed) == (1, "")
    assert err == "labelers: error: 'llm' labeled none of 2 reports (HTTP 500: 2); nothing was written\n"
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_in_one_line(server: Server, cli: Cli, tmp_path: Path) -> None:
    server.behave = raw(404, MARKER.encode())
    source = write_reports(tmp_path / "r.jsonl", f"{MARKER} effusion.")
    status, printed, err = cli("run", source, "-o", tmp_path / "t.csv")
    assert (status, printed) == (1, "")
    assert "does not know the address or the model (HTTP 404)" in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "small.yaml"]


def test_explain(server: Server, cli: Cli) -> None:
    status, out, err = cli("explain", "--text", "Large effusion.", "--json")
    assert (status, err) == (0, "")
    (place,) = [p for p in json.loads(out) if p["finding"] == "Pleural Effusion"]
    assert (place["start"], place["end"], place["cue"], place["probability"]) == (0, 14, "quoted", 0.8)
    server.behave = raw(500, MARKER.encode())
    status, out, err = cli("explain", "--text", f"{MARKER} effusion.")
    assert (status, out, err) == (1, "", "labelers: error: 'llm' has no labels of the text (HTTP 500: 1)\n")


def test_the_address_is_checked_by_the_command(cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_reports(tmp_path / "r.jsonl", f"{MARKER}.")
    given = ["--labeler", "llm", "--set", "url=http://198.51.100.7/v1", "--set", "model=m"]
    assert main(["run", str(source), "-o", str(tmp_path / "t.csv"), *given]) == 2
    err = capfd.readouterr().err
    assert "198.51.100.7" in err
    assert "--set allow_host=198.51.100.7" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
def test_ctrl_c_ends_at_once(server: Server, vocabulary: str, tmp_path: Path) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(body: Body, _: int) -> Any:
        asked.set()
        over.wait(30)
        return 500, {}, b""

    server.behave = hang
    source = write_reports(tmp_path / "r.jsonl", *(f"{MARKER} effusion {i}." for i in range(20)))
    command = [sys.executable, "-m", "labelers", "run", str(source), "-o", str(tmp_path / "t.csv"), "--labeler", "llm"]
    command += ["--set", f"url={server.url}", "--set", "model=tiny", "--set", f"vocabulary={vocabulary}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert asked.wait(30)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=20)[1]
    over.set()
    assert time.monotonic() - start < 3
    assert process.returncode == 130
    assert err == "labelers: error: interrupted; nothing half-written was left behind\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "small.yaml"]


def test_after_an_end_it_can_be_used_again(server: Server, make: Make) -> None:
    labeler = make(concurrency=2)
    second, over = threading.Event(), threading.Event()

    def one_hangs(body: Body, number: int) -> Any:
        if number == 1:
            second.wait(5)
            return 404, {}, b""
        second.set()
        over.wait(5)
        return 500, {}, b""

    server.behave = one_hangs
    with pytest.raises(Stopped):
        label(labeler, *(f"Effusion {i}." for i in range(8)))
    start = time.monotonic()
    while labeler._endpoint._open and time.monotonic() - start < 3:
        time.sleep(0.01)
    assert not labeler._endpoint._open, "nobody waits on for what nobody wants any more"
    over.set()
    server.behave = lambda body, _: answering(read_by_rule(body))
    assert len(label(labeler, "Effusion.", "No effusion.")) == 2


def test_a_failure_tells_no_more_than_its_reason() -> None:
    with pytest.raises(Failure) as error:
        read_answer(completion(f'{{"findings": [{{"finding": "{MARKER}", "quote": "{MARKER}", "state": "positive"}}]}}'), ASKED)
    assert str(error.value) == "findings nobody asked for"
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["Pneumonia", *STATES])
_KEYS = st.sampled_from(
    ["choices", "message", "content", "logprobs", "findings", "finding", "state", "token", "bytes", "logprob"]
)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=8
)


@given(_VALUES, _VALUES, _VALUES)
@settings(max_examples=300, deadline=None)
def test_whatever_is_answered_is_read_or_refused(content: Any, logprobs: Any, reply: Any) -> None:
    text = json.dumps(content)
    listed = json.dumps({"findings": [GOOD]})
    choice = {"message": {"content": listed}, "logprobs": {"content": [logprobs, *tokens_of(listed)]}}
    for given_reply in (reply, {"choices": [reply]}, completion(content), completion(text), {"choices": [choice]}):
        try:
            answer = read_answer(given_reply, ASKED)
        except Failure:
            continue
        assert all(e.finding in ASKED and 0 <= e.state < 3 for e in answer.entries)
        assert all(0.01 <= s.probability <= 0.99 for s in (graded(answer) if answer.graded else voted([answer])))
