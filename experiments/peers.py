"""What experiments share that measure other packages: environments of their own, one thread, and the phrases that all are given."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labelers.sections import SILENT, split_sections
from labelers.vocabulary import PRESENT, load_vocabulary

ROOT = Path(__file__).resolve().parent.parent
MEDSPACY = ("spacy==3.7.5", "medspacy==1.3.1", "negspacy==1.0.4")
"""medspaCy 1.3.1 asks for spaCy below 3.8, and that for numpy below 2."""


def peer_python(folder: Path, packages: Sequence[str]) -> Path:
    """Make an environment with these packages in ``folder`` where it is not there yet; returns its Python."""
    python, done, wanted = folder / "bin" / "python", folder / ".installed", "\n".join(packages)
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python.absolute()


def one_thread() -> dict[str, str]:
    """The environment of a process that uses one thread and finds this project."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    return {**os.environ, **dict.fromkeys(threads, "1"), "PYTHONPATH": str(ROOT)}


def synonyms() -> dict[str, str]:
    """Every phrase of the vocabulary that names a finding -> the first finding that it names. Patterns of two words have no peer."""
    lexicon = load_vocabulary("chest")
    named = ((term, [t.finding for t in targets if t.role == PRESENT]) for term, targets in lexicon.terms.items())
    return {term: lexicon.vocabulary.names[columns[0]] for term, columns in named if columns}


def open_i() -> Path:
    """The Open-I reports that torchxrayvision ships."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise SystemExit("no reports; pip install 'hybridpt[openi]'")
    return next(Path(spec.origin).parent.rglob("NLMCXR_reports.tgz"))


def findings_and_impression(text: str) -> str:
    """A report without history, comparison and technique."""
    return "\n".join(text[s.start : s.end].strip() for s in split_sections(text) if s.kind != SILENT)
