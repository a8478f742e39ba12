"""Where the dependency graph of a sentence comes from: BLLIP with NegBio's own conversion, or spaCy with ours."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from labelers._negbio.universal import Edge, Token, universal
from labelers.errors import UsageError

__all__ = ["BLLIP", "Parser", "load_parser"]

Parser = Callable[[str], tuple[list[Token], list[Edge]]]
"""Turns a cleaned sentence into words and universal dependencies."""
BLLIP = Path("~/.local/share/bllipparser/GENIA+PubMed")
"""Where NegBio looks for BLLIP's biomedical model."""
_PREFERRED = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")


def load_parser(model: str = "") -> Parser:
    """Load a parser.

    Args:
        model: Folder of a BLLIP model, or name or folder of an English spaCy pipeline; by default BLLIP's model where it is on disk
            (at ``BLLIP``) and ``bllipparser`` is installed, else the largest of spaCy's installed English pipelines.

    Raises:
        UsageError: There is none, or it cannot be loaded.
    """
    folder = Path(model).expanduser() if model else BLLIP.expanduser()
    bllip = (folder / "parser").is_dir() and not (folder / "config.cfg").exists()  # a spaCy pipeline may have both
    if bllip and (model or importlib.util.find_spec("bllipparser")):
        return _bllip(folder)
    return _spacy(model or _installed())


def _installed() -> str:
    names = sorted(p.name for p in importlib.metadata.entry_points(group="spacy_models") if p.name.startswith("en_"))
    names = [name for name in _PREFERRED if name in names] + [name for name in names if name not in _PREFERRED]
    if not names:
        raise UsageError(
            f"the labeler 'negbio' needs a parser: expected an English spaCy pipeline or BLLIP's model in {BLLIP}, found neither; "
            "run pip install spacy && python -m spacy download en_core_web_sm, or give one with --set model=NAME"
        )
    return names[0]


def _spacy(name: str) -> Parser:
    if importlib.util.find_spec("spacy") is None:
        raise UsageError("the labeler 'negbio' needs spacy, which is not installed; run pip install spacy")
    try:
        pipeline = import_module("spacy").load(name, exclude=["ner", "senter"])
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(
            f"--set model={name}: cannot be loaded as a spaCy pipeline ({type(error).__name__}); "
            f"run python -m spacy download en_core_web_sm, or name an installed one"
        ) from None
    lacking = [pipe for pipe in ("tagger", "parser", "lemmatizer") if not pipeline.has_pipe(pipe)]
    if lacking or "dobj" not in pipeline.get_pipe("parser").labels:
        raise UsageError(
            f"--set model={name}: expected an English pipeline with tagger, parser (in ClearNLP's labels) and lemmatizer; "
            "name one such as en_core_web_sm"
        )

    def parse(text: str) -> tuple[list[Token], list[Edge]]:
        # One sentence at a time: sums over a batch round differently, and a report's labels must not depend on its batch.
        words = pipeline(text)
        return universal([Token(w.idx, w.idx + len(w), w.text, w.lemma_ or w.text, w.tag_, w.dep_, w.head.i) for w in words])

    return parse


def _bllip(folder: Path) -> Parser:
    """Start BLLIP and Stanford's converter as NegBio does; without JPype, trees go to Java in temporary files that are removed."""
    try:
        ptb2ud = import_module("negbio.pipeline.ptb2ud")
        lemmatizer = ptb2ud.Lemmatizer()
        converter = ptb2ud.NegBioPtb2DepConverter(lemmatizer, universal=True)
        parser = import_module("negbio.pipeline.parse").NegBioParser(model_dir=str(folder))
    except Exception as error:  # three packages, nltk's data, a Java machine and a jar: any of them may be missing or broken
        raise UsageError(
            f"{folder}: BLLIP cannot be started ({type(error).__name__}); it needs Java and pip install bllipparser "
            "pystanforddependencies nltk && python -m nltk.downloader universal_tagset wordnet; or use spaCy: --set model=en_core_web_sm"
        ) from None

    def lemma(node: Any) -> str:
        known = getattr(node, "lemma", None)
        return str(known or lemmatizer.lemmatize(word=node.form, pos=lemmatizer.map_tag(node.pos))).lower()

    def parse(text: str) -> tuple[list[Token], list[Edge]]:
        tree = parser.parse(text)
        if tree is None:
            raise ValueError("no parse")
        words: dict[int, Token] = {}
        edges = []
        end = 0
        for node in converter.convert(str(tree)):  # a word stands once for each of its governors
            if node.index not in words:
                form = node.form if text.find(node.form, end) >= 0 else ptb2ud.adapt_value(node.form)
                start = text.index(form, end)
                end = start + len(form)
                words[node.index] = Token(start, end, form, lemma(node), node.pos, node.deprel, len(words))
            if node.head:
                edges.append((node.head, node.index, node.deprel))
        place = {index: k for k, index in enumerate(words)}
        return list(words.values()), [Edge(place[head], place[index], label) for head, index, label in edges]

    return parse
