"""A sentence as NegBio reads it, with the way back to the characters of the report."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Cleaned", "clean", "pieces"]

LONGEST = 1000
"""Characters of a piece that is parsed as one; what is longer is no sentence, and patterns take time that grows with its square."""
_CHANGED = re.compile(
    r"(?P<either>\band/or\b)|(?P<slash>(?<=[a-z])/(?=[a-z]))|(?P<dots>\.\.+)|(?P<space>\s+)|(?P<stop>[.,](?=[a-z]))"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Cleaned(NamedTuple):
    """A cleaned sentence.

    Attributes:
        text: The sentence in lower case.
        places: For each of its characters the position of the one in the sentence as given that it stands for.
    """

    text: str
    places: list[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where [start, end) of the cleaned text stands in the sentence as given."""
        return self.places[start], self.places[end - 1] + 1


def clean(sentence: str) -> Cleaned:
    """Rewrite a sentence as NegBio's loader for CheXpert's rules does, except inside numbers.

    Lower case; "and/or" is "or" and any other slash between letters " or "; white space is one space; a full stop or comma before a
    letter is followed by a space. What has no lower case of one character, or cannot be written as UTF-8, keeps its place.
    """
    lower = "".join(low if len(low := c.lower()) == 1 else c for c in _SURROGATE.sub("\ufffd", sentence))
    text: list[str] = []
    places: list[int] = []
    last = 0
    for match in _CHANGED.finditer(lower):
        new = {"either": "or", "slash": " or ", "dots": ".", "space": " ", "stop": match[0] + " "}[str(match.lastgroup)]
        text += [lower[last : match.start()], new]
        places += range(last, match.start())
        places += [min(match.start() + k, match.end() - 1) for k in range(len(new))]
        last = match.end()
    return Cleaned("".join([*text, lower[last:]]), [*places, *range(last, len(lower))])


def pieces(text: str) -> list[tuple[int, int]]:
    """Cut a text into spans of at most ``LONGEST`` characters, at white space where there is some."""
    found = []
    start = 0
    while len(text) - start > LONGEST:
        end = start + LONGEST
        space = max(text.rfind(" ", start, end), text.rfind("\n", start, end))
        end = space + 1 if space > start else end
        found.append((start, end))
        start = end
    return [*found, (start, len(text))]
