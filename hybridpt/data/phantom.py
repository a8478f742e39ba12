"""The phantom: synthetic frontal chest radiographs with reports, masks and known truth, made on the spot from a seed."""

from __future__ import annotations

import csv
import json
import multiprocessing
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hybridpt.data._phantom_case import FINDINGS, SEVERITIES, Case, Patient, draw_case, draw_patients, generator
from hybridpt.data._phantom_image import draw
from hybridpt.data._phantom_report import Statement, write_report
from hybridpt.data._phantom_sheet import write_sheet
from labelers.console import progress
from labelers.errors import InputError, UsageError
from labelers.io.files import atomic_path

__all__ = ["Phantom"]

FORMAT = 1  # grows whenever the same parameters give other bytes
CHUNK = 16  # studies that a process takes at once
GOLD = 200  # studies; a third of the training studies where that is fewer
STRUCTURES = ("lungs", "heart")
MANIFEST = (
    "image",
    "study_id",
    "patient_id",
    "dataset",
    "split",
    "view",
    "age",
    "sex",
    "report",
    *(f"mask_{s}" for s in STRUCTURES),
)
DETAILS = (
    "report_id",
    "finding",
    "present",
    "side",
    "size_thorax_widths",
    "size_mm",
    "severity",
    "stated",
    "omitted",
    "hedged",
    "overcalled",
)

Row = Sequence[object]
Work = tuple[int, Patient, int]


@dataclass(frozen=True, slots=True)
class _Study:
    """The rows that one study adds to each file."""

    split: str
    manifest: list[Row]
    report: Row
    truth: Row
    details: list[Row]
    masks: list[Row]


class Phantom:
    """Synthetic chest radiographs with known truth; no patient stands behind any picture or report.

    Two hospitals, north and south, write in different styles about four findings: Cardiomegaly, Pleural Effusion, Pneumothorax
    and Nodule. Their reports omit, hedge and overcall at known rates. Equal parameters give equal files, whatever the jobs.

    Args:
        studies: Number of studies, 1 or more; about one in eight has two images.
        size: Pixels a side of every image and mask, 32 to 1024.
        seed: Seed of everything random, 0 or more.
        jobs: Processes that draw at the same time, 1 or more.
        preview: Also write contact_sheet.png, images with the outlines of their findings.

    Raises:
        UsageError: A number is out of its range.
    """

    def __init__(self, studies: int = 1000, size: int = 128, seed: int = 0, jobs: int = 1, preview: bool = False) -> None:
        for name, value, low, high in (
            ("studies", studies, 1, 999_999),
            ("size", size, 32, 1024),
            ("seed", seed, 0, 2**63),
            ("jobs", jobs, 1, 1024),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name}: expected a whole number from {low} to {high}, got {value}; choose one in that range")
        self.studies, self.size, self.seed, self.jobs, self.preview = studies, size, seed, jobs, preview

    def write(self, root: Path) -> None:
        """Write the set into a folder, the manifest last, or reuse the one that stands there with the same parameters.

        ``manifest.csv`` has the lungs' and heart's masks; ``reports.csv`` the text a study; ``truth.csv`` what is in the
        pictures and ``gold.csv`` the part of it a labeler's channel may be estimated on; ``truth_details.csv`` side, size,
        severity and what the report made of each finding; ``truth_masks.csv`` the findings' masks.

        Raises:
            InputError: The folder holds something else, or cannot be written.
        """
        root = Path(root)
        if not self._stands(root):
            _write_json(root / "phantom.json", self._parameters())
            self._write_files(root, self._make(root))
        if self.preview and not (root / "contact_sheet.png").exists():
            write_sheet(root)
        print(f"phantom: {self.studies}/{self.studies} studies", file=sys.stderr)

    def _parameters(self) -> dict[str, int]:
        return {"format": FORMAT, "studies": self.studies, "size": self.size, "seed": self.seed}

    def _stands(self, root: Path) -> bool:
        """Tell whether the folder already holds this very set, complete."""
        complete, found = (root / "manifest.csv").exists(), _read_json(root / "phantom.json")
        if found is None and not complete:
            return False
        if found != self._parameters():
            there = "a manifest that is not the phantom's" if found is None else f"a phantom with {_words(found)}"
            raise InputError(
                f"{root}: expected an empty folder or a phantom with {_words(self._parameters())}, found {there}; "
                "choose another folder"
            )
        return complete

    def _make(self, root: Path) -> list[_Study]:
        """Draw and write all images and masks; return the studies in order."""
        for folder in ("images", "masks"):
            (root / folder).mkdir(exist_ok=True)
        work = [(index, patient, visit) for index, (patient, visit) in enumerate(draw_patients(self.studies, self.seed))]
        chunks = [work[i : i + CHUNK] for i in range(0, len(work), CHUNK)]
        make = partial(_make_chunk, root, self.size, self.seed)
        made: list[_Study] = []
        with progress("studies", self.studies) as advance:
            for studies in _parallel(make, chunks, self.jobs):
                made += studies
                advance(len(studies))
        return made

    def _write_files(self, root: Path, studies: Sequence[_Study]) -> None:
        train = [s.truth for s in studies if s.split == "train"]
        chosen = generator(self.seed, 2).permutation(len(train))[: min(GOLD, -(-len(train) // 3))]
        truth = ("report_id", *FINDINGS)
        _write_csv(root / "reports.csv", ("report_id", "text"), (s.report for s in studies))
        _write_csv(root / "truth.csv", truth, (s.truth for s in studies))
        _write_csv(root / "gold.csv", truth, (train[i] for i in sorted(chosen)))
        _write_csv(root / "truth_details.csv", DETAILS, (row for s in studies for row in s.details))
        _write_csv(root / "truth_masks.csv", ("image", "finding", "mask"), (row for s in studies for row in s.masks))
        _write_csv(root / "manifest.csv", MANIFEST, (row for s in studies for row in s.manifest))


def _parallel(make: partial[list[_Study]], chunks: Sequence[Sequence[Work]], jobs: int) -> Iterator[list[_Study]]:
    if jobs == 1:
        yield from map(make, chunks)
        return
    # A forked child of a process with threads (torch's, say) can hang; a spawned one cannot.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, chunks)


def _make_chunk(root: Path, size: int, seed: int, work: Sequence[Work]) -> list[_Study]:
    return [_make_study(draw_case(index, patient, visit, seed), root, size, seed) for index, patient, visit in work]


def _make_study(case: Case, root: Path, size: int, seed: int) -> _Study:
    """Write the pictures and masks of one study and collect its rows."""
    text, statements = write_report(case, seed)
    present = {lesion.finding for lesion in case.lesions}
    manifest: list[Row] = []
    masks: list[Row] = []
    for picture, view in enumerate(case.views):
        image, shapes = draw(case, picture, size, seed)
        stem = f"{case.study_id}_{picture}"
        paths = {name: f"masks/{stem}_{name.lower().replace(' ', '_')}.png" for name in shapes}
        _write_png(root / f"images/{stem}.png", image)
        for name, shape in shapes.items():
            _write_png(root / paths[name], shape.astype(np.uint8) * 255)
        who = case.patient
        person = (case.study_id, who.patient_id, who.dataset, who.split, view, case.age, who.sex)
        manifest.append((f"images/{stem}.png", *person, text, *(paths[s] for s in STRUCTURES)))
        masks += [(f"images/{stem}.png", finding, paths[finding]) for finding in FINDINGS if finding in present]
    return _Study(
        split=case.patient.split,
        manifest=manifest,
        report=(case.study_id, text),
        truth=(case.study_id, *(int(finding in present) for finding in FINDINGS)),
        details=[_details(case, statement) for statement in statements],
        masks=masks,
    )


def _details(case: Case, statement: Statement) -> Row:
    lesion = next((one for one in case.lesions if one.finding == statement.finding), None)
    size = case.heart if statement.finding == "Cardiomegaly" else lesion.size if lesion else None
    return (
        case.study_id,
        statement.finding,
        int(lesion is not None),
        lesion.side if lesion else "",
        "" if size is None else f"{size:.4f}",
        "" if size is None else f"{size * case.patient.thorax_mm:.1f}",
        SEVERITIES[lesion.severity] if lesion else "",
        statement.state,
        int(statement.omitted),
        int(statement.hedged),
        int(statement.overcalled),
    )


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)


def _write_csv(path: Path, header: Row, rows: Iterable[Row]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_json(path: Path, values: dict[str, int]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return what a phantom's folder says of itself, or None where nothing readable stands."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _words(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
