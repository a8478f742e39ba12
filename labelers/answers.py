"""What a language model answers about a report -> statements: the shape it must have, and how sure the model was."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from labelers.endpoint import Failure

__all__ = ["SAID", "Answer", "Entry", "Statement", "answer_schema", "graded", "place_of", "read_answer", "voted"]

SAID = ("positive", "negative", "uncertain")
"""The states that an answer may give, by their codes in ``STATES``; what it does not list is unmentioned."""
PRESENT_GIVEN = (1.0, 0.0, 0.5, 0.05)
"""P(present) that each of ``STATES`` conveys when the model is sure of the state; the last as for whatever is unmentioned."""
SUREST = 0.99
"""P(present) of a statement is at most this and at least one minus this: a token's probability is not that of a finding."""
PSEUDO_COUNT = 1.0
"""Answers' worth of an even spread over the four states that is added to the votes (Perks' prior)."""
SHORTEST_QUOTE = 3
"""Characters that a quote needs to be looked up; fewer stand anywhere."""

_STATE = re.compile(r'"state"\s*:\s*"')
"""The key of a state: inside a string of JSON a quotation mark has a backslash before it, so it matches nowhere else."""


class Entry(NamedTuple):
    """One entry of an answer; ``shares`` is the probability of each of ``SAID``, None where the server tells none."""

    finding: str
    quote: str
    state: int
    shares: tuple[float, ...] | None


class Answer(NamedTuple):
    """An answer that has the shape that was asked for; ``graded``: the server gave the probabilities of its tokens."""

    entries: list[Entry]
    graded: bool


class Statement(NamedTuple):
    """What is made of the answers about one finding: state, P(present), and the quote, empty where there is none."""

    finding: str
    state: int
    probability: float
    quote: str


def answer_schema(findings: Sequence[str]) -> dict[str, Any]:
    """Return the JSON schema of an answer about these findings, strict as the servers' grammars take it."""
    entry = {"finding": {"type": "string", "enum": [*findings]}, "quote": {"type": "string"}}
    entry["state"] = {"type": "string", "enum": [*SAID]}
    item = {"type": "object", "properties": entry, "required": [*entry], "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"findings": {"type": "array", "items": item}},
        "required": ["findings"],
        "additionalProperties": False,
    }


def read_answer(reply: Any, findings: Collection[str]) -> Answer:
    """Read the reply of a chat completion.

    Args:
        reply: The JSON that the server sent.
        findings: The names that were asked for.

    Raises:
        Failure: It is not of the shape that was asked for. Nothing is mended or guessed.
    """
    try:
        choice = reply["choices"][0]
        content = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise Failure("broken answer") from None
    if isinstance(choice, Mapping) and choice.get("finish_reason") == "length":
        raise Failure("answer cut off")
    if not isinstance(content, str):
        raise Failure("broken answer")
    listed = _listed(content)
    if any(entry["finding"] not in findings for entry in listed):
        raise Failure("findings nobody asked for")
    tokens = _tokens(choice)
    places = [match.end() for match in _STATE.finditer(content)]
    shares = [None] * len(listed) if tokens is None else _shares(content, tokens, places)
    entries = [Entry(e["finding"], e["quote"], SAID.index(e["state"]), p) for e, p in zip(listed, shares, strict=True)]
    return Answer(entries, graded=tokens is not None and None not in shares)


def _listed(content: str) -> list[dict[str, str]]:
    """Return the entries of an answer's text; each has exactly the three keys, in words."""
    try:
        value = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Failure("broken answer") from None
    listed = value.get("findings") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(listed, list):
        raise Failure("broken answer")
    for entry in listed:
        whole = isinstance(entry, dict) and entry.keys() == {"finding", "quote", "state"}
        if not whole or not all(isinstance(text, str) for text in entry.values()) or entry["state"] not in SAID:
            raise Failure("broken answer")
    return listed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("one key twice")
    return dict(pairs)


# --- the probabilities of tokens ------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    text: bytes
    chances: dict[bytes, float]


def _tokens(choice: Mapping[str, Any]) -> list[_Token] | None:
    """Return the tokens of an answer, each with the chances of what might have stood there; None where the server tells none."""
    try:
        listed = choice["logprobs"]["content"]
        return [
            _Token(_bytes(token), {_bytes(t): _chance(t) for t in [token, *(token.get("top_logprobs") or ())]})
            for token in listed
        ] or None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _bytes(token: Mapping[str, Any]) -> bytes:
    """The token's bytes where they are told: as text a part of a character cannot be."""
    told = token.get("bytes")
    return bytes(told) if isinstance(told, list) else str(token["token"]).encode("utf-8", "surrogatepass")


def _chance(token: Mapping[str, Any]) -> float:
    value = float(token["logprob"])
    if math.isnan(value):
        raise ValueError("not a number")
    return math.exp(min(0.0, value))


def _shares(content: str, tokens: Sequence[_Token], places: Sequence[int]) -> list[tuple[float, ...] | None]:
    """Return the probabilities of the states at each place where the value of a state begins."""
    whole = content.encode("utf-8", "surrogatepass")
    ends = [*accumulate(len(token.text) for token in tokens)]
    before = b"".join(token.text for token in tokens).find(whole)
    if before < 0:
        return [None] * len(places)
    shares: list[tuple[float, ...] | None] = []
    number = 0
    for place in places:  # in the order of the text
        at = before + len(content[:place].encode("utf-8", "surrogatepass"))
        while ends[number] <= at:
            number += 1
        token = tokens[number]
        shares.append(_shares_of(token, at - (ends[number] - len(token.text))))
    return shares


def _shares_of(token: _Token, lead: int) -> tuple[float, ...] | None:
    """Share the chances of a token among the states that it may begin; its first ``lead`` bytes stand before the state."""
    mass = [0.0] * len(SAID)
    for text, chance in token.chances.items():
        rest = text[lead:]
        if rest and text[:lead] == token.text[:lead]:
            for k, state in enumerate(SAID):  # no two of them begin with the same letter
                if state.encode().startswith(rest) or rest.startswith(state.encode()):
                    mass[k] += chance
    total = sum(mass)
    return tuple(m / total for m in mass) if total > 0 else None


# --- statements -----------------------------------------------------------------------------------------------------------------


def graded(answer: Answer) -> list[Statement]:
    """Make a statement of every entry of an answer with the probabilities of its tokens.

    P(present) is P(positive) + P(uncertain) / 2 at the token that decided the state, renormalised over the three states and kept
    within [1 - SUREST, SUREST].
    """
    return [Statement(e.finding, e.state, _present((*e.shares, 0.0)), e.quote) for e in answer.entries if e.shares is not None]


def voted(answers: Sequence[Answer]) -> list[Statement]:
    """Make statements of several answers about one report.

    A finding gets the state of most answers, of equal ones that of the earliest answer; what most answers leave out is left out.
    P(present) is the mean of ``PRESENT_GIVEN`` over the answers' states, ``PSEUDO_COUNT`` of an even spread among them.

    Args:
        answers: One or more, the most likely answer first.
    """
    told = [_by_finding(answer) for answer in answers]
    statements = []
    for finding in dict.fromkeys(finding for one in told for finding in one):
        states = [one[finding].state if finding in one else len(SAID) for one in told]
        counts = [states.count(k) for k in range(len(PRESENT_GIVEN))]
        state = next(k for k in states if counts[k] == max(counts))
        if state == len(SAID):
            continue
        quote = next(one[finding].quote for one, k in zip(told, states, strict=True) if k == state)
        spread = PSEUDO_COUNT / len(counts)
        shares = [(count + spread) / (len(told) + PSEUDO_COUNT) for count in counts]
        statements.append(Statement(finding, state, _present(shares), quote))
    return statements


def _by_finding(answer: Answer) -> dict[str, Entry]:
    """Return one entry a finding; positive counts over uncertain and uncertain over negative, as among the mentions of a report."""
    rank = (0, 2, 1)
    out: dict[str, Entry] = {}
    for entry in answer.entries:
        known = out.get(entry.finding)
        if known is None or rank[entry.state] < rank[known.state]:
            out[entry.finding] = entry
    return out


def _present(shares: Sequence[float]) -> float:
    p = sum(share * present for share, present in zip(shares, PRESENT_GIVEN, strict=True))
    return min(SUREST, max(1 - SUREST, p))


def place_of(quote: str, text: str) -> tuple[int, int] | None:
    """Return [start, end) of a quote in a text, letter for letter or else whatever its case and its white space; None where absent."""
    words, quote = quote.split(), quote.strip()
    if not SHORTEST_QUOTE <= len(quote) <= len(text):
        return None
    start = text.find(quote)
    if start >= 0:
        return start, start + len(quote)
    found = re.search(r"\s+".join(map(re.escape, words)), text, re.IGNORECASE)
    return found.span() if found else None
