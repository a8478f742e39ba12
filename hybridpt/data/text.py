"""The part of a report that describes the image."""

from __future__ import annotations

from labelers.sections import SILENT, split_sections

__all__ = ["contrastive_text"]


def contrastive_text(report: str) -> str:
    """Return findings and impression of a report without headers, history and comparison; "" for a report that has neither."""
    parts = (report[s.start : s.end] for s in split_sections(report) if s.kind != SILENT)
    return " ".join(word for part in parts for word in part.split())
