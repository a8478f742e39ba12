"""Phrases of many sentences -> parts and clauses, and the places that say something of findings.

Everything here works on arrays over all tokens of a batch of sentences at once: a sentence costs a few microseconds that way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelers.mentions import GROUPS, Kinds, Lists, Matcher, Tokens
from labelers.types import Mention
from labelers.vocabulary import ABNORMAL, BORDERLINE, PRESENT, Lexicon, Target

__all__ = ["Clauses", "Parts", "Patterns", "Places", "find_mentions", "named_places"]

LINKED_ANATOMY = 4
"""An observation is linked to this many anatomical phrases on either side at most, the nearest ones."""
LINKED_PARTS = 6
"""A list of anatomical phrases that share one observation is followed over this many parts at most."""

_OPENS = GROUPS["stop"] | GROUPS["separator"] | GROUPS["turn"] | GROUPS["cause"] | GROUPS["joiner"]
_FAR = np.iinfo(np.int64).max

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Parts(NamedTuple):
    """Stretches of sentences between separators (commas, "and", "or", ...), as arrays over all of them.

    Attributes:
        sentence: Number of the sentence.
        first: The first token.
        opened_by: Groups of the grammar of the separators that opened it, as bits; 0 where none did.
        groups: Groups of the grammar among its other tokens.
        clause: Number of its clause; other sentences have other numbers.
        listed: A list with "or" runs on behind it.
        named: A token of it names findings.
        observed, cued: One is an observation, a cue.
        last_term: The last token of it that names findings or keeps others from it, -1 where none.
        anatomy_first, anatomy_end: Its words of anatomy, as a stretch of ``Clauses.anatomy``.
        anatomy_alone: It names anatomy of which nothing is said.
    """

    sentence: Ints
    first: Ints
    opened_by: Ints
    groups: Ints
    clause: Ints
    listed: Flags
    named: Flags
    observed: Flags
    cued: Flags
    last_term: Ints
    anatomy_first: Ints
    anatomy_end: Ints
    anatomy_alone: Flags

    def beside(self, parts: Ints, step: int) -> tuple[Ints, Flags]:
        """Return the parts that lie some steps away, and whether they are of the same sentence."""
        other = np.clip(parts + step, 0, len(self.sentence) - 1)
        return other, (parts + step == other) & (self.sentence[other] == self.sentence[parts])


class Clauses:
    """The tokens of a batch of sentences, cut into parts and clauses (runs of parts).

    Attributes:
        tokens: The tokens, N of them.
        kinds: What their phrases mean.
        groups: Groups of the grammar of each token, as bits, (N,).
        member: The token is no separator, (N,).
        part_of: Number of the part of each token, (N,).
        anatomy: The tokens that are words of anatomy and no separators, in order.
        parts: The parts.
    """

    def __init__(self, tokens: Tokens, kinds: Kinds) -> None:
        """Cut the sentences at their separators, then join parts into clauses."""
        self.tokens = tokens
        self.kinds = kinds
        phrase = tokens.phrase
        self.groups = kinds.groups[phrase]
        separates = (self.groups & _OPENS) != 0
        self.member = ~separates
        begins = np.ones(len(phrase), bool)
        begins[1:] = (tokens.sentence[1:] != tokens.sentence[:-1]) | (separates[1:] & ~separates[:-1])
        self.part_of = np.cumsum(begins) - 1
        self.anatomy = np.flatnonzero(kinds.anatomy[phrase] & self.member)
        self._verbs = _before(self.groups & GROUPS["verb"] != 0)
        self._named = _before(kinds.names[phrase])
        self.parts = self._cut(np.flatnonzero(begins))
        self._describes = self._follows_in_part()

    def _cut(self, first: Ints) -> Parts:
        phrase, member, kinds = self.tokens.phrase, self.member, self.kinds
        place = np.arange(len(phrase))
        term = np.maximum.reduceat(np.where(member & kinds.term[phrase], place, -1), first) if len(first) else first
        sentence = self.tokens.sentence[first]

        def any_of(flags: Flags) -> Flags:
            return np.logical_or.reduceat(member & flags, first) if len(first) else np.zeros(0, bool)

        def bits_of(flags: Flags) -> Ints:
            return np.bitwise_or.reduceat(np.where(flags, self.groups, 0), first) if len(first) else first

        opened_by, groups = bits_of(~member), bits_of(member)
        named, observed, cued = any_of(kinds.names[phrase]), any_of(kinds.observed[phrase]), any_of(kinds.cued[phrase])
        anatomy_first = np.searchsorted(self.anatomy, first)
        anatomy_end = np.append(anatomy_first[1:], len(self.anatomy)) if len(first) else first
        has_anatomy = anatomy_end > anatomy_first
        said = named | observed | (groups & GROUPS["verb"] != 0)
        listed = self._listed(sentence, opened_by)
        # A clause begins with a sentence, behind a stop, and where a part behind a comma or "and" says something new.
        end = np.append(first[1:], len(phrase)) if len(first) else first
        first_anatomy = np.append(self.anatomy, 0)[anatomy_first]
        fresh = np.ones(len(first), bool)
        fresh[1:] = sentence[1:] != sentence[:-1]
        bound = opened_by & (GROUPS["joiner"] | GROUPS["turn"] | GROUPS["cause"]) != 0
        verb_behind = has_anatomy & (self._verbs[end] > self._verbs[first_anatomy])
        new = groups & GROUPS["opener"] != 0
        new[1:] |= verb_behind[1:] & (said | cued)[:-1]
        new |= (groups & GROUPS["affirming"] != 0) & (named | observed) & ~listed
        clause = np.cumsum(fresh | (opened_by & GROUPS["stop"] != 0) | (new & ~bound))
        alone = has_anatomy & ~said & (opened_by & GROUPS["turn"] == 0)
        return Parts(
            sentence, first, opened_by, groups, clause, listed, named, observed, cued, term, anatomy_first, anatomy_end, alone
        )

    @staticmethod
    def _listed(sentence: Ints, opened_by: Ints) -> Flags:
        """Say of each part whether the next joiner or stop behind it in its sentence is a joiner."""
        event = _next(opened_by & (GROUPS["joiner"] | GROUPS["stop"]) != 0)
        there = event < len(sentence)
        event = np.where(there, event, 0)
        if not len(sentence):
            return there
        out: Flags = there & (sentence[event] == sentence) & (opened_by[event] & GROUPS["joiner"] != 0)
        return out

    def _follows_in_part(self) -> Flags:
        """Say of each token whether a finding follows in its part with no verb or cue between ("right hilar mass")."""
        phrase = self.tokens.phrase
        names = self.kinds.names[phrase]
        ends = names | self.kinds.cued[phrase] | (self.groups & GROUPS["verb"] != 0)
        event = _next(self.member & ends)
        there = event < len(phrase)
        event = np.where(there, event, 0)
        if not len(phrase):
            return there
        out: Flags = there & (self.part_of[event] == self.part_of) & names[event]
        return out

    def verb_between(self, first: Ints, last: Ints) -> Flags:
        """Say whether a finite verb stands between two tokens."""
        return self._verbs[last] > self._verbs[first]

    def finding_between(self, first: Ints, last: Ints) -> Flags:
        """Say whether a finding is named between two tokens."""
        return self._named[last] > self._named[first + 1]

    def describes_finding(self, tokens: Ints) -> Flags:
        """Say whether a finding follows in the part with no verb or cue between."""
        return self._describes[tokens]


def _before(flags: Flags) -> Ints:
    """Count the flags before each place, (N + 1,)."""
    return np.concatenate([[0], np.cumsum(flags)])


def _next(flags: Flags) -> Ints:
    """Return the next flagged place behind each place, N where there is none."""
    place = np.where(flags, np.arange(len(flags)), len(flags))
    nearest = np.minimum.accumulate(place[::-1])[::-1]
    return np.append(nearest[1:], len(flags)) if len(flags) else nearest


@dataclass(frozen=True, eq=False)
class Patterns:
    """What an anatomical class and a class of observations say together, by their numbers in ``Kinds``.

    Attributes:
        matcher: The phrases whose classes are meant.
        patterns: As in the lexicon.
    """

    matcher: Matcher
    patterns: Mapping[tuple[str, str], tuple[Target, ...]]
    table: Lists = field(init=False)

    def __post_init__(self) -> None:
        kinds = self.matcher.kinds
        number = {target: k for k, target in enumerate(kinds.every_target)}
        anatomies, observations = kinds.classes
        rows = [[number[t] for t in self.patterns.get((a, o), ())] for a in anatomies for o in observations]
        object.__setattr__(self, "table", Lists.of(rows))

    def of(self, anatomy: Ints, observation: Ints) -> tuple[Ints, Ints]:
        """Return the targets of pairs of phrases, and for each the pair that it comes from."""
        kinds = self.matcher.kinds
        a, pair = kinds.anatomies.gather(anatomy)
        o, both = kinds.observations.gather(observation[pair])
        target, which = self.table.gather(a[both] * len(kinds.classes[1]) + o)
        return target, pair[both][which]


class Places(NamedTuple):
    """Places that say something of findings, one a place and target, in the order of their tokens.

    Attributes:
        token: The token that carries it (the observation, where a pattern matched).
        start: First code point in the sentence.
        end: One past the last.
        target: What it says, as a position in ``Kinds.every_target``.
    """

    token: Ints
    start: Ints
    end: Ints
    target: Ints


def named_places(clauses: Clauses, patterns: Patterns) -> Places:
    """Return the places of a batch of sentences that say something of findings.

    A term is one by itself; an observation is one together with the anatomy that it is about. Of several pieces of anatomy that give one
    finding the shortest place stays.
    """
    tokens, kinds = clauses.tokens, clauses.kinds
    observation, anatomy = _subjects(clauses)
    target, pair = patterns.of(tokens.phrase[anatomy], tokens.phrase[observation])
    token, other = observation[pair], anatomy[pair]
    start, end = np.minimum(tokens.start[token], tokens.start[other]), np.maximum(tokens.end[token], tokens.end[other])
    every = len(kinds.every_target)
    order = np.lexsort((start, end - start, token * every + target))
    cell = (token * every + target)[order]
    shortest = order[np.flatnonzero(np.diff(cell, prepend=-1))]
    linked = Places(token[shortest], start[shortest], end[shortest], target[shortest])
    named = np.flatnonzero(kinds.names[tokens.phrase])
    target, owner = kinds.targets.gather(tokens.phrase[named])
    token = named[owner]
    alone = ~np.isin(token * every + target, linked.token * every + linked.target)
    token, target = token[alone], target[alone]
    joined = (linked.token, token), (linked.start, tokens.start[token]), (linked.end, tokens.end[token]), (linked.target, target)
    columns = [np.concatenate(pieces) for pieces in joined]
    order = np.lexsort((columns[3], columns[2], columns[1], columns[0]))
    return Places(*(column[order] for column in columns))


def _subjects(clauses: Clauses) -> tuple[Ints, Ints]:
    """Return pairs of an observation and a word of anatomy that it is about.

    The anatomy is looked for in the observation's own part, then in the nearest part before it that names anatomy, then in the next;
    from there on over neighbouring parts that name anatomy alone ("heart, lungs and mediastinum are normal").
    """
    parts, anatomy = clauses.parts, clauses.anatomy
    seen = np.flatnonzero(clauses.kinds.observed[clauses.tokens.phrase])
    if not len(anatomy):
        return seen[:0], seen[:0]
    part = clauses.part_of[seen]
    at = np.searchsorted(anatomy, seen)
    own, has_own = _near(clauses, part, at, seen)
    word = anatomy[own]
    before = word < seen[:, None]
    column = np.broadcast_to(seen[:, None], own.shape)
    apart = clauses.describes_finding(word) | clauses.finding_between(np.minimum(column, word), word)
    plain = has_own & (before | ~apart)
    missing = ~plain.any(axis=1)
    lacking = missing & (parts.last_term[part] <= seen)
    # None in its own part, and no finding behind it there: the nearest part before, else all of its own, else the next part.
    base = part.copy()
    base[lacking] = _part_with_anatomy(parts, part[lacking])
    elsewhere, has_elsewhere = _near(clauses, base, at, seen)
    chosen = np.where(lacking[:, None], elsewhere, own)
    has = np.where(lacking[:, None], has_elsewhere, plain)
    behind, same = parts.beside(base, 1)
    forward = lacking & ~has.any(axis=1) & same & parts.anatomy_alone[behind]
    following, has_following = _near(clauses, behind, at, seen)
    chosen = np.where(forward[:, None], following, chosen)
    has = np.where(forward[:, None], has_following, has)
    pairs = [(np.broadcast_to(seen[:, None], has.shape)[has], anatomy[chosen[has]])]
    some = has.any(axis=1)
    lead = anatomy[chosen[np.arange(len(seen)), has.argmax(axis=1)]]
    step = np.where(lead < seen, -1, 1)
    follows = some & ((step > 0) | _said_of_all(clauses, lead, seen))
    for n in range(1, LINKED_PARTS + 1):
        goes = np.flatnonzero(follows)
        if not len(goes):
            break
        other = np.clip(base[goes] + step[goes] * n, 0, len(parts.first) - 1)
        fits = (other == base[goes] + step[goes] * n) & (parts.clause[other] == parts.clause[base[goes]])
        fits &= parts.anatomy_alone[other]
        follows[goes[~fits]] = False
        goes, other = goes[fits], other[fits]
        more, there = _near(clauses, other, at[goes], seen[goes])
        pairs.append((np.broadcast_to(seen[goes][:, None], there.shape)[there], anatomy[more[there]]))
    return np.concatenate([o for o, _ in pairs]), np.concatenate([a for _, a in pairs])


def _near(clauses: Clauses, part: Ints, at: Ints, seen: Ints) -> tuple[Ints, Flags]:
    """Return the words of anatomy of some parts that are next to tokens, in order.

    Args:
        clauses: The sentences.
        part: The parts, (M,).
        at: Where the tokens stand among all words of anatomy, (M,).
        seen: The tokens themselves, (M,).

    Returns:
        Positions in ``clauses.anatomy``, and whether there is one, each (M, 2 * LINKED_ANATOMY).
    """
    first, end = clauses.parts.anatomy_first[part], clauses.parts.anatomy_end[part]
    at = np.clip(at, first, end)
    found = at[:, None] + np.arange(-LINKED_ANATOMY, LINKED_ANATOMY)
    has = (found >= first[:, None]) & (found < end[:, None])
    found = np.where(has, found, 0)
    return found, has & (clauses.anatomy[found] != seen[:, None])


def _part_with_anatomy(parts: Parts, part: Ints) -> Ints:
    """Return the nearest part before each that names anatomy, not across a cause or a stop other than "but"; else itself."""
    out = part.copy()
    looking = np.arange(len(part))
    for n in range(LINKED_PARTS):
        here = part[looking] - n
        groups = parts.opened_by[here]
        closed = (groups & GROUPS["cause"] != 0) | ((groups & GROUPS["stop"] != 0) & (groups & GROUPS["contrast"] == 0))
        before, same = parts.beside(here, -1)
        looking, before = looking[same & ~closed], before[same & ~closed]
        found = parts.anatomy_end[before] > parts.anatomy_first[before]
        out[looking[found]] = before[found]
        looking = looking[~found]
    return out


def _said_of_all(clauses: Clauses, lead: Ints, seen: Ints) -> Flags:
    """Say whether observations are said of whole lists before them: a verb stands between, or they speak of normality."""
    names = clauses.kinds.classes[1]
    general = np.array([name in ("normal", "clear") for name in names], bool)
    observed, owner = clauses.kinds.observations.gather(clauses.tokens.phrase[seen])
    out = np.zeros(len(seen), bool)
    np.logical_or.at(out, owner, general[observed])
    return out | clauses.verb_between(np.minimum(lead, seen), seen)


def find_mentions(text: str, matcher: Matcher, lexicon: Lexicon) -> list[Mention]:
    """Return where a text names findings, whatever it says of them; statements of normality are left out."""
    places = named_places(Clauses(matcher.tokens([text]), matcher.kinds), Patterns(matcher, lexicon.patterns))
    found = zip(places.target.tolist(), places.start.tolist(), places.end.tolist(), strict=True)
    targets = matcher.kinds.every_target
    return [
        Mention(targets[t].finding, start, end) for t, start, end in found if targets[t].role in (PRESENT, BORDERLINE, ABNORMAL)
    ]
