"""The labeler "bioc": what NegBio wrote, read back as labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from labelers._negbio.output import SEPARATOR, documents
from labelers._negbio.scheme import Place, Scheme, with_heart
from labelers.errors import UsageError
from labelers.types import LabelTable, Report, Vocabulary
from labelers.vocabulary import load_vocabulary

__all__ = ["BioC"]


class BioC:
    """NegBio's BioC output files (OUT.neg.xml): the observations that it annotated, as labels of the source "negbio".

    NegBio itself need not be installed: its pinned requirements can stay in an environment of their own.
    """

    name = "bioc"
    version = "1"

    def __init__(self, vocabulary: str = "chest") -> None:
        """Lay out the cross-walk.

        Args:
            vocabulary: Name of a shipped vocabulary or path of a vocabulary file; the findings that NegBio judges are taken from it.
        """
        self.name = "negbio"  # these labels are NegBio's, whoever ran it
        self._scheme = Scheme(load_vocabulary(vocabulary).vocabulary)
        self.vocabulary: Vocabulary = self._scheme.vocabulary

    def read(self, path: Path, id_column: str | None) -> Iterator[Report]:
        """Yield the documents of a BioC file, or of the .xml files of a folder: the document's text, then what NegBio found in it.

        Raises:
            InputError: A file is missing or broken, or annotated with other concepts than NegBio's observations.
            UsageError: A column is given.
        """
        if id_column is not None:
            raise UsageError("BioC documents have an id of their own and no columns; leave out --id-column")
        for document in documents(path, self._scheme):
            found = SEPARATOR.join(["", json.dumps([[*place] for place in document.places]), json.dumps(document.stated)])
            yield Report(document.report_id, document.text + found if document.text.strip() else "")

    def label(self, reports: Sequence[Report]) -> LabelTable:
        """Label documents as ``read`` gives them; a text without what NegBio found is one that it did not read."""
        found = [_found(report.text) for report in reports]
        ids = [report.report_id for report in reports]
        return self._scheme.table(ids, [f[0] for f in found], self.name, self.version, [f[1] for f in found])


def _found(text: str) -> tuple[list[Place] | None, dict[str, int]]:
    """Split a document's text from what was found in it."""
    parts = text.rsplit(SEPARATOR, 2)
    if len(parts) < 3:
        return None, {}
    places = [Place(*place) for place in json.loads(parts[1])]
    stated = json.loads(parts[2])
    return [p for place in places for p in with_heart(place, parts[0][place.start : place.end])], stated
