"""One labeler over one file of reports in a process of its own; prints CPU seconds and memory as JSON. Started by run.py.

The peers run with another Python, so nothing of this project is imported for them.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROUNDS, ENOUGH = 9, 5.0
"""The median of so many rounds counts, each with a labeler that has read nothing yet, or of fewer if they take that many seconds."""

Label = Callable[[list[str]], int]
"""Labels texts and returns how many mentions were judged, so that nothing is left undone."""


def ours(name: str) -> tuple[Label, str]:
    """One of this project's labelers, and its version."""
    from labelers import Report, __version__, create
    from labelers.run import BATCH

    labeler = create(name)

    def label(texts: list[str]) -> int:
        found = 0
        for first in range(0, len(texts), BATCH):
            table = labeler.label([Report(str(first + i), text) for i, text in enumerate(texts[first : first + BATCH])])
            found += len(table.evidence)
        return found

    return label, __version__


def medspacy(terms: dict[str, str], sentencizer: bool = False) -> tuple[Label, str]:
    """MedspaCy as ``medspacy.load()`` makes it, with a target rule a synonym; or with spaCy's sentencizer in the place of PyRuSH."""
    from importlib.metadata import version

    import medspacy.context  # registers its component
    import spacy
    from loguru import logger
    from medspacy.target_matcher import TargetRule

    logger.remove()  # PyRuSH logs every sentence
    if sentencizer:
        nlp = spacy.blank("en")
        nlp.add_pipe("sentencizer")
        nlp.add_pipe("medspacy_target_matcher")
        nlp.add_pipe("medspacy_context")
    else:
        nlp = medspacy.load()
    nlp.get_pipe("medspacy_target_matcher").add([TargetRule(term, finding) for term, finding in terms.items()])

    def judged(doc: Any) -> int:
        return sum((e._.is_negated, e._.is_uncertain, e._.is_historical) is not None for e in doc.ents)

    return lambda texts: sum(judged(doc) for doc in nlp.pipe(texts)), version("medspacy")


def negspacy(terms: dict[str, str]) -> tuple[Label, str]:
    """negspacy: spaCy's entity ruler with a phrase a synonym, and NegEx with the clinical terms that it ships."""
    from importlib.metadata import version

    import spacy
    from negspacy.negation import Negex  # noqa: F401  # registers its component
    from negspacy.termsets import termset

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "LOWER"})
    ruler.add_patterns([{"label": finding, "pattern": term} for term, finding in terms.items()])
    nlp.add_pipe("negex", config={"neg_termset": termset("en_clinical").get_patterns()})

    def judged(doc: Any) -> int:
        return sum(e._.negex is not None for e in doc.ents)

    return lambda texts: sum(judged(doc) for doc in nlp.pipe(texts)), version("negspacy")


def stream(name: str, texts: list[str], count: int, output: Path) -> int:
    """Label ``count`` reports made one by one of the texts in turn, and write the table; returns the rows of reports."""
    from labelers import Report, create
    from labelers.io import open_table
    from labelers.run import label_in_batches

    def reports() -> Iterator[Report]:
        for number, text in zip(range(count), itertools.cycle(texts), strict=False):
            yield Report(f"r{number}", text)

    labeler = create(name)
    with open_table(output, labeler, blank=labeler.label([Report("", "")])) as writer:
        for batch in label_in_batches(reports(), labeler, name, {}, writer.encode):
            writer.append(batch.rows)
    return count


def peak() -> float:
    """Most memory that this process held, in MB."""
    status = Path(
        "/proc/self/status"
    )  # Linux's getrusage goes on counting from what the parent held when it started this process
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """``measure.py NAME TEXTS.json TERMS.json [COUNT OUTPUT]``: the latter two for a stream of that many reports."""
    name, texts_file, terms_file = sys.argv[1:4]
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    terms = json.loads(Path(terms_file).read_text(encoding="utf-8"))
    before, wall = time.process_time(), time.perf_counter()
    row: dict[str, object]
    if len(sys.argv) > 4:
        count = stream(name, texts, int(sys.argv[4]), Path(sys.argv[5]))
        row = {"reports": count, "cpu_start_s": 0.0, "cpu_label_s": time.process_time() - before, "version": ""}
    else:
        peers = {"medspacy": medspacy, "medspacy-sentencizer": partial(medspacy, sentencizer=True), "negspacy": negspacy}
        make = partial(peers[name], terms) if name in peers else partial(ours, name)
        label, version = make()
        label(["No acute disease."])  # what is built at first use belongs to the start
        start = time.process_time() - before
        seconds: list[float] = []
        while len(seconds) < ROUNDS and sum(seconds) < ENOUGH:
            begun = time.process_time()
            found = label(texts)
            seconds.append(time.process_time() - begun)
            label, _ = make()  # one that has not read them yet
        row = {
            "version": version,
            "reports": len(texts),
            "mentions": found,
            "cpu_start_s": start,
            "cpu_label_s": statistics.median(seconds),
            "rounds": len(seconds),
        }
    row["wall_s"] = time.perf_counter() - wall
    row["peak_mb"] = peak()
    print(json.dumps({"labeler": name, **row}))


if __name__ == "__main__":
    main()
