"""Files in and out: reports, label tables, gold."""

from labelers.io.files import atomic_path
from labelers.io.reading import Gold, read_gold, read_table
from labelers.io.reports import read_reports
from labelers.io.writing import CHEXPERT, chexpert_states, open_table, write_table

__all__ = [
    "CHEXPERT",
    "Gold",
    "atomic_path",
    "chexpert_states",
    "open_table",
    "read_gold",
    "read_reports",
    "read_table",
    "write_table",
]
