"""The installed NegBio: its phrases, its patterns, and what they say of a sentence."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from labelers._negbio.universal import Edge, Token
from labelers.errors import UsageError, unknown_name
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN

__all__ = ["INSTALL", "PATTERNS", "Named", "Rules", "Verdict"]

INSTALL = (
    "pip install nltk setuptools wheel bioc networkx ply tqdm spacy && "
    "pip install --no-deps --no-build-isolation git+https://github.com/ncbi-nlp/NegBio && python -m spacy download en_core_web_sm"
)
"""How to install NegBio today: its requirements are pinned to versions of 2018, and its set-up fetches nltk's data."""
PATTERNS = {
    "chexpert": ("chexpert/patterns", "pre_negation_uncertainty.txt", "negation.txt", "post_negation_uncertainty.txt"),
    "negbio": ("patterns", "neg_patterns.txt", "uncertainty_patterns.txt"),
}
"""NegBio's sets of patterns: folder in its package, and the files in the order in which its detector takes them."""


class Named(NamedTuple):
    """A place where a sentence names an observation, [start, end) in its characters."""

    observation: str
    start: int
    end: int


class Verdict(NamedTuple):
    """What is said of a named observation: a state's code and the pattern that says so, "mention" where none does."""

    state: int
    cue: str


class Rules:
    """NegBio's phrases and one of its sets of patterns."""

    def __init__(self, patterns: str = "chexpert") -> None:
        """Compile them.

        Args:
            patterns: ``"chexpert"``, the rules of the CheXpert labeler that NegBio's guide recommends, or ``"negbio"``, its first.

        Raises:
            UsageError: There is no such set, or the installed package lacks its files.
        """
        if patterns not in PATTERNS:
            raise unknown_name("set of patterns", patterns, PATTERNS)
        package = _package()
        folder, *files = PATTERNS[patterns]
        paths = [package / folder / file for file in files]
        phrases = [package / "chexpert" / "phrases" / kind for kind in ("mention", "unmention")]
        lost = [path for path in (*paths, *phrases) if not path.exists()]
        if lost:
            raise UsageError(f"{lost[0]}: missing from the installed NegBio; install it again: {INSTALL}")
        with contextlib.redirect_stderr(io.StringIO()):  # ply tells of the tables that it makes
            self._neg = import_module("negbio.neg.neg_detector")
            classify = import_module("negbio.chexpert.stages.classify")
            detector = classify.ModifiedDetector if patterns == "chexpert" else self._neg.Detector
            self._detector = detector(*map(str, paths))
        self._propagate = import_module("negbio.neg.propagator").propagate
        self._extractor = import_module("negbio.chexpert.stages.extract").Extractor(*phrases)
        groups = ["preneg_uncertain_patterns"] if patterns == "chexpert" else []
        for group, path in zip([*groups, "neg_patterns", "uncertain_patterns"], paths, strict=True):
            compiled = getattr(self._detector, group)
            setattr(self._detector, group, [_Pattern(p, cue) for p, cue in zip(compiled, _cues(path), strict=True)])
        self._before = getattr(self._detector, "match_prenegation_uncertainty", None)

    def named(self, text: str) -> list[Named]:
        """Find the observations that a cleaned sentence names: NegBio's phrases, save where one of its exceptions overlaps."""
        sentence = _Sentence(text)
        found = [
            Named(observation, match.start(), match.end())
            for observation, phrases in self._extractor.observation2mention_phrases.items()
            for phrase in phrases
            for match in re.finditer(phrase, text)
            if match.end() > match.start()
            and not self._extractor.overlaps_with_unmention(sentence, observation, match.start(), match.end())
        ]
        return sorted(set(found))

    def judge(self, words: Sequence[Token], edges: Sequence[Edge], named: Sequence[Named]) -> list[Verdict]:
        """Tell what a parsed sentence says of each named observation.

        A mark counts for every place inside the one that it was found at, and negation over uncertainty, as in NegBio.
        """
        graph = _graph(words, edges)
        self._propagate(graph)
        marks = {(one.start, one.end): list(self._marks(graph, one.start, one.end)) for one in named}
        verdicts = []
        for one in named:
            found = [m for (start, end), here in marks.items() if start <= one.start and one.end <= end for m in here]
            verdicts.append(
                next((v for state in (NEGATIVE, UNCERTAIN) for v in found if v.state == state), Verdict(POSITIVE, "mention"))
            )
        return verdicts

    def _marks(self, graph: Any, start: int, end: int) -> Iterator[Verdict]:
        """Ask NegBio's detector about each word of a place, in its own order of rules."""
        for node in self._neg.find_nodes(graph, start, end):
            before = self._before(graph, node) if self._before else None
            negation = None if before else self._detector.match_neg(graph, node)
            after = None if before or (negation and self._before) else self._detector.match_uncertainty(graph, node)
            for state, match in ((UNCERTAIN, before), (NEGATIVE, negation), (UNCERTAIN, after)):
                if match is not None:
                    yield Verdict(state, getattr(match.pattern, "cue", "uncertainty:suggestive"))


class _Sentence(NamedTuple):
    """As much of a BioC sentence as NegBio's search for exceptions looks at."""

    text: str


def _package() -> Path:
    spec = importlib.util.find_spec("negbio")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the labeler 'negbio' needs NegBio, which is not installed; {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def _cues(path: Path) -> list[str]:
    """Name the patterns of a file by its name and their lines."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return [f"{path.stem}:{number}" for number, line in lines if line.strip() and not line.strip().startswith("#")]


@cache
def _graphs() -> Any:
    """Give today's graphs of networkx with the name for their nodes that NegBio uses."""
    return type("Graph", (import_module("networkx").DiGraph,), {"node": property(lambda graph: graph.nodes)})


def _graph(words: Sequence[Token], edges: Sequence[Edge]) -> Any:
    graph = _graphs()()
    for i, word in enumerate(words):
        graph.add_node(f"T{i}", tag=word.tag, text=word.text, lemma=word.lemma.lower(), start=word.start, end=word.end)
    for edge in edges:
        graph.add_edge(f"T{edge.governor}", f"T{edge.dependant}", dependency=edge.label)
    return graph


class _Pattern:
    """One of NegBio's compiled patterns: the same matches as its own ``finditer`` gives, searched along the edges of a graph.

    NegBio tries every pair of words with every edge, for each word that it is asked about; this goes through the edges once a
    graph, which is some thirty times as fast.
    """

    def __init__(self, compiled: Any, cue: str) -> None:
        self.compiled, self.cue = compiled, cue
        self._graph: Any = None
        self._found: list[Any] = []

    def finditer(self, graph: Any) -> list[Any]:
        """Return the matches in a graph, as NegBio's ``MatcherObj``."""
        if self._graph is not graph:
            match = import_module("negbio.ngrex.pattern").MatcherObj
            self._graph, self._found = graph, [match(self, graph, nodes) for nodes in _search(self.compiled, graph)]
        return self._found


_Nodes = list[tuple[str | None, str]]


def _search(pattern: Any, graph: Any) -> list[_Nodes]:
    if hasattr(pattern, "_governor"):
        above, below = _by_first(_search(pattern._governor, graph)), _by_first(_search(pattern._dependant, graph))
        return [
            d + g if pattern._direction == "<" else g + d
            for governor, dependant, edge in graph.edges(data=True)
            if governor in above and dependant in below and _holds(pattern._edge_attributes, edge)
            for g, d in itertools.product(above[governor], below[dependant])
        ]
    if hasattr(pattern, "_pattern1"):
        one, two = _search(pattern._pattern1, graph), _search(pattern._pattern2, graph)
        if not pattern._is_conj:
            return one + two
        both = _by_first(two)
        return [a + (b[1:] if len(b) > 2 else []) for a in one for b in both.get(a[0][1], [])]
    return [[(pattern._name, node)] for node, data in graph.nodes(data=True) if _holds(pattern._attributes, data)]


def _by_first(matches: list[_Nodes]) -> dict[str, list[_Nodes]]:
    groups: dict[str, list[_Nodes]] = {}
    for nodes in matches:
        groups.setdefault(nodes[0][1], []).append(nodes)
    return groups


def _holds(attributes: Any, data: Any) -> bool:
    return all(key in data and value.match(data[key]) for key, value in attributes.items())
