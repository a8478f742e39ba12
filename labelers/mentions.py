"""Sentences + vocabulary -> phrases with character offsets, clauses, and mentions of findings."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import NamedTuple

import ahocorasick_rs

from labelers.types import Mention
from labelers.vocabulary import ABNORMAL, BORDERLINE, PRESENT, Lexicon, Target

__all__ = ["Clauses", "Matcher", "NamedPlace", "Part", "Phrase", "Token", "find_mentions", "named_places", "normalize"]

LINKED_ANATOMY = 4
"""An observation is linked to this many anatomical phrases on either side at most, the nearest ones."""
LINKED_PARTS = 6
"""A list of anatomical phrases that share one observation is followed over this many parts at most."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """What one phrase means to each stage.

    Attributes:
        targets: What it says of findings; None where it is no term.
        anatomy: Anatomical classes.
        observations: Classes of observations.
        cues: Positions in the list of cues.
        grammar: Groups of the grammar resource, such as ``"stop"``.
    """

    targets: tuple[Target, ...] | None = None
    anatomy: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    cues: tuple[int, ...] = ()
    grammar: frozenset[str] = frozenset()


class Token(NamedTuple):
    """A phrase at [start, end) of a sentence as given."""

    phrase: Phrase
    start: int
    end: int


class NamedPlace(NamedTuple):
    """A place that says something of findings.

    Attributes:
        token: Index of the token that carries it (of the observation, where a pattern matched).
        start: First code point in the sentence.
        end: One past the last.
        targets: What it says.
    """

    token: int
    start: int
    end: int
    targets: tuple[Target, ...]


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can hold and the automaton cannot."""
_SPACE = re.compile(r"\s{2,}|[^\S ]|(?<=\w)[-\u2010\u2011](?=\w)")


def normalize(sentence: str) -> tuple[str, list[int] | None]:
    """Bring a sentence into the form that matching uses.

    Returns:
        Lower case with runs of white space, and hyphens inside words, as one space; and for every code point of it the
        offset in the sentence as given, with one past the end last, or None where the two agree.
    """
    lower = sentence.lower()
    if len(lower) != len(sentence):
        lower = "".join(low if len(low := c.lower()) == 1 else c for c in sentence)
    if _SPACE.search(lower) is None:
        return lower, None
    pieces: list[str] = []
    offsets: list[int] = []
    last = 0
    for match in _SPACE.finditer(lower):
        pieces += (lower[last : match.start()], " ")
        offsets += range(last, match.start() + 1)
        last = match.end()
    pieces.append(lower[last:])
    offsets += range(last, len(lower) + 1)
    return "".join(pieces), offsets


@dataclass
class Matcher:
    """One automaton over the phrases of a vocabulary and, where given, of the cues.

    Attributes:
        phrases: Phrase in normal form -> what it means.
    """

    phrases: Mapping[str, Phrase]
    _automaton: ahocorasick_rs.AhoCorasick = field(init=False, repr=False)
    _entries: list[tuple[Phrase, bool, bool]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._automaton = ahocorasick_rs.AhoCorasick(list(self.phrases), implementation=ahocorasick_rs.Implementation.DFA)
        self._entries = [(phrase, text[0].isalnum(), text[-1].isalnum()) for text, phrase in self.phrases.items()]

    @classmethod
    def of(cls, lexicon: Lexicon, cues: Mapping[str, Phrase] | None = None) -> Matcher:
        """Compile a vocabulary, with cues and grammar where given, into one automaton."""
        phrases = dict(cues or {})
        blank = Phrase()
        for text, targets in lexicon.terms.items():
            phrases[text] = replace(phrases.get(text, blank), targets=targets)
        for text, anatomy in lexicon.anatomy.items():
            phrases[text] = replace(phrases.get(text, blank), anatomy=anatomy)
        for text, observations in lexicon.observations.items():
            phrases[text] = replace(phrases.get(text, blank), observations=observations)
        return cls(phrases)

    def tokens(self, sentences: Sequence[str]) -> list[list[Token]]:
        """Find the phrases of each sentence: whole words, the leftmost first, the longest where several begin.

        Returns:
            One list per sentence, in the order of the text, without overlaps.
        """
        normal = [normalize(sentence) for sentence in sentences]
        text = _LONE_SURROGATE.sub("\ufffd", "\n".join(form for form, _ in normal) + "\n")
        found = self._whole_words(text)
        found.sort()
        out: list[list[Token]] = []
        base = k = 0
        for form, offsets in normal:
            tokens: list[Token] = []
            last, stop = base, base + len(form)
            while k < len(found) and found[k][0] < stop:
                start, minus_end, pattern = found[k]
                k += 1
                if start < last:
                    continue
                last = -minus_end
                first, end = start - base, last - base
                if offsets is not None:
                    first, end = offsets[first], offsets[end - 1] + 1
                tokens.append(Token(self._entries[pattern][0], first, end))
            out.append(tokens)
            base = stop + 1
        return out

    def _whole_words(self, text: str) -> list[tuple[int, int, int]]:
        """Return (start, -end, pattern) of the matches that begin and end with a word."""
        entries = self._entries
        found = []
        for pattern, start, end in self._automaton.find_matches_as_indexes(text, overlapping=True):
            _, left, right = entries[pattern]
            if (left and start and text[start - 1].isalnum()) or (right and text[end].isalnum()):
                continue
            found.append((start, -end, pattern))
        return found


@dataclass(slots=True)
class Part:
    """A stretch of a sentence between separators (commas, "and", "or", ...).

    Attributes:
        opened_by: Groups of the grammar of the separators that opened it; empty for the first.
        opener: Index of the first of those separators, -1 for the first part.
        clause: Number of its clause.
        listed: A list with "or" runs on behind it.
        members: Indices of its tokens, separators left out.
        anatomy: Those that name anatomy.
        groups: Groups of the grammar among its members.
        named: A member names findings; ``observed``: is an observation; ``cued``: is a cue.
        last_named: The last member that names findings or keeps others from it, -1 where none.
    """

    opened_by: frozenset[str] = frozenset()
    opener: int = -1
    clause: int = 0
    listed: bool = False
    members: list[int] = field(default_factory=list)
    anatomy: list[int] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)
    named: bool = False
    observed: bool = False
    cued: bool = False
    last_named: int = -1

    @property
    def predicated(self) -> bool:
        """Something is said in it, so that what follows may be a new statement."""
        return self.named or self.observed or self.cued or "verb" in self.groups

    @property
    def anatomy_alone(self) -> bool:
        """It names anatomy of which nothing is said."""
        return bool(self.anatomy) and not (self.named or self.observed or "verb" in self.groups or "turn" in self.opened_by)

    def near(self, i: int) -> list[int]:
        """Return the anatomy around token i, a few tokens on either side at most, in order."""
        k = bisect_left(self.anatomy, i)
        return [j for j in self.anatomy[max(0, k - LINKED_ANATOMY) : k + LINKED_ANATOMY] if j != i]


class Clauses:
    """The tokens of one sentence, cut into parts and clauses (runs of parts).

    Attributes:
        tokens: The tokens.
        parts: The parts, in order.
        part_of: Number of the part of each token.
    """

    def __init__(self, tokens: list[Token]) -> None:
        """Cut a sentence at its separators, then join parts into clauses."""
        self.tokens = tokens
        self.parts = [Part()]
        self.part_of: list[int] = []
        self._verbs = [0]
        self._named = [0]
        self._describes = [False] * len(tokens)
        self._cut()
        self._mark_lists()
        self._join()

    def _cut(self) -> None:
        opening = False
        for i, token in enumerate(self.tokens):
            phrase = token.phrase
            separates = bool(phrase.grammar) and not _OPENS_PART.isdisjoint(phrase.grammar)
            if separates and not opening:
                self.parts.append(Part(phrase.grammar, i))
            elif separates:
                self.parts[-1].opened_by |= phrase.grammar
            else:
                self._enter(self.parts[-1], i, phrase)
            opening = separates
            self.part_of.append(len(self.parts) - 1)
            self._verbs.append(self._verbs[-1] + ("verb" in phrase.grammar))
            self._named.append(self._named[-1] + bool(phrase.targets))
        for part in self.parts:
            named = False
            for i in reversed(part.members):
                phrase = self.tokens[i].phrase
                self._describes[i] = named
                named = bool(phrase.targets) or (named and "verb" not in phrase.grammar and not phrase.cues)

    @staticmethod
    def _enter(part: Part, i: int, phrase: Phrase) -> None:
        part.members.append(i)
        if phrase.grammar:
            part.groups |= phrase.grammar
        if phrase.anatomy:
            part.anatomy.append(i)
        part.observed |= bool(phrase.observations)
        part.cued |= bool(phrase.cues)
        if phrase.targets is not None:
            part.named |= bool(phrase.targets)
            part.last_named = i

    def _mark_lists(self) -> None:
        later = False
        for part in reversed(self.parts):
            part.listed = later
            later = "joiner" in part.opened_by or (later and "stop" not in part.opened_by)

    def _join(self) -> None:
        number = 0
        for before, part in pairwise(self.parts):
            number += "stop" in part.opened_by or self._new_statement(before, part)
            part.clause = number

    def _new_statement(self, before: Part, part: Part) -> bool:
        """Say whether a part behind a comma or "and" begins a statement of its own."""
        if part.opened_by & {"joiner", "turn", "cause"}:
            return False
        if "opener" in part.groups:
            return True
        if part.anatomy and before.predicated and self._verbs[part.members[-1] + 1] > self._verbs[part.anatomy[0]]:
            return True
        return "affirming" in part.groups and (part.named or part.observed) and not part.listed

    def verb_between(self, first: int, last: int) -> bool:
        """Say whether a finite verb stands between two tokens."""
        return self._verbs[last] > self._verbs[first]

    def finding_between(self, first: int, last: int) -> bool:
        """Say whether a finding is named between two tokens."""
        return self._named[last] > self._named[first + 1]

    def describes_finding(self, i: int) -> bool:
        """Say whether a finding follows token i in its part with no verb or cue between ("right hilar mass")."""
        return self._describes[i]


_OPENS_PART = frozenset({"stop", "separator", "turn", "cause", "joiner"})


def named_places(clauses: Clauses, lexicon: Lexicon) -> list[NamedPlace]:
    """Return the places of a sentence that say something of findings, in the order of their tokens."""
    places = _link(clauses, lexicon)
    linked = {(place.token, target) for place in places for target in place.targets}
    for i, token in enumerate(clauses.tokens):
        alone = tuple(target for target in token.phrase.targets or () if (i, target) not in linked)
        if alone:
            places.append(NamedPlace(i, token.start, token.end, alone))
    places.sort(key=lambda place: (place.token, place.start, place.end))
    return places


def _link(clauses: Clauses, lexicon: Lexicon) -> list[NamedPlace]:
    """Join observations with the anatomy that they are about; of several places for one finding the shortest stays."""
    places = []
    for i, token in enumerate(clauses.tokens):
        if not token.phrase.observations:
            continue
        shortest: dict[Target, tuple[int, int]] = {}
        for k in _subjects(clauses, i):
            other = clauses.tokens[k]
            span = min(token.start, other.start), max(token.end, other.end)
            for pair in product(other.phrase.anatomy, token.phrase.observations):
                for target in lexicon.patterns.get(pair, ()):
                    known = shortest.setdefault(target, span)
                    if span[1] - span[0] < known[1] - known[0]:
                        shortest[target] = span
        places += [NamedPlace(i, *span, (target,)) for target, span in shortest.items()]
    return places


def _subjects(clauses: Clauses, i: int) -> list[int]:
    """Return the tokens of the anatomy that observation i is about.

    It is looked for in the observation's own part, then in the nearest part before it that names anatomy, then in the next; from
    there on over neighbouring parts that name anatomy alone ("heart, lungs and mediastinum are normal").
    """
    parts = clauses.parts
    p = clauses.part_of[i]
    anatomy = [k for k in parts[p].near(i) if k < i or not (clauses.describes_finding(k) or clauses.finding_between(i, k))]
    if not anatomy and parts[p].last_named <= i:
        p = _part_with_anatomy(parts, p)
        anatomy = parts[p].near(i)
        if not anatomy and p + 1 < len(parts) and parts[p + 1].anatomy_alone:
            anatomy = parts[p + 1].near(i)
    if not anatomy:
        return []
    step = -1 if anatomy[0] < i else 1
    if step < 0 and not _said_of_all(clauses, anatomy[0], i):
        return anatomy
    out = list(anatomy)
    for n in range(1, LINKED_PARTS + 1):
        q = p + step * n
        if not 0 <= q < len(parts) or parts[q].clause != parts[p].clause or not parts[q].anatomy_alone:
            break
        out += parts[q].near(i)
    return out


def _part_with_anatomy(parts: list[Part], p: int) -> int:
    """Return the nearest part before this one that names anatomy, not across a cause or a stop other than "but"."""
    for q in range(p, max(0, p - LINKED_PARTS), -1):
        groups = parts[q].opened_by
        if "cause" in groups or ("stop" in groups and "contrast" not in groups):
            break
        if parts[q - 1].anatomy:
            return q - 1
    return p


def _said_of_all(clauses: Clauses, first: int, i: int) -> bool:
    """Say whether observation i is said of the whole list before it: a verb stands between, or it speaks of normality."""
    observations = clauses.tokens[i].phrase.observations
    return "normal" in observations or "clear" in observations or clauses.verb_between(first, i)


def find_mentions(text: str, matcher: Matcher, lexicon: Lexicon) -> list[Mention]:
    """Return where a text names findings, whatever it says of them; statements of normality are left out."""
    clauses = Clauses(matcher.tokens([text])[0])
    return [
        Mention(target.finding, place.start, place.end)
        for place in named_places(clauses, lexicon)
        for target in place.targets
        if target.role in (PRESENT, BORDERLINE, ABNORMAL)
    ]
