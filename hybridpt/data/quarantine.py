"""Images that cannot be read: left out, counted, named in a file, and too many of them an error."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError
from labelers.io import atomic_path

__all__ = ["Quarantine"]

SHARE = 0.01
"""More unreadable images of a split than this share of it stop the run; one is always borne, unless it is the only one."""


class Quarantine:
    """The images of a run that could not be read.

    Args:
        path: The CSV that names them: image, split, reason.
        image: Paths, (N,).
        split: Their splits, (N,).
        strict: Stop at the first one.
    """

    def __init__(self, path: Path, image: NDArray[np.object_], split: NDArray[np.object_], strict: bool = False) -> None:
        self.path = path
        self.image = image
        self.split = split
        self.strict = strict
        self.reasons: dict[int, str] = {}

    def add(self, failed: Iterable[tuple[int, str]]) -> None:
        """Note rows with the reason; each counts once, however often it is met.

        Raises:
            InputError: ``strict`` is set, or they have become too many; the file is written before.
        """
        new = {row: reason for row, reason in failed if row not in self.reasons}
        if not new:
            return
        self.reasons.update(new)
        self._write()
        for split in sorted({self.split[row] for row in new}):
            count, total = self._counts()[split], int((self.split == split).sum())
            limit = "strict is set" if self.strict else f"more than {SHARE:.0%}"
            if self.strict or count > max(1, SHARE * total) or count == total:
                often = Counter(reason for row, reason in self.reasons.items() if self.split[row] == split).most_common(1)[0][0]
                raise InputError(
                    f"{count:,} of {total:,} images of the split '{split}' cannot be read ({limit}; most often: {often}); "
                    f"{self.path} names them with the reason, mend or remove them"
                )

    def _counts(self) -> Counter[str]:
        return Counter(str(self.split[row]) for row in self.reasons)

    def _write(self) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "split", "reason"])
            writer.writerows([self.image[row], self.split[row], reason] for row, reason in sorted(self.reasons.items()))

    def __str__(self) -> str:
        shares = ", ".join(f"{split} {count:,}" for split, count in sorted(self._counts().items()))
        return f"{len(self.reasons):,} images cannot be read and were left out ({shares}); {self.path} names them with the reason"
