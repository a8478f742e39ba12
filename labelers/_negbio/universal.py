"""A parse in spaCy's English labels (ClearNLP) -> universal dependencies as Stanford CoreNLP 3.5 writes them.

NegBio's patterns were written against BLLIP trees that PyStanfordDependencies converts (``representation="CCprocessed",
universal=True``), so with prepositions and conjunctions in the labels (``nmod:of``, ``conj:or``) and with what holds of the first
conjunct said of the others. ClearNLP's labels: Choi and Palmer, Guidelines for the CLEAR Style Constituent to Dependency
Conversion (2012). Universal dependencies of version 1: de Marneffe et al., Universal Stanford Dependencies, LREC 2014, with Schuster and
Manning, Enhanced English Universal Dependencies, LREC 2016, for labels that hold words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Edge", "Token", "universal"]


class Token(NamedTuple):
    """A word of a parsed sentence.

    Attributes:
        start: Its first character in the sentence.
        end: One past its last.
        text: The word.
        lemma: Its base form.
        tag: Its part of speech in the Penn Treebank's tags.
        label: Its relation to its head, in ClearNLP's labels.
        head: Position of its head; its own at the root.
    """

    start: int
    end: int
    text: str
    lemma: str
    tag: str
    label: str
    head: int


class Edge(NamedTuple):
    """A dependency: positions of governor and dependant, and the label."""

    governor: int
    dependant: int
    label: str


_LABELS = {
    "acomp": "xcomp",
    "attr": "xcomp",
    "oprd": "xcomp",
    "dative": "iobj",
    "intj": "discourse",
    "meta": "dep",
    "nmod": "compound",
    "npadvmod": "nmod:npmod",
    "pcomp": "advcl",
    "pobj": "dep",
    "poss": "nmod:poss",
    "preconj": "cc:preconj",
    "predet": "det:predet",
    "prep": "advmod",
    "agent": "advmod",
    "prt": "compound:prt",
    "quantmod": "advmod",
    "relcl": "acl:relcl",
}
"""Labels that stand for themselves in both schemes are left out; those of prepositions are of ones without an object."""
_PREPOSITIONS = ("prep", "agent", "dative", "pcomp", "conj", "prt")
_PREDICATES = ("acomp", "attr", "oprd")
_SUBJECTS = ("nsubj", "nsubjpass", "csubj", "csubjpass")
_VERSUS = ("versus", "vs", "vs.")
_EXCEPT = {"but": "not", "rather": "than", "instead": "of"}
"""Pairs of words that join what is not so: Stanford's ``conj:negcc``."""


def universal(tokens: Sequence[Token]) -> tuple[list[Token], list[Edge]]:
    """Turn a parse into universal dependencies of version 1, collapsed and with conjunctions propagated.

    Args:
        tokens: The words of one sentence, or of several.

    Returns:
        The words, "cannot" in one piece as NegBio's patterns have it, and the edges; no two of them join the same two words in
        the same direction. The labels of the words are still those that came.
    """
    words = _cannot_joined(tokens)
    return words, _Conversion(words).edges()


def _cannot_joined(tokens: Sequence[Token]) -> list[Token]:
    joined = [
        a.text.lower() == "can" and b.text.lower() == "not" and a.end == b.start and a.head == b.head for a, b in pairwise(tokens)
    ]
    places: list[int] = []
    kept: list[Token] = []
    for i, token in enumerate(tokens):
        if i and joined[i - 1]:
            kept[-1] = kept[-1]._replace(end=token.end, text=kept[-1].text + token.text, lemma="cannot")
        else:
            kept.append(token)
        places.append(len(kept) - 1)
    return [token._replace(head=places[token.head]) for token in kept]


class _Conversion:
    """The steps of one conversion, each of which rewrites heads and labels."""

    def __init__(self, words: Sequence[Token]) -> None:
        self._words = words
        self._lemma = [word.lemma.lower() for word in words]
        self._head = [word.head for word in words]
        self._label = ["root" if word.head == i else word.label for i, word in enumerate(words)]
        self._extra: list[Edge] = []

    def edges(self) -> list[Edge]:
        for i in range(len(self._words)):
            self._split_preposition(i)
        for i in range(len(self._words)):
            self._lift_predicate(i)
        for i in range(len(self._words)):
            self._fold_preposition(i)
        for i in range(len(self._words)):
            self._rename(i)
        self._join_conjuncts()
        basic = [Edge(head, i, self._label[i]) for i, head in enumerate(self._head) if head != i]
        first: dict[tuple[int, int], Edge] = {}
        for edge in basic + self._extra:
            first.setdefault((edge.governor, edge.dependant), edge)
        return [edge for edge in first.values() if edge.governor != edge.dependant]

    def _children(self, i: int, *labels: str) -> list[int]:
        return [k for k, head in enumerate(self._head) if head == i and k != i and (not labels or self._label[k] in labels)]

    def _move(self, children: Sequence[int], to: int) -> None:
        for child in children:
            if child != to:
                self._head[child] = to

    def _split_preposition(self, i: int) -> None:
        """Hang the object of "due to" on the second word, so that the first one governs it; with "be" that one is a predicate."""
        second = [k for k in self._children(i, "pcomp") if self._words[k].tag in ("IN", "TO")]
        objects = self._children(i, "pobj")
        if second and objects:
            self._head[objects[0]], self._label[second[0]] = second[0], "prep"
            if self._lemma[self._head[i]] == "be" and self._label[i] == "prep":
                self._label[i] = "acomp"

    def _lift_predicate(self, verb: int) -> None:
        """Make what "be" says the head of its clause, the verb its copula; what "there" introduces is the verb's subject."""
        if self._lemma[verb] != "be" or self._label[verb] in ("aux", "auxpass"):
            return
        said = self._children(verb, *_PREDICATES)
        if self._children(verb, "expl"):
            for child in self._children(verb, "attr"):
                self._label[child] = "nsubj"
            return
        if not said and self._children(verb, *_SUBJECTS):
            places = [k for k in self._children(verb, "prep") if self._children(k, "pobj")]
            said = [self._children(k, "pobj")[0] for k in places[:1]]
            if said:
                self._take(said[0], places[0], "case")
        if said:
            self._take(said[0], verb, "cop")

    def _take(self, new: int, old: int, label: str) -> None:
        """Put one word in the place of the word above it, which becomes its dependant."""
        self._head[new] = new if self._head[old] == old else self._head[old]
        self._label[new] = self._label[old]
        self._move(self._children(old), new)
        self._head[old], self._label[old] = new, label

    def _fold_preposition(self, i: int) -> None:
        """Put a preposition into the label of its object: head -nmod:of-> object -case-> of."""
        head, label = self._head[i], self._label[i]
        objects = self._children(i, "pobj")
        if head == i and objects:
            self._take(objects[0], i, "case")
        if head == i or label not in _PREPOSITIONS:
            return
        word = self._words[i].text.lower()
        if objects:
            before = self._words[i - 1].text.lower() if i else ""
            mark = "case"
            if label == "agent":
                label = "nmod:agent"
            elif word in _VERSUS:
                label, mark = "conj:versus", "cc"
            elif _EXCEPT.get(before) == word:
                label, mark = "conj:negcc", "cc"
                head = self._head[i - 1] if head == i - 1 else head
            elif label != "conj":
                label = f"nmod:{word}"
            self._take(objects[0], i, mark)
            self._head[objects[0]], self._label[objects[0]] = head, label
        elif clause := self._children(i, "pcomp"):
            if self._words[clause[0]].tag in ("IN", "TO"):
                return  # "due to X": the first word governs the second as any other word would
            self._take(clause[0], i, "mark")
            self._label[clause[0]] = "acl" if self._words[head].tag.startswith("N") else "advcl"

    def _rename(self, i: int) -> None:
        label, lemma = self._label[i], self._lemma[i]
        if label == "det" and lemma == "no":
            self._label[i] = "neg"
        elif label == "dobj" and self._lemma[self._head[i]] == "rule":
            for out in self._children(self._head[i], "prt", "compound:prt", "advmod", "prep"):
                if self._lemma[out] == "out":  # BLLIP reads "rule out X" as a preposition with its object
                    self._head[out], self._label[out], self._label[i] = i, "case", "nmod:out"
        else:
            self._label[i] = _LABELS.get(label, label)

    def _join_conjuncts(self) -> None:
        """Hang every conjunct on the first one, under a label with the conjunction, and say of it what is said of the first."""
        chains: dict[int, list[int]] = {}
        for i, label in enumerate(self._label):
            if label == "conj":
                first = i
                seen = {i}
                while self._label[first] == "conj" and self._head[first] not in seen:
                    first = self._head[first]
                    seen.add(first)
                chains.setdefault(first, []).append(i)
        joined = sorted(chains.items(), key=lambda chain: self._depth(chain[0]))
        for first, others in joined:
            words = {k for i in (first, *others) for k in self._children(i, "cc")}
            for previous, other in zip([first, *others[:-1]], others, strict=True):
                between = [k for k in words if previous < k < other]
                after = [k for k in words if k > other]
                word = max(between) if between else min(after) if after else None
                self._head[other], self._label[other] = first, "conj" if word is None else self._conjunction(word)
            self._move([*words], first)
            for other in others:
                self._share(first, other)

    def _depth(self, i: int) -> int:
        depth = 0
        while self._head[i] != i and depth < len(self._head):
            i, depth = self._head[i], depth + 1
        return depth

    def _conjunction(self, i: int) -> str:
        word = self._words[i].text.lower()
        after = self._words[i + 1].text.lower() if i + 1 < len(self._words) else ""
        before = self._words[i - 1].text.lower() if i else ""
        if _EXCEPT.get(word) == after or _EXCEPT.get(before) == word:
            return "conj:negcc"
        return "conj:" + ("versus" if word in _VERSUS else "and" if word == "&" else word)

    def _share(self, first: int, other: int) -> None:
        """Say of another conjunct what is said of the first: what governs it, and its subject where that has none of its own."""
        above = [Edge(self._head[first], other, self._label[first])] if self._head[first] != first else []
        above += [Edge(edge.governor, other, edge.label) for edge in self._extra if edge.dependant == first]
        self._extra += above
        clause = self._words[other].tag[:1] in ("V", "J") or bool(self._children(first, "cop"))
        if clause and not self._children(other, *_SUBJECTS):
            self._extra += [Edge(other, k, self._label[k]) for k in self._children(first, *_SUBJECTS)]
