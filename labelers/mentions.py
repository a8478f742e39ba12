"""Sentences + vocabulary -> phrases with character offsets, clauses, and mentions of findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import ahocorasick_rs

from labelers.types import Mention
from labelers.vocabulary import ABNORMAL, BORDERLINE, PRESENT, Lexicon, Target

__all__ = ["Clauses", "Matcher", "NamedPlace", "Phrase", "Token", "find_mentions", "named_places", "normalize"]

LINKED_ANATOMY = 4
"""An observation is linked to this many anatomical phrases of its part of the clause at most, the nearest ones."""
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


@dataclass(frozen=True, slots=True)
class Token:
    """A phrase at [start, end) of a sentence as given."""

    phrase: Phrase
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class NamedPlace:
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
        for key, values in (("targets", lexicon.terms), ("anatomy", lexicon.anatomy), ("observations", lexicon.observations)):
            for text, value in values.items():
                phrases[text] = replace(phrases.get(text, Phrase()), **{key: value})
        return cls(phrases)

    def tokens(self, sentences: Sequence[str]) -> list[list[Token]]:
        """Find the phrases of each sentence: whole words, the leftmost first, the longest where several begin.

        Returns:
            One list per sentence, in the order of the text, without overlaps.
        """
        normal = [normalize(sentence) for sentence in sentences]
        text = "\n".join(form for form, _ in normal) + "\n"
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


@dataclass
class Clauses:
    """The tokens of one sentence, cut into parts (at commas, "and", "or", ...) and clauses (runs of parts).

    Attributes:
        tokens: The tokens.
        part: Part of each token; a separator belongs to the part that it opens.
        clause: Clause of each part.
        opened_by: Groups of the grammar of the token that opened each part, empty for the first.
        members: Indices of the tokens of each part.
    """

    tokens: list[Token]
    part: list[int] = field(default_factory=list)
    clause: list[int] = field(default_factory=list)
    opened_by: list[frozenset[str]] = field(default_factory=list)
    members: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opened_by.append(frozenset())
        self.members.append([])
        opening = False
        for i, token in enumerate(self.tokens):
            separates = bool(token.phrase.grammar & _OPENS_PART)
            if separates and opening:
                self.opened_by[-1] |= token.phrase.grammar
            elif separates:
                self.opened_by.append(token.phrase.grammar)
                self.members.append([])
            opening = separates
            self.part.append(len(self.members) - 1)
            self.members[-1].append(i)
        self.listed = self._listed()
        number = 0
        for p, groups in enumerate(self.opened_by):
            number += p > 0 and ("stop" in groups or self._new_statement(p))
            self.clause.append(number)

    def has(self, part: int, group: str) -> bool:
        """Say whether a part holds a word of a group of the grammar, besides the token that opened it."""
        return any(group in self.tokens[i].phrase.grammar for i in self.members[part])

    def _listed(self) -> list[bool]:
        """Say for each part whether a list with "or" runs on behind it."""
        listed, later = [], False
        for p in reversed(range(len(self.members))):
            listed.append(later)
            later = "joiner" in self.opened_by[p] or (later and "stop" not in self.opened_by[p])
        return listed[::-1]

    def _new_statement(self, p: int) -> bool:
        groups = self.opened_by[p]
        if "joiner" in groups or "turn" in groups:
            return False
        anatomy = named = affirming = False
        for i in self.members[p]:
            phrase = self.tokens[i].phrase
            if "opener" in phrase.grammar:
                return True
            if "verb" in phrase.grammar and anatomy and self._predicated(p - 1):
                return True
            anatomy = anatomy or bool(phrase.anatomy)
            named = named or bool(phrase.targets) or bool(phrase.observations)
            affirming = affirming or "affirming" in phrase.grammar
        return affirming and named and not self.listed[p]

    def _predicated(self, p: int) -> bool:
        return any(
            "verb" in phrase.grammar or phrase.cues or phrase.observations or phrase.targets
            for phrase in (self.tokens[i].phrase for i in self.members[p])
        )


_OPENS_PART = frozenset({"stop", "separator", "turn", "joiner"})


def named_places(clauses: Clauses, lexicon: Lexicon) -> list[NamedPlace]:
    """Return the places of a sentence that say something of findings, in the order of their tokens."""
    places = [NamedPlace(i, t.start, t.end, t.phrase.targets) for i, t in enumerate(clauses.tokens) if t.phrase.targets]
    places += _link(clauses, lexicon)
    places.sort(key=lambda place: (place.token, place.start, place.end))
    return places


def _link(clauses: Clauses, lexicon: Lexicon) -> list[NamedPlace]:
    """Join observations with the anatomy that they are about, inside their clause."""
    places = []
    for i, token in enumerate(clauses.tokens):
        if not token.phrase.observations:
            continue
        nearest: dict[Target, tuple[int, int]] = {}
        for k in _subjects(clauses, i):
            other = clauses.tokens[k]
            span = min(token.start, other.start), max(token.end, other.end)
            for target in _pattern_targets(other.phrase.anatomy, token.phrase.observations, lexicon):
                known = nearest.setdefault(target, span)
                if span[1] - span[0] < known[1] - known[0]:
                    nearest[target] = span
        places += [NamedPlace(i, *span, (target,)) for target, span in nearest.items()]
    return places


def _pattern_targets(anatomy: Iterable[str], observations: Sequence[str], lexicon: Lexicon) -> tuple[Target, ...]:
    return tuple(target for a in anatomy for o in observations for target in lexicon.patterns.get((a, o), ()))


def _subjects(clauses: Clauses, i: int) -> list[int]:
    """Return the tokens of the anatomy that observation i is about.

    It is looked for in the observation's own part, then in the nearest part before it that names anatomy; from there on over
    neighbouring parts that name anatomy alone ("heart, lungs and mediastinum are normal").
    """
    part = clauses.part[i]
    anatomy = [k for k in _anatomy(clauses, part, i) if k < i or not _attributive(clauses, part, k)]
    if not anatomy and not any(k > i and clauses.tokens[k].phrase.targets is not None for k in clauses.members[part]):
        part = _part_with_anatomy(clauses, part)
        anatomy = _anatomy(clauses, part, i)
        if not anatomy and part + 1 < len(clauses.members) and _anatomy_alone(clauses, part + 1):
            anatomy = _anatomy(clauses, part + 1, i)
    if not anatomy:
        return []
    out = list(anatomy)
    step = -1 if anatomy[0] < i else 1
    if step < 0 and not _predicative(clauses, part, anatomy[0], i):
        return out
    for n in range(1, LINKED_PARTS + 1):
        p = part + step * n
        if not 0 <= p < len(clauses.members) or clauses.clause[p] != clauses.clause[part] or not _anatomy_alone(clauses, p):
            break
        out += _anatomy(clauses, p, i)
    return out


def _attributive(clauses: Clauses, part: int, k: int) -> bool:
    """Say whether anatomy k only describes a finding that follows it ("right hilar mass"), with no verb between."""
    for j in clauses.members[part]:
        phrase = clauses.tokens[j].phrase
        if j > k and ("verb" in phrase.grammar or phrase.cues):
            return False
        if j > k and phrase.targets:
            return True
    return False


def _part_with_anatomy(clauses: Clauses, part: int) -> int:
    """Return the nearest part before this one that names anatomy, not across a stop other than "but" and its like."""
    for p in range(part, max(0, part - LINKED_PARTS), -1):
        groups = clauses.opened_by[p]
        if "stop" in groups and "contrast" not in groups:
            break
        if _anatomy(clauses, p - 1, -1):
            return p - 1
    return part


def _predicative(clauses: Clauses, part: int, first: int, i: int) -> bool:
    """Say whether observation i is said of the whole list before it: a verb stands between, or it speaks of normality."""
    if "normal" in clauses.tokens[i].phrase.observations or "clear" in clauses.tokens[i].phrase.observations:
        return True
    return any("verb" in clauses.tokens[k].phrase.grammar for k in clauses.members[part] if first < k < i)


def _anatomy(clauses: Clauses, part: int, i: int) -> list[int]:
    """Return the anatomical tokens of a part, the nearest to token i where there are many."""
    found = [k for k in clauses.members[part] if clauses.tokens[k].phrase.anatomy and k != i]
    if len(found) > LINKED_ANATOMY:
        found = sorted(sorted(found, key=lambda k: abs(k - i))[:LINKED_ANATOMY])
    return found


def _anatomy_alone(clauses: Clauses, part: int) -> bool:
    anatomy = False
    for i in clauses.members[part]:
        phrase = clauses.tokens[i].phrase
        if phrase.observations or phrase.targets or "verb" in phrase.grammar or "turn" in phrase.grammar:
            return False
        anatomy = anatomy or bool(phrase.anatomy)
    return anatomy


def find_mentions(text: str, matcher: Matcher, lexicon: Lexicon) -> list[Mention]:
    """Return where a text names findings, whatever it says of them; statements of normality are left out."""
    clauses = Clauses(matcher.tokens([text])[0])
    return [
        Mention(target.finding, place.start, place.end)
        for place in named_places(clauses, lexicon)
        for target in place.targets
        if target.role in (PRESENT, BORDERLINE, ABNORMAL)
    ]
