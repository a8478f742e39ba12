"""medspaCy over texts; prints nothing, writes one state a report and finding as JSON. Started by real.py with medspaCy's Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import medspacy
from loguru import logger
from medspacy.target_matcher import TargetRule

POSITIVE, NEGATIVE, UNCERTAIN = range(3)


def main() -> None:
    """``medspacy_states.py TEXTS.json TERMS.json STATES.json``: by text a list of [finding, state] of every place."""
    texts, terms, target = (Path(name) for name in sys.argv[1:4])
    logger.remove()  # PyRuSH logs every sentence
    nlp = medspacy.load()
    rules = [TargetRule(term, finding) for term, finding in json.loads(terms.read_text(encoding="utf-8")).items()]
    nlp.get_pipe("medspacy_target_matcher").add(rules)
    found = []
    for doc in nlp.pipe(json.loads(texts.read_text(encoding="utf-8"))):
        places = []
        for e in doc.ents:
            if e._.is_historical or e._.is_hypothetical or e._.is_family:
                continue  # not of this patient now
            places.append((e.label_, NEGATIVE if e._.is_negated else UNCERTAIN if e._.is_uncertain else POSITIVE))
        found.append(places)
    target.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
