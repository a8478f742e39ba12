"""How well `context` reads the sentences of tests/labelers/sentences.yaml; README.md beside this."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import yaml

from labelers import STATES, Report, create


def read(path: Path, labeler: str) -> pd.DataFrame:
    """Return a row a sentence and finding asked for: group, sentence, finding, wanted and got."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    asked = [(group, text, answers) for group, texts in groups.items() for text, answers in texts.items()]
    table = create(labeler).label([Report(str(row), text) for row, (_, text, _) in enumerate(asked)])
    rows = [
        (group, text, finding, state, STATES[table.state[row, table.vocabulary.index(finding)]])
        for row, (group, text, answers) in enumerate(asked)
        for finding, state in answers.items()
    ]
    return pd.DataFrame(rows, columns=["group", "sentence", "finding", "wanted", "got"])


def f1(rows: pd.DataFrame, state: str) -> float:
    """Return the F1 of one state against the others."""
    both = ((rows["wanted"] == state) & (rows["got"] == state)).sum()
    return float(2 * both / ((rows["wanted"] == state).sum() + (rows["got"] == state).sum()))


def main() -> None:
    """Label and print: what is missed, the share right by group, accuracy and F1 by state."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=Path, default=Path("tests/labelers/sentences.yaml"))
    parser.add_argument("--labeler", default="context")
    arguments = parser.parse_args()
    rows = read(arguments.sentences, arguments.labeler)
    rows["right"] = rows["wanted"] == rows["got"]
    print(rows[~rows["right"]].drop(columns=["group", "right"]).to_string(index=False, max_colwidth=80))
    print("\n" + rows.groupby("group", sort=False)["right"].agg(["sum", "count"]).to_string())
    print(f"\naccuracy {rows['right'].mean():.3f} of {len(rows)} answers in {rows['sentence'].nunique()} sentences")
    for state in STATES[:3]:
        print(f"F1 {state} {f1(rows, state):.3f}")


if __name__ == "__main__":
    main()
