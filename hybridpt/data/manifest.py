"""The manifest: one row an image, with its study, patient, data set and split."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from labelers.errors import InputError
from labelers.io.reports import rows_of_csv

__all__ = ["COLUMNS", "MAX_AGE", "OPTIONAL", "SPLITS", "image_roots", "read_manifest"]

COLUMNS = ("image", "study_id", "patient_id", "dataset", "split")
OPTIONAL = ("view", "age", "sex", "report")
MASK = "mask_"
"""Beginning of the columns that hold paths of masks."""
SPLITS = ("train", "val", "test")
SEXES = ("M", "F", "")
MAX_AGE = 130
"""Years."""


def read_manifest(path: str | Path, image_root: str | Path | None = None) -> pd.DataFrame:
    """Read a manifest (CSV or Parquet) and check it.

    Paths of images and masks are relative to the manifest and stay inside its folder, so that a manifest from elsewhere cannot
    name other files of this machine. Images that lie elsewhere (absolute paths, ``..``, linked folders) need ``image_root``.

    Args:
        path: The manifest.
        image_root: A further folder that images may lie in.

    Returns:
        One row an image, the columns of ``COLUMNS``, ``OPTIONAL`` and ``mask_*`` that the file has, as text (missing is ""), with
        ``image`` made absolute.

    Raises:
        InputError: The file is missing, empty or broken; a column is missing; a cell that must hold something is empty, or holds
            what it cannot; an image stands twice or outside the folders; or a patient or study is in two splits. The message
            names rows and no identifiers.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such manifest"
        raise InputError(f"{path}: {found}; write a CSV with the columns {', '.join(COLUMNS)}, or make one with 'hybridpt data'")
    table = _read(path)
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}; add them")
    if table.empty:
        raise InputError(f"{path}: expected one row an image, found none; fill the manifest")
    _check_cells(table, path)
    _check_people(table, path)
    _check_patients(table, path)
    _place_images(table, path, image_root)
    return table


def _read(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix != ".csv":
        raise InputError(f"{path}: expected a manifest that ends in .csv or .parquet, got '{path.suffix}'; convert or rename it")
    rows = rows_of_csv(path)
    _, header = next(rows)
    places = [i for i, name in enumerate(header) if _known(name)]
    return pd.DataFrame([[row[i] for i in places] for _, row in rows], columns=[header[i] for i in places], dtype=object)


def _known(column: str) -> bool:
    return column in COLUMNS or column in OPTIONAL or column.startswith(MASK)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        with pq.ParquetFile(path) as file:
            names = [n for n in file.schema_arrow.names if _known(n)]
            if len(set(names)) < len(names):
                raise InputError(f"{path}: two columns have one name; rename one")
            table = file.read(columns=names)
    except PermissionError:
        raise InputError(f"{path}: cannot be read (Permission denied); check the file and its permissions") from None
    except (pa.ArrowException, OSError):
        raise InputError(f"{path}: not a readable Parquet file; write it again") from None
    return pd.DataFrame({n: _text(table.column(n), path, n) for n in names}, dtype=object)


def _text(column: pa.ChunkedArray, path: Path, name: str) -> list[str]:
    try:
        return list(column.cast(pa.string()).fill_null("").to_pylist())
    except (pa.ArrowException, UnicodeDecodeError):
        raise InputError(f"{path}: expected text or numbers in the column '{name}'; write the file again") from None


def _fail(bad: pd.Series, path: Path, message: str) -> None:
    """Raise for the first bad row, if any."""
    if bad.any():
        more = f" ({int(bad.sum()):,} such rows)" if bad.sum() > 1 else ""
        raise InputError(f"{path}, row {bad.to_numpy().argmax() + 1}: {message}{more}")


def _check_cells(table: pd.DataFrame, path: Path) -> None:
    for column in COLUMNS:
        cells = table[column].str
        _fail(cells.strip() == "", path, f"the column '{column}' is empty; every image needs one")
        _fail(cells.contains("\0", regex=False), path, f"the column '{column}' holds a NUL byte; write the manifest again")
        if column != "image":  # a file's name may begin with a space
            _fail(cells.strip() != table[column], path, f"spaces around what the column '{column}' holds; remove them")
    _fail(~table["split"].isin(SPLITS), path, f"expected a split of {', '.join(SPLITS)}, got another; correct the cell")


def _check_people(table: pd.DataFrame, path: Path) -> None:
    if "sex" in table:
        _fail(~table["sex"].isin(SEXES), path, "expected the sex M, F or nothing, got another; correct or empty the cell")
    if "age" in table:
        years = pd.to_numeric(table["age"], errors="coerce")
        bad = ~years.between(0, MAX_AGE) & (table["age"] != "")
        _fail(bad, path, f"expected an age of 0 to {MAX_AGE} years or nothing, got another; correct or empty the cell")


def _check_patients(table: pd.DataFrame, path: Path) -> None:
    """A patient in two splits leaks; a study in two splits does so too."""
    for columns, what in ((["patient_id"], "patient"), (["dataset", "study_id"], "study")):
        groups = table.groupby(columns, sort=False)
        first = groups["split"].transform("first")
        leaks = table.index[table["split"] != first]
        if len(leaks):
            row = leaks[0]
            clash = what == "patient" and table["dataset"][row] != groups["dataset"].transform("first")[row]
            raise InputError(
                f"{path}, row {row + 1}: its {what} is in the splits '{first[row]}' and '{table['split'][row]}' "
                f"({len(leaks)} such rows); keep every {what} in one split"
                + (", or give patients of two data sets that only share a number ids of their own" if clash else "")
            )


def image_roots(path: str | Path, image_root: str | Path | None = None) -> tuple[str, ...]:
    """Return the real paths of the folders that the images of a manifest may lie in.

    Args:
        path: The manifest.
        image_root: A further folder.

    Raises:
        InputError: ``image_root`` is no folder.
    """
    if image_root is not None and not Path(image_root).is_dir():
        raise InputError(f"{image_root}: expected the folder that holds the images, it is none; correct --data.image_root")
    folders = [Path(path).resolve().parent] + ([] if image_root is None else [Path(image_root).resolve()])
    return tuple(str(folder) for folder in folders)


def _place_images(table: pd.DataFrame, path: Path, image_root: str | Path | None) -> None:
    """Make the paths of images absolute; refuse those that lead out of the folders, links not followed."""
    roots = image_roots(path, image_root)
    given = () if image_root is None else (os.path.abspath(image_root),)
    inside = tuple(os.path.join(root, "") for root in (*roots, *given))
    for column in [c for c in map(str, table) if c == "image" or c.startswith(MASK)]:
        full = pd.Series([os.path.normpath(os.path.join(roots[0], cell)) for cell in table[column]], table.index, dtype=object)
        outside = pd.Series([not f.startswith(inside) for f in full], table.index) & (table[column] != "")
        _fail(
            outside,
            path,
            f"the path in the column '{column}' leads out of the manifest's folder{' and of --data.image_root' if given else ''}; "
            f"write it relative to the manifest, or name the folder that holds the images with --data.image_root",
        )
        if column == "image":
            _fail(full.duplicated(), path, "the image of an earlier row again; remove one")
            table["image"] = full
