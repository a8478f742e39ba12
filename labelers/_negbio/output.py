"""NegBio's BioC files: documents with the observations that it annotated and marked.

BioC: Comeau et al., BioC: a minimalist approach to interoperability for biomedical text processing, Database 2013, bat064.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

from labelers._negbio.scheme import Place, Scheme
from labelers.errors import InputError
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN

__all__ = ["SEPARATOR", "Document", "documents"]

SEPARATOR = "\x1e"
"""Stands between a document's text and what was found in it; XML has no such character."""
_STATED = "CheXpert/"
_STATES = {"Positive": POSITIVE, "Negative": NEGATIVE, "Uncertain": UNCERTAIN}
_PROLOG = 1 << 16
_GAP = 10_000
"""Most characters that may be missing between two passages; a larger gap is not filled."""


class Document(NamedTuple):
    """One document.

    Attributes:
        report_id: Its id.
        text: Its passages, where they stand in it.
        places: What was annotated, in code points of ``text``.
        stated: The labels of the whole document, where NegBio's last step wrote them, as state codes.
    """

    report_id: str
    text: str
    places: list[Place]
    stated: dict[str, int]


def documents(path: Path, scheme: Scheme) -> Iterator[Document]:
    """Yield the documents of a BioC file, or of the .xml files of a folder in the order of their names.

    Args:
        path: The file or folder.
        scheme: The observations that may be annotated.

    Raises:
        InputError: A file is missing or broken, or annotated with other concepts; the message names file and document by number.
    """
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path}: expected a BioC file (.xml) of NegBio's, or a folder of them, found none; check the path")
    for file in files:
        with file.open("rb") as opened:
            _check_prolog(opened, file)
            yield from _documents(opened, file, scheme)


def _check_prolog(opened: BinaryIO, file: Path) -> None:
    """Refuse what can declare entities, which unpack to any size."""
    start = opened.read(_PROLOG).replace(b"\0", b"")  # UTF-16 has a NUL beside each letter
    opened.seek(0)
    root = start.find(b"<collection")
    if root < 0:
        raise InputError(f"{file}: expected a BioC <collection>, found none at its start; give NegBio's output (.xml)")
    if b"<!ENTITY" in start[:root]:
        raise InputError(f"{file}: declares entities (<!ENTITY ...>), which NegBio's output has not; remove them")


def _documents(opened: BinaryIO, file: Path, scheme: Scheme) -> Iterator[Document]:
    number = 0
    try:
        for _, element in ElementTree.iterparse(opened):
            if element.tag == "document":
                number += 1
                yield _document(element, f"{file}, document {number}", scheme)
                element.clear()
    except ElementTree.ParseError as error:
        raise InputError(f"{file}: not well-formed XML (line {error.position[0]}); run NegBio on it again") from None
    except LookupError:
        raise InputError(f"{file}: expected XML in UTF-8, it declares an encoding that cannot be read; convert it") from None


def _document(element: ElementTree.Element, where: str, scheme: Scheme) -> Document:
    text = ""
    places: list[Place] = []
    for passage in element.iterfind("passage"):
        offset = _number(passage.findtext("offset"), where)
        body = _text(passage, offset, where)
        gap = offset - len(text)
        text += " " * gap if 0 <= gap <= _GAP else "\n"
        found = [_place(annotation, offset, len(body), where, scheme) for annotation in passage.iterfind("annotation")]
        places += [place._replace(start=place.start + len(text), end=place.end + len(text)) for place in found]
        text += body
    stated = {
        key.removeprefix(_STATED): _STATES[value]
        for key, value in _infons(element).items()
        if key.startswith(_STATED) and key.removeprefix(_STATED) in scheme and value in _STATES
    }
    return Document((element.findtext("id") or "").strip(), text, places, stated)


def _text(passage: ElementTree.Element, offset: int, where: str) -> str:
    """Return the text of a passage, or of its sentences where it has none of its own."""
    body = passage.findtext("text") or ""
    for sentence in passage.iterfind("sentence") if not body else ():
        gap = _number(sentence.findtext("offset"), where) - offset - len(body)
        body += (" " * gap if 0 <= gap <= _GAP else "\n") + (sentence.findtext("text") or "")
    return body


def _infons(element: ElementTree.Element) -> dict[str, str]:
    return {infon.get("key", ""): (infon.text or "").strip() for infon in element.iterfind("infon")}


def _place(annotation: ElementTree.Element, offset: int, length: int, where: str, scheme: Scheme) -> Place:
    infons = _infons(annotation)
    observation = infons.get("observation", "")
    if observation not in scheme:
        raise InputError(
            f"{where}: expected annotations with the infon 'observation', one of the CheXpert labeler's, found one without; "
            "let NegBio find them with its step dner_chexpert"
        )
    spans = [
        (_number(location.get("offset"), where) - offset, _number(location.get("length"), where))
        for location in annotation.iterfind("location")
    ]
    start, end = min((s for s, _ in spans), default=-1), max((s + n for s, n in spans), default=-1)
    if not 0 <= start < end <= length:
        raise InputError(
            f"{where}: expected annotations inside the text of their passage, found one outside; run NegBio on it again"
        )
    state = NEGATIVE if infons.get("negation") == "True" else UNCERTAIN if infons.get("uncertainty") == "True" else POSITIVE
    return Place(observation, start, end, state, "annotation")


def _number(text: str | None, where: str) -> int:
    if text is None or not text.strip().isdecimal() or len(text) > 12:
        raise InputError(f"{where}: expected whole numbers as offsets and lengths, found something else; run NegBio on it again")
    return int(text)
