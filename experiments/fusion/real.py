"""Three labelers of real reports, their channels from 200 judged ones, fused, and scored on the other judged reports."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from peers import MEDSPACY, findings_and_impression, one_thread, open_i, peer_python, synonyms

from labelers import create, read_reports, read_table, score
from labelers.agreement import NO_FINDING, shared_errors
from labelers.channel import Channel, ChannelSet, estimate_channels
from labelers.console import progress
from labelers.fusion import fuse_votes
from labelers.io import Gold, read_gold, write_table
from labelers.rules import FLOORS
from labelers.types import NEGATIVE, POSITIVE, UNCERTAIN, UNMENTIONED, LabelTable, Report, Vocabulary, binary_entropy
from labelers.vocabulary import load_vocabulary
from labelers.votes import Votes, collect_votes, find_patterns, gold_truth, tally

HERE = Path(__file__).resolve().parent
GOLD_ROWS, DRAWS = 200, 5
OURS = ("context", "keywords")


def medspacy(reports: Sequence[Report], output: Path) -> LabelTable:
    """MedspaCy's states: a finding is positive where a place of it, or of one below it, is, else uncertain, else negative."""
    python = peer_python(output.parent / "labeler_speed" / "peers", MEDSPACY)
    files = [output / f"{name}.json" for name in ("texts", "terms", "states")]
    try:
        files[0].write_text(json.dumps([findings_and_impression(report.text) for report in reports]), encoding="utf-8")
        files[1].write_text(json.dumps(synonyms()), encoding="utf-8")
        subprocess.run([str(python), str(HERE / "medspacy_states.py"), *map(str, files)], env=one_thread(), check=True)
        found = json.loads(files[2].read_text(encoding="utf-8"))
    finally:  # they hold report text, or what was read in it
        for file in files:
            file.unlink(missing_ok=True)
    vocabulary = load_vocabulary("chest").vocabulary
    rank = {NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}
    state = np.full((len(reports), len(vocabulary)), UNMENTIONED, np.int8)
    for row, places in zip(state, found, strict=True):
        for name, said in places:
            above = [name] if said == NEGATIVE else lineage(vocabulary, name)  # no child, and yet perhaps its parent
            for column in map(vocabulary.index, above):
                if rank[said] > rank.get(int(row[column]), 0):
                    row[column] = said
    return LabelTable.from_states([r.report_id for r in reports], vocabulary, state, "medspacy")


def lineage(vocabulary: Vocabulary, name: str | None) -> list[str]:
    """A finding and all above it."""
    names = []
    while name is not None:
        names.append(name)
        name = vocabulary.findings[vocabulary.index(name)].parent
    return names


def label(gold: Gold, output: Path) -> list[LabelTable]:
    """The tables of the three labelers, of judged reports alone, kept in the output folder."""
    files = {name: output / f"{name}.parquet" for name in (*OURS, "medspacy")}
    if not all(file.exists() for file in files.values()):
        judged = set(gold.report_ids)
        reports = [report for report in read_reports(open_i()) if report.report_id in judged]
        for name in OURS:
            write_table(create(name).label(reports), files[name])
        write_table(medspacy(reports, output), files["medspacy"])
    return [read_table(file) for file in files.values()]


def part(gold: Gold, rows: NDArray[np.int64]) -> Gold:
    """Some of the judged reports."""
    return Gold(gold.report_ids[rows], gold.findings, gold.truth[rows])


def with_channel(table: LabelTable, channels: ChannelSet) -> LabelTable:
    """A labeler alone, each of its states worth what its channel and the prior say."""
    columns = []
    names = [n for n in channels.prior if n in table.vocabulary]
    for name in names:
        state, prior = table.state[:, table.vocabulary.index(name)], channels.prior[name]
        channel: Channel | None = channels.find(table.source, "*", name)
        if channel is None:
            columns.append(np.full(len(table), prior))
            continue
        joint = np.array([1 - prior, prior])[:, None] * channel.matrix
        columns.append((joint[1] / joint.sum(axis=0))[state])
    probability = np.stack(columns, axis=1).astype(np.float32)
    at = [table.vocabulary.index(n) for n in names]
    vocabulary = Vocabulary.of(names)
    return LabelTable(table.report_ids, vocabulary, table.state[:, at], probability, binary_entropy(probability), table.source)


def from_posterior(votes: Votes, probability: NDArray[np.float64], name: str) -> LabelTable:
    """A table that calls positive what is likelier present than not."""
    p = probability.astype(np.float32)
    state = np.where(p > 0.5, POSITIVE, NEGATIVE).astype(np.int8)
    return LabelTable(votes.report_ids, Vocabulary.of(votes.findings), state, p, binary_entropy(p), name)


def one_draw(tables: Sequence[LabelTable], gold: Gold, draw: int) -> pd.DataFrame:
    """Channels from some reports, scores on the others."""
    order = np.random.default_rng(draw).permutation(len(gold.report_ids))
    few, rest = part(gold, order[:GOLD_ROWS]), part(gold, order[GOLD_ROWS:])
    channels = estimate_channels(tables, few)
    fusion = channels.fusion
    assert fusion is not None
    votes = collect_votes(tables, fusion.findings)
    truth = gold_truth(votes, few)
    patterns = find_patterns(votes.state)
    counts, at = tally(patterns, truth), (np.arange(truth.shape[1])[None], patterns.index)
    judged = {f"{t.source}, as it is": t for t in tables}
    judged.update({f"{t.source}, its channel": from_posterior_of(with_channel(t, channels)) for t in tables})
    judged["fused"] = fuse_votes(votes, fusion, tables[0].vocabulary)
    for name, make in FLOORS.items():
        judged[name] = from_posterior(votes, make(counts).posterior(patterns.states)[at], name)
    chosen = {"rule": fusion.name, "siblings": " ".join("+".join(group) for group in fusion.siblings)}
    rows = []
    for name, table in judged.items():
        scores = score(table, rest)
        means = {measure: scores.macro[measure] for measure in ("nll", "ece", "auprc")}
        f1 = {"f1_macro": scores.macro["f1"], "f1_micro": scores.micro["f1"]}
        more = chosen if name == "fused" else {}
        rows.append({"what": "score", "method": name, "draw": draw, **means, **f1, "reports": scores.reports, **more})
    return pd.DataFrame(rows)


def from_posterior_of(table: LabelTable) -> LabelTable:
    """The same probabilities, with positive where present is likelier than absent."""
    state = np.where(table.probability > 0.5, POSITIVE, NEGATIVE).astype(np.int8)
    return LabelTable(table.report_ids, table.vocabulary, state, table.probability, table.uncertainty, table.source)


def alike(tables: Sequence[LabelTable], gold: Gold) -> pd.DataFrame:
    """How much more alike two labelers are than their channels explain, on all judged reports."""
    votes = collect_votes(tables, gold.findings)
    shared = shared_errors(votes, gold_truth(votes, gold))
    pairs = combinations(range(len(tables)), 2)
    rows = [(f"{votes.labelers[i]} and {votes.labelers[j]}", shared[i, j]) for i, j in pairs]
    return pd.DataFrame(rows, columns=["method", "shared_errors"]).assign(what="shared errors", reports=len(gold.report_ids))


def run(output: Path, gold_file: Path) -> pd.DataFrame:
    """Label once, then draw the judged reports several times."""
    every = read_gold(gold_file)
    kept = [k for k, name in enumerate(every.findings) if name != NO_FINDING]
    gold = Gold(every.report_ids, tuple(every.findings[k] for k in kept), every.truth[:, kept])
    tables = label(gold, output)
    parts = []
    with progress("draws", DRAWS) as advance:
        for draw in range(DRAWS):
            parts.append(one_draw(tables, gold, draw))
            advance(1)
    rows = pd.concat([*parts, alike(tables, gold)], ignore_index=True)
    rows.to_csv(output / "real.csv", index=False, float_format="%.5f")
    return rows


def tell(rows: pd.DataFrame) -> None:
    """Print means and ranges over the draws, which rule was chosen, and how alike the labelers err."""
    scores = rows[rows["what"] == "score"]
    measures = ["nll", "ece", "auprc", "f1_macro", "f1_micro"]
    print(scores.groupby("method", sort=False)[measures].agg(["mean", "min", "max"]).to_string(float_format="{:.4f}".format))
    fused = scores[scores["method"] == "fused"]
    print(fused[["draw", "rule", "siblings"]].to_string(index=False))
    print(rows.loc[rows["what"] != "score", ["method", "shared_errors"]].to_string(index=False, float_format="{:.3f}".format))
