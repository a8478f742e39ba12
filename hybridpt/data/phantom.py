"""The phantom: synthetic chest radiographs with reports, labels, masks and known truth, made on the spot from a seed."""

from __future__ import annotations

import csv
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from hybridpt.data._phantom.cases import FINDINGS, HOSPITALS, SEVERITIES, UNITS, Case, Patient, draw_case, draw_patients
from hybridpt.data._phantom.coders import code, write_labels
from hybridpt.data._phantom.draws import Draws
from hybridpt.data._phantom.picture import draw
from hybridpt.data._phantom.reports import Statement, write_report
from hybridpt.data._phantom.sheet import write_sheet
from labelers.console import progress
from labelers.errors import InputError, UsageError
from labelers.io.files import atomic_path, remove_leftovers
from labelers.io.locks import lock
from labelers.run import worker_pool

__all__ = ["Phantom"]

FORMAT = 2  # grows whenever the same parameters give other files
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
    "day",
    "report",
    *(f"mask_{s}" for s in STRUCTURES),
)
DETAILS = (
    "report_id",
    "finding",
    "present",
    "severity",
    "side",
    "zone",
    "size",
    "unit",
    "kind",
    "count",
    "change",
    "stated",
    "omitted",
    "hedged",
    "overcalled",
    "resolved",
    "coded",
)

Row = Sequence[object]
Work = tuple[int, Patient, int]


@dataclass(frozen=True, slots=True)
class _Study:
    """The rows that one study adds to each file."""

    case: Case
    text: str
    coded: dict[str, str] | None
    manifest: list[Row]
    details: list[Row]
    masks: list[Row]

    @property
    def truth(self) -> Row:
        present = {lesion.finding for lesion in self.case.lesions}
        return (self.case.study_id, *(int(finding in present) for finding in FINDINGS))


class Phantom:
    """Synthetic chest radiographs with known truth; no patient stands behind any picture or report.

    Rays are followed through a drawn body, from the front (PA, AP) and from the side. Sixteen findings come in several sizes, sides
    and appearances, together as they do in patients, and change from study to study of a patient. Of four hospitals, north and
    south give reports and labels, east gives reports alone and west labels alone. Reports and labels omit, hedge and overcall at
    known rates. Equal parameters give equal truth, text and masks on every machine, and pixels within one grey level.

    Args:
        studies: Number of studies, 1 or more; about one in three has two images.
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
        """Write the set into a folder, the manifest last, or reuse or finish the one that stands there with the same parameters.

        ``manifest.csv`` has the lungs' and heart's masks; ``reports.csv`` the text of the studies that have one; ``labels.csv``
        what the hospitals' coders say; ``truth.csv`` what is in the pictures and ``gold.csv`` the part of it a channel may be
        estimated on; ``truth_details.csv`` side, size, severity and what reports and coders made of each finding;
        ``truth_masks.csv`` the findings' masks. Training needs none of the files whose names begin with truth.

        Raises:
            InputError: The folder holds something else, or cannot be written.
        """
        root = Path(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with lock(root / ".lock", f"{root}: another run is writing there; wait for it, or choose another folder"):
                self._write(root)
        except OSError as error:
            # Drawing stops at a full disk, say; what stands is kept.
            raise InputError(
                f"{root}: expected a folder that can be written to, got: {error.strerror or type(error).__name__}; "
                "make room or choose another folder, and run the same command again to go on"
            ) from None
        print(f"phantom: {self.studies}/{self.studies} studies", file=sys.stderr)

    def _write(self, root: Path) -> None:
        if not self._stands(root):
            _write_json(root / "phantom.json", self._parameters())
            self._write_files(root, self._make(root))
        (root / ".drawn").unlink(missing_ok=True)
        remove_leftovers(root)
        if self.preview and not (root / "contact_sheet.png").exists():
            write_sheet(root)

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
        """Draw and write all images and masks that do not stand there yet; return the studies in order."""
        for folder in ("images", "masks"):
            (root / folder).mkdir(exist_ok=True)
        work = [(index, patient, visit) for index, (patient, visit) in enumerate(draw_patients(self.studies, self.seed))]
        chunks = [work[i : i + CHUNK] for i in range(0, len(work), CHUNK)]
        drawn = _read_drawn(root / ".drawn")
        make = partial(_make_chunk, root, self.size, self.seed)
        made: list[_Study] = []
        with progress("studies", self.studies) as advance, (root / ".drawn").open("a", encoding="ascii") as log:
            for number, studies in enumerate(
                _parallel(make, [(number not in drawn, c) for number, c in enumerate(chunks)], self.jobs)
            ):
                made += studies
                if number not in drawn:
                    log.write(f"{number}\n")
                    log.flush()
                advance(len(studies))
        return made

    def _write_files(self, root: Path, studies: Sequence[_Study]) -> None:
        train = [s.truth for s in studies if s.case.patient.split == "train"]
        chosen = Draws(self.seed, 13).shuffled(range(len(train)))[: min(GOLD, -(-len(train) // 3))]
        truth = ("report_id", *FINDINGS)
        texts = ((s.case.study_id, s.text) for s in studies if HOSPITALS[s.case.patient.dataset].text)
        _write_csv(root / "reports.csv", ("report_id", "text"), texts)
        write_labels(root / "labels.csv", [(s.case.study_id, s.coded) for s in studies if s.coded is not None])
        _write_csv(root / "truth.csv", truth, (s.truth for s in studies))
        _write_csv(root / "gold.csv", truth, (train[i] for i in sorted(chosen)))
        _write_csv(root / "truth_details.csv", DETAILS, (row for s in studies for row in s.details))
        _write_csv(root / "truth_masks.csv", ("image", "finding", "mask"), (row for s in studies for row in s.masks))
        _write_csv(root / "manifest.csv", MANIFEST, (row for s in studies for row in s.manifest))


Chunk = tuple[bool, Sequence[Work]]


def _parallel(make: partial[list[_Study]], chunks: Sequence[Chunk], jobs: int) -> Iterator[list[_Study]]:
    if jobs == 1:
        with threadpool_limits(1):  # the matrices are so small that threads only wait for each other
            yield from map(make, chunks)
        return
    with worker_pool(jobs, writes=True) as pool:
        yield from pool.map(make, chunks)


def _make_chunk(root: Path, size: int, seed: int, chunk: Chunk) -> list[_Study]:
    to_draw, work = chunk
    return [_make_study(draw_case(index, patient, visit, seed), root, size, seed, to_draw) for index, patient, visit in work]


def _make_study(case: Case, root: Path, size: int, seed: int, to_draw: bool) -> _Study:
    """Collect the rows of one study, and write its pictures and masks if they are still to be drawn."""
    text, statements = write_report(case, seed)
    coded = code(case, seed, statements)
    who, present = case.patient, [lesion.finding for lesion in case.lesions]
    manifest: list[Row] = []
    masks: list[Row] = []
    for picture, view in enumerate(case.views):
        stem = f"{case.study_id}_{picture}"
        paths = {name: f"masks/{stem}_{_file(name)}.png" for name in (*STRUCTURES, *present)}
        if to_draw:
            image, shapes = draw(case, picture, size, seed)
            _write_png(root / f"images/{stem}.png", image)
            for name, path in paths.items():
                _write_png(root / path, shapes[name].astype(np.uint8) * 255)
        person = (case.study_id, who.patient_id, who.dataset, who.split, view, case.age, who.sex, case.day)
        manifest.append((f"images/{stem}.png", *person, text, *(paths[s] for s in STRUCTURES)))
        masks += [(f"images/{stem}.png", finding, paths[finding]) for finding in present]
    said = {s.finding: s for s in statements}
    details = [_details(case, finding, said.get(finding), (coded or {}).get(finding, "")) for finding in FINDINGS]
    return _Study(case, text, coded, manifest, details, masks)


def _file(name: str) -> str:
    return name.lower().replace(" ", "_").replace("/", "_")


def _details(case: Case, finding: str, statement: Statement | None, coded: str) -> Row:
    lesion = case.find(finding)
    shape: Row = ("", "", "", "", "", "", "", "")
    if lesion is not None:
        zone = lesion.zone if lesion.side else ""
        size = (f"{lesion.size:.3f}", UNITS[finding])
        shape = (SEVERITIES[lesion.severity], lesion.side, zone, *size, lesion.kind, lesion.count, lesion.change)
    said: Row = ("", "", "", "", "")
    if statement is not None:
        marks = (statement.omitted, statement.hedged, statement.overcalled, statement.resolved)
        said = (statement.state, *map(int, marks))
    return (case.study_id, finding, int(lesion is not None), *shape, *said, coded)


def _read_drawn(path: Path) -> set[int]:
    """Return the chunks that an interrupted run has drawn; a torn last line does not count."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")[:-1]
        return {int(line) for line in lines}
    except (OSError, ValueError):
        return set()


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    # Written in place: what an interruption leaves torn is drawn again, since its chunk is not noted as drawn.
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)


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
