"""The manifest: one row an image, with its study, patient, data set and split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from labelers.errors import InputError
from labelers.io.reports import rows_of_csv

__all__ = ["COLUMNS", "SPLITS", "read_manifest"]

COLUMNS = ("image", "study_id", "patient_id", "dataset", "split")
SPLITS = ("train", "val", "test")


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read a manifest (CSV or Parquet) and check it.

    Returns:
        One row an image, all columns as text (missing is ""), with ``image`` made absolute.

    Raises:
        InputError: The file is missing, empty or broken; a column is missing; a cell that must hold something is empty; a split
            is unknown; an image stands twice; or a patient is in two splits. The message names rows and no identifiers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such manifest; write a CSV with the columns {', '.join(COLUMNS)}, or make one with 'hybridpt data'"
        )
    table = _read(path)
    missing = [c for c in COLUMNS if c not in table]
    if missing:
        raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}; add them")
    if table.empty:
        raise InputError(f"{path}: expected one row an image, found none; fill the manifest")
    _check_cells(table, path)
    _check_patients(table, path)
    root = path.resolve().parent
    table["image"] = [str(root / image) for image in table["image"]]
    return table


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        try:
            table = pq.read_table(path).to_pandas()
        except (pa.ArrowException, OSError):
            raise InputError(f"{path}: not a readable Parquet file; write it again") from None
        return pd.DataFrame({c: ["" if pd.isna(v) else str(v) for v in table[c]] for c in table}, dtype=object)
    rows = rows_of_csv(path)
    _, header = next(rows)
    body = [row for _, row in rows]
    return pd.DataFrame(body, columns=header, dtype=object)


def _check_cells(table: pd.DataFrame, path: Path) -> None:
    for column in COLUMNS:
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise InputError(f"{path}, row {empty[0] + 1}: the column '{column}' is empty; every image needs one")
    odd = table.index[~table["split"].isin(SPLITS)]
    if len(odd):
        raise InputError(f"{path}, row {odd[0] + 1}: expected a split of {', '.join(SPLITS)}, got another; correct the cell")
    twice = table.index[table["image"].duplicated()]
    if len(twice):
        raise InputError(f"{path}, row {twice[0] + 1}: the image of an earlier row again; remove one")


def _check_patients(table: pd.DataFrame, path: Path) -> None:
    """A patient in two splits leaks; a study in two splits does so too."""
    for columns, what in ((["patient_id"], "patient"), (["dataset", "study_id"], "study")):
        first = table.groupby(columns, sort=False)["split"].transform("first")
        leaks = table.index[table["split"] != first]
        if len(leaks):
            raise InputError(
                f"{path}, row {leaks[0] + 1}: its {what} is in the splits '{first[leaks[0]]}' and '{table['split'][leaks[0]]}' "
                f"({len(leaks)} such rows); keep every {what} in one split"
            )
