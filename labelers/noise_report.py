"""What a person is shown of channels, fusion and agreement: tables, a picture, and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from labelers.agreement import Agreement
from labelers.channel import ALL_DATASETS, Channel, ChannelSet, channel_information
from labelers.console import add_row
from labelers.fusion import Fusion
from labelers.io.files import atomic_path
from labelers.pool import Pool
from labelers.types import POSITIVE, UNCERTAIN, binary_entropy
from labelers.votes import SILENT, Votes

__all__ = [
    "agreement_tables",
    "draw_channels",
    "fusion_notes",
    "fusion_table",
    "gold_notes",
    "noise_table",
    "pool_table",
    "sibling_notes",
]

SMALL_GOLD = 50
"""Judged reports below which a channel is said to be a rough one."""
FEW_PRESENT = 5
SHARED = 0.2
"""Shared errors from which two labelers are named."""
MOST_ROWS = 20


def noise_table(channels: ChannelSet) -> Table:
    """Return one row a labeler and finding: what its states are worth."""
    columns = ("labeler", "finding", "gold present/absent", "positive if present", "uncertain if present")
    table = Table(*columns, "positive if absent", "uncertain if absent", "bits")
    for labeler, by_dataset in channels.channels.items():
        for finding, channel in by_dataset[ALL_DATASETS].items():
            present, absent = channel.counts.sum(axis=1)[::-1]
            bits = channel_information(channel.matrix, channels.prior[finding])
            cells = (
                _entry(channel, 1, POSITIVE),
                _entry(channel, 1, UNCERTAIN),
                _entry(channel, 0, POSITIVE),
                _entry(channel, 0, UNCERTAIN),
            )
            add_row(table, labeler, finding, f"{present}/{absent}", *cells, f"{bits:.3f}")
    return table


def _entry(channel: Channel, truth: int, state: int) -> str:
    return f"{channel.matrix[truth, state]:.3f} [{channel.low[truth, state]:.2f}, {channel.high[truth, state]:.2f}]"


def fusion_table(fusion: Fusion) -> Table:
    """Return one row a rule with its held-out negative log-likelihood, the best first."""
    table = Table("rule", "held-out NLL", "")
    for name, value in sorted(fusion.held_out.items(), key=lambda item: item[1]):
        add_row(table, name, f"{value:.4f}", "used" if name == fusion.name else "")
    return table


def pool_table(pool: Pool, votes: Votes) -> Table:
    """Return one row a set of labelers that looked at the same reports: what each of them counts for there, of 1 for a witness alone."""
    looked = (votes.state != SILENT).any(axis=2).T
    sets, reports = np.unique(looked, axis=0, return_counts=True)
    table = Table("looked together", "reports", "each counts for", "together")
    for members, count in sorted(zip(sets, reports, strict=True), key=lambda row: -row[1])[:MOST_ROWS]:
        names = [name for name, here in zip(votes.labelers, members, strict=True) if here]
        if len(names) > 1:
            exponents = pool.of(names)
            add_row(table, ", ".join(names), f"{count:,}", ", ".join(f"{a:.2f}" for a in exponents), f"{sum(exponents):.2f}")
    return table


def gold_notes(channels: ChannelSet, judged: int) -> Iterator[str]:
    """Say where the gold is too small to tell much; the intervals are wide there."""
    few: dict[str, None] = {}
    for by_dataset in channels.channels.values():
        for finding, channel in by_dataset[ALL_DATASETS].items():
            if channel.counts[1].sum() < FEW_PRESENT:
                few[finding] = None
    if judged < SMALL_GOLD:
        yield f"the gold judges {judged} reports, 200 are enough to start: these channels are rough, see their intervals"
    if few:
        yield (
            f"{len(few)} findings are present in fewer than {FEW_PRESENT} gold reports: what the labelers say of them when they are "
            "present is mostly taken from their other findings, see the intervals"
        )


def sibling_notes(fusion: Fusion, shared: NDArray[np.float64] | None) -> Iterator[str]:
    """Name the labelers that share errors.

    Args:
        fusion: With the groups that were found.
        shared: ``agreement.shared_errors`` on gold, (S, S), or None without gold.
    """
    for group in fusion.siblings:
        yield f"{' and '.join(group)} share errors: they are siblings, no two witnesses"
    if shared is None:
        return
    for one in range(len(shared)):
        for other in range(one):
            if shared[other, one] >= SHARED:
                yield (
                    f"{fusion.labelers[other]} and {fusion.labelers[one]} agree more than their channels explain: "
                    f"{shared[other, one]:.2f} (0 independent errors, 1 the same labeler twice)"
                )


def fusion_notes(fusion: Fusion) -> Iterator[str]:
    """Say which rule is used, and why."""
    if not fusion.held_out:
        yield f"fused by '{fusion.name}'; no gold says whether a simpler rule would do better"
    elif fusion.fallback:
        built = min(value for name, value in fusion.held_out.items() if name in ("latent classes", "product with exponents"))
        yield (
            f"'{fusion.name}' was better on held-out gold than what knows of shared errors "
            f"(NLL {fusion.held_out[fusion.name]:.4f} against {built:.4f}), so it is used"
        )
    else:
        yield f"fused by '{fusion.name}', the best on held-out gold (NLL {fusion.held_out[fusion.name]:.4f})"


def draw_channels(channels: ChannelSet, path: Path) -> None:
    """Draw how much each labeler tells of each finding: bits as a share of what there is to know, a row a source, a column a finding."""
    from matplotlib.figure import Figure

    labelers = list(channels.channels)
    findings = [name for name in channels.prior if any(name in d[ALL_DATASETS] for d in channels.channels.values())]
    share = np.full((len(labelers), len(findings)), np.nan)
    for row, labeler in enumerate(labelers):
        for column, finding in enumerate(findings):
            channel = channels.find(labeler, ALL_DATASETS, finding)
            if channel is not None:
                prior = channels.prior[finding]
                share[row, column] = channel_information(channel.matrix, prior) / max(
                    float(binary_entropy(np.array(prior))), 1e-9
                )
    figure = Figure(figsize=(2.5 + 0.45 * len(findings), 1.8 + 0.45 * len(labelers)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(findings)), [name.replace("$", r"\$") for name in findings], rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(labelers)), [name.replace("$", r"\$") for name in labelers], fontsize=8)
    for row, column in np.argwhere(np.isfinite(share)):
        color = "white" if share[row, column] < 0.6 else "black"
        axes.text(column, row, f"{share[row, column]:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, label="bits / entropy of the finding")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def agreement_tables(found: Agreement, labelers: Sequence[str]) -> Iterator[Table]:
    """Yield a table of labelers, one of pairs, one of the findings and one of the reports that are most in conflict."""
    table = Table("labeler", "findings", "mean coverage")
    for labeler in labelers:
        shares = list(found.coverage[labeler].values())
        add_row(table, labeler, str(len(shares)), _number(shares))
    yield table
    table = Table("pair", "findings", "mean kappa", "mean overlap", "mean conflict")
    for names in dict.fromkeys(pair.labelers for pair in found.pairs):
        pairs = [pair for pair in found.pairs if pair.labelers == names]
        cells = ([p.kappa for p in pairs], [p.overlap for p in pairs], [p.conflict for p in pairs])
        add_row(table, " / ".join(names), str(len(pairs)), *map(_number, cells))
    yield table
    table = Table(f"pair and finding, the {MOST_ROWS} most in conflict", "reports", "kappa", "overlap", "conflict")
    for pair in sorted(found.pairs, key=lambda p: -p.conflict)[:MOST_ROWS]:
        cells = ([pair.kappa], [pair.overlap], [pair.conflict])
        add_row(table, f"{' / '.join(pair.labelers)}: {pair.finding}", str(pair.reports), *map(_number, cells))
    yield table
    table = Table(f"report, of {len(found.conflicts)} in conflict the first {MOST_ROWS}", "findings")
    for report_id, findings in found.conflicts[:MOST_ROWS]:
        add_row(table, report_id, ", ".join(findings))
    yield table


def _number(values: Sequence[float]) -> str:
    known = [value for value in values if value == value]
    return f"{np.mean(known):.3f}" if known else "-"
