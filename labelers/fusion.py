"""Several label tables to one posterior: rules that join the states of labelers, chosen by held-out likelihood on gold.

Every rule is fitted on gold rows and, where it can, on the states of all reports. The likelihood of gold that a rule has not seen decides
which one is used, so that nothing is shipped that a calibrated vote beats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelers.errors import InputError
from labelers.latent import Group, fit, search
from labelers.rules import FLOORS, KINDS, Latent, Product, Rule, fit_product
from labelers.types import (
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    UNMENTIONED,
    Evidence,
    Finding,
    LabelTable,
    Vocabulary,
    binary_entropy,
)
from labelers.votes import SILENT, Patterns, Tally, Votes, collect_votes, common_findings, find_patterns, tally

__all__ = ["Fusion", "fit_fusion", "fuse", "fuse_votes"]

FOLDS = 5
"""Parts of the gold, each held out once."""
LEAST_GOLD = 25
"""Gold reports from which rules are compared; with fewer, one held-out report would decide."""
BAND = 0.1
"""A posterior this close to one half is ``uncertain``."""
TOLD = 0.05
"""Least evidence in bits that a source is named for."""
EPSILON = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm, as in ``metrics``."""
GOLD_FREE_GROUPS = 3
"""Independent witnesses that a truth nobody has judged needs (Dawid and Skene 1979)."""


_BUILT, _FLOOR = "latent classes", "calibrated vote"


@dataclass(frozen=True, eq=False)
class Fusion:
    """How the states of S labelers become P(present).

    Attributes:
        labelers: The S sources.
        findings: The K findings.
        name: The rule that is used.
        rule: That rule, fitted.
        siblings: Groups of two labelers or more that share errors.
        exponents: Of the product with exponents, one a labeler; None without gold.
        intercept: Likewise.
        held_out: By rule the mean negative log-likelihood of gold that it had not seen, in nats; empty without gold.
    """

    labelers: tuple[str, ...]
    findings: tuple[str, ...]
    name: str
    rule: Rule
    siblings: tuple[tuple[str, ...], ...] = ()
    exponents: NDArray[np.float64] | None = None
    intercept: float = 0.0
    held_out: Mapping[str, float] = field(default_factory=dict)

    @property
    def fallback(self) -> bool:
        """Whether a floor was better than what is built here."""
        return self.name in FLOORS

    def to_json(self) -> dict[str, Any]:
        """Return plain types for CHANNELS.json."""
        return {
            "labelers": list(self.labelers),
            "findings": list(self.findings),
            "rule": self.name,
            "siblings": [list(group) for group in self.siblings],
            "exponents": None if self.exponents is None else dict(zip(self.labelers, self.exponents.tolist(), strict=True)),
            "intercept": self.intercept,
            "held_out_nll": {name: round(value, 6) for name, value in self.held_out.items()},
            "parameters": self.rule.to_json(),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Fusion:
        """Read back what ``to_json`` wrote; what is no fusion raises KeyError, TypeError or ValueError."""
        labelers, findings = tuple(map(str, body["labelers"])), tuple(map(str, body["findings"]))
        rule = KINDS[body["rule"]].from_json(body["parameters"])
        every = np.array([[s for _ in labelers] for s in range(SILENT + 1)], np.int8)
        p = rule.posterior(every)
        if p.shape != (len(findings), SILENT + 1) or not np.isfinite(p).all():
            raise ValueError("a fusion of another size")
        exponents = body["exponents"]
        return cls(
            labelers,
            findings,
            str(body["rule"]),
            rule,
            tuple(tuple(map(str, group)) for group in body["siblings"]),
            None if exponents is None else np.array([float(exponents[name]) for name in labelers]),
            float(body["intercept"]),
            {str(name): float(value) for name, value in body["held_out_nll"].items()},
        )


def fit_fusion(votes: Votes, truth: NDArray[np.float32] | None) -> Fusion:
    """Fit every rule and choose the one under which gold that it has not seen is likeliest.

    Args:
        votes: The states of S labelers for N reports and K findings.
        truth: 1, 0, or nan where not judged, (N, K); None without any gold. Judged reports are taken to be a random sample.

    Raises:
        InputError: Fewer than three labelers without gold.
    """
    patterns = find_patterns(votes.state)
    if truth is None:
        return _without_gold(votes, patterns)
    structure, _ = search(_halves(patterns, truth))
    rules: dict[str, Callable[[Tally], Rule]] = {
        _BUILT: lambda counts: Latent(fit(counts, structure)),
        "product with exponents": fit_product,
        **FLOORS,
    }
    everything = tally(patterns, truth)
    judged = np.flatnonzero(~np.isnan(truth).all(axis=1))
    losses = _held_out(rules, patterns, truth, judged) if len(judged) >= LEAST_GOLD else {}
    name = _chosen(losses) if losses else _FLOOR
    product = fit_product(everything)
    cells = max(int((~np.isnan(truth)).sum()), 1)
    return Fusion(
        votes.labelers,
        votes.findings,
        name,
        rules[name](everything),
        _named_siblings(structure.groups, votes.labelers),
        product.exponents,
        product.intercept,
        {rule: float(loss.sum()) / cells for rule, loss in losses.items()},
    )


def _chosen(losses: Mapping[str, NDArray[np.float64]]) -> str:
    """The latent classes, unless another rule's held-out loss is lower by more than the standard error of the difference."""
    best = _BUILT
    for name, loss in losses.items():
        gain = losses[best] - loss
        if gain.sum() > gain.std(ddof=1) * np.sqrt(len(gain)):
            best = name
    return best


def _without_gold(votes: Votes, patterns: Patterns) -> Fusion:
    if len(votes.labelers) < GOLD_FREE_GROUPS:
        raise InputError(
            f"expected gold, or the tables of {GOLD_FREE_GROUPS} labelers or more that do not share their errors, got "
            f"{len(votes.labelers)} without gold; judge a few hundred reports and give them by --gold"
        )
    truth = np.full(votes.state.shape[1:], np.nan, np.float32)
    structure, _ = search(_halves(patterns, truth), least_groups=GOLD_FREE_GROUPS, most_classes=1)
    model = fit(tally(patterns, truth), structure)
    return Fusion(
        votes.labelers,
        votes.findings,
        "latent classes",
        Latent(model),
        _named_siblings(structure.groups, votes.labelers),
    )


def _named_siblings(groups: Sequence[Group], labelers: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(labelers[s] for s in group) for group in groups if len(group) > 1)


def _halves(patterns: Patterns, truth: NDArray[np.float32]) -> list[Tally]:
    """Two halves of the reports, gold and the rest each dealt out in turn."""
    judged = ~np.isnan(truth).all(axis=1)
    turn = np.where(judged, np.cumsum(judged), np.cumsum(~judged)) % 2 == 0
    return [tally(patterns, truth, rows) for rows in (turn, ~turn)]


def _held_out(
    rules: Mapping[str, Callable[[Tally], Rule]], patterns: Patterns, truth: NDArray[np.float32], judged: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Cross-validated negative log-likelihood of each judged report; what is held out stays among the reports without gold."""
    part = np.random.default_rng(0).permutation(len(judged)) % FOLDS
    losses = {name: np.zeros(len(judged)) for name in rules}
    for fold in range(FOLDS):
        rows = np.flatnonzero(part == fold)
        hidden = truth.copy()
        hidden[judged[rows]] = np.nan
        seen = tally(patterns, hidden)
        r, k = np.nonzero(~np.isnan(truth[judged[rows]]))
        y, pattern = truth[judged[rows]][r, k], patterns.index[judged[rows]][r, k]
        for name, fitted in rules.items():
            p = np.clip(fitted(seen).posterior(patterns.states)[k, pattern], EPSILON, 1 - EPSILON)
            np.add.at(losses[name], rows[r], -np.where(y > 0, np.log(p), np.log1p(-p)))
    return losses


def fuse_votes(votes: Votes, fusion: Fusion, vocabulary: Vocabulary) -> LabelTable:
    """Join the states of several labelers.

    A finding is positive or negative as its posterior is above or below one half, uncertain within ``BAND`` of it, and unmentioned
    where no labeler said anything of it; the evidence of a cell names the sources that moved it, with the bits by which they
    did (above 0 towards present) and their states.

    Args:
        votes: By labelers of the fusion; one of them that is missing counts as silent.
        fusion: Fitted by ``fit_fusion``.
        vocabulary: Where the findings and their parents come from.

    Raises:
        InputError: A labeler of the votes is none of the fusion's, or no finding is.
    """
    strange = [name for name in votes.labelers if name not in fusion.labelers]
    if strange:
        raise InputError(
            f"the channels hold no '{strange[0]}', they were estimated for {', '.join(fusion.labelers)}; "
            "estimate them from the same tables with 'labelers noise'"
        )
    kept = [name for name in fusion.findings if name in votes.findings]
    if not kept:
        raise InputError("the channels and the tables share no finding; estimate the channels from these tables")
    columns = np.array([votes.findings.index(name) for name in kept])
    which = np.array([fusion.findings.index(name) for name in kept])
    full = np.full((len(fusion.labelers), len(votes.report_ids), len(kept)), SILENT, np.int8)
    for s, name in enumerate(votes.labelers):
        full[fusion.labelers.index(name)] = votes.state[s][:, columns]
    patterns = find_patterns(full)
    posterior = fusion.rule.posterior(patterns.states)[which]
    said = ((patterns.states != SILENT) & (patterns.states != UNMENTIONED)).any(axis=1)
    near = np.abs(posterior - 0.5) < BAND
    state = np.where(near, UNCERTAIN, np.where(posterior > 0.5, POSITIVE, NEGATIVE))
    state = np.where(said[None], state, UNMENTIONED).astype(np.int8)
    at = (np.arange(len(kept))[None], patterns.index)
    probability = posterior.astype(np.float32)
    return LabelTable(
        report_ids=votes.report_ids,
        vocabulary=_part_of(vocabulary, kept),
        state=state[at],
        probability=probability[at],
        uncertainty=binary_entropy(posterior)[at],
        source="fused",
        version="1",
        evidence=_moved(fusion, patterns, which),
        parents=votes.labelers,
    )


def _part_of(vocabulary: Vocabulary, names: Sequence[str]) -> Vocabulary:
    parent = {finding.name: finding.parent for finding in vocabulary.findings}
    findings = []
    for name in names:
        above = parent.get(name)
        while above is not None and above not in names:
            above = parent.get(above)
        findings.append(Finding(name, above))
    return Vocabulary(vocabulary.name, vocabulary.version, tuple(findings))


def _moved(fusion: Fusion, patterns: Patterns, which: NDArray[np.int64]) -> Evidence:
    """One place a source that moved a cell: no span of the text, its state, and as cue its name with the bits."""
    rule = fusion.rule
    if isinstance(rule, Latent):
        groups, nats = rule.model.groups, rule.model.evidence(patterns.states)
    elif isinstance(rule, Product):
        groups = tuple((s,) for s in range(len(fusion.labelers)))
        nats = rule.exponents[:, None, None] * rule.evidence(patterns.states)
    else:
        return Evidence.empty()
    bits = np.round(nats[:, which] / np.log(2), 1)  # (G, K, P)
    tells = np.abs(bits) > TOLD
    cues: dict[str, int] = {}
    number = np.zeros(bits.shape, np.int32)
    for g, k, p in zip(*np.nonzero(tells), strict=True):
        name = "+".join(fusion.labelers[s] for s in groups[g])
        number[g, k, p] = cues.setdefault(f"{name} {bits[g, k, p]:+.1f} bits", len(cues))
    states = np.array([_first_said(patterns.states[:, group]) for group in groups])  # (G, P)
    tells &= (states < UNMENTIONED)[:, None, :]
    return _spread(patterns, tells, number, states, tuple(cues))


def _first_said(states: NDArray[np.int8]) -> NDArray[np.int8]:
    """The state of the first labeler of a group that said something: (P, g) -> (P,)."""
    return np.asarray(states[np.arange(len(states)), np.argmax(states < UNMENTIONED, axis=1)], np.int8)


def _spread(
    patterns: Patterns, tells: NDArray[np.bool_], number: NDArray[np.int32], states: NDArray[np.int8], cues: tuple[str, ...]
) -> Evidence:
    """Evidence of every cell from that of its pattern."""
    k = tells.shape[1]
    width = np.arange(k)[None]
    count = tells.sum(axis=0)  # (K, P)
    per_cell = count[width, patterns.index].ravel()
    cell = np.repeat(np.arange(per_cell.size), per_cell)
    order = np.argsort(~tells, axis=0, kind="stable")  # those that tell come first
    within = np.arange(len(cell)) - np.repeat(np.cumsum(per_cell) - per_cell, per_cell)
    pattern, finding = patterns.index.ravel()[cell], cell % k
    group = order[within, finding, pattern] if len(cell) else np.zeros(0, np.int64)
    nowhere = np.zeros(len(cell), np.int32)
    return Evidence(
        cell=cell,
        start=nowhere,
        end=nowhere,
        state=states[group, pattern] if len(cell) else np.zeros(0, np.int8),
        cue=number[group, finding, pattern] if len(cell) else np.zeros(0, np.int32),
        cues=cues,
    )


def fuse(tables: Sequence[LabelTable], fusion: Fusion | None) -> LabelTable:
    """Join the tables of several labelers to one posterior.

    Args:
        tables: One table a labeler; those of another label scheme are mapped by the cross-walk that has all their labels.
        fusion: ``ChannelSet.fusion`` of ``estimate_channels`` or ``read_channels``.

    Returns:
        A dense table with the source "fused", its parents, and as evidence which source moved each cell by how many bits.

    Raises:
        InputError: The channels are of one labeler or of others, or the tables share no finding.
    """
    if fusion is None:
        raise InputError("the channels are of one labeler, nothing to fuse; estimate them from two tables or more")
    joined = common_findings(tables)
    return fuse_votes(collect_votes(joined, fusion.findings), fusion, joined[0].vocabulary)
