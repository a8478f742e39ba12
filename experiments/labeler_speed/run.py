"""How fast reports are labeled on one core, beside medspaCy and negspacy on the same reports; README.md beside this."""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from labelers.io import read_reports

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # what experiments share

from peers import MEDSPACY, findings_and_impression, one_thread, open_i, peer_python, synonyms

HERE = Path(__file__).resolve().parent
OURS = ("context", "keywords")
PEERS = ("medspacy", "medspacy-sentencizer", "negspacy")
MILLION = 1_000_000
REPEATED = 300_000
"""Reports for the command line with several processes: enough that starting them does not count."""
COLUMNS = (
    "what",
    "labeler",
    "version",
    "jobs",
    "reports",
    "mentions",
    "cpu_start_s",
    "cpu_label_s",
    "rounds",
    "wall_s",
    "reports_per_s",
    "reports_per_s_with_start",
    "ratio_to_medspacy",
    "peak_mb",
)


def measured(python: Path, *arguments: object) -> dict[str, object]:
    """Run measure.py in a process of its own on one core; stop where it fails, it has said why."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        pin = ["taskset", "--cpu-list", str(cores[-1])]
    else:
        pin = []
    command = [*pin, str(python), str(HERE / "measure.py"), *map(str, arguments)]
    done = subprocess.run(command, env=one_thread(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def with_jobs(labeler: str, jobs: int, source: Path, output: Path, count: int) -> dict[str, object]:
    """Time the whole command line, start and writing included, with a number of processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "labelers", "run", str(source), "--labeler", labeler, "-o", str(output), "--jobs", str(jobs)]
    subprocess.run(command, env=one_thread(), stderr=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"labeler": labeler, "jobs": jobs, "reports": count, "cpu_label_s": cpu, "wall_s": wall, "reports_per_s": count / wall}


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Add speeds: reports a CPU second; for the command line a second of wall time, since it has several processes."""
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    alone = frame["what"] != "jobs"
    frame.loc[alone, "reports_per_s"] = frame["reports"] / frame["cpu_label_s"]
    frame.loc[alone, "reports_per_s_with_start"] = frame["reports"] / (frame["cpu_start_s"] + frame["cpu_label_s"])
    same = frame["what"] == "same reports"
    peer = frame.loc[same & (frame["labeler"] == "medspacy"), "reports_per_s"]
    frame.loc[same, "ratio_to_medspacy"] = frame["reports_per_s"] / peer.iloc[0]
    return frame


def picture(frame: pd.DataFrame, path: Path) -> None:
    """Draw speed and memory on the same reports, and wall time by the number of processes."""
    from matplotlib.figure import Figure

    same = frame[frame["what"] == "same reports"]
    jobs = frame[frame["what"] == "jobs"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    speed, memory, scaling = figure.subplots(1, 3)
    speed.bar_label(speed.barh(same["labeler"], same["reports_per_s"]), fmt="{:,.0f}", padding=3)
    speed.set(xlabel=f"reports a CPU second ({same['reports'].iloc[0]:,} reports, start left out)")
    speed.margins(x=0.2)
    memory.bar_label(memory.barh(same["labeler"], same["peak_mb"]), fmt="{:,.0f}", padding=3)
    memory.margins(x=0.2)
    memory.set(xlabel="peak memory, MB")
    for labeler, rows in jobs.groupby("labeler", sort=False):
        scaling.plot(rows["jobs"], rows["reports_per_s"], marker="o", label=labeler)
    scaling.set(xlabel="--jobs", ylabel="reports a second, start included", xticks=sorted(jobs["jobs"].unique()), ylim=(0, None))
    scaling.legend()
    for axes in (speed, memory):
        axes.invert_yaxis()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=Path, help="any file that labelers run reads (default: Open-I's, of torchxrayvision)")
    parser.add_argument("--limit", type=int, help="most reports, drawn at random (default: all)")
    parser.add_argument("--peer-reports", type=int, help="reports that the peers read too (default: all)")
    parser.add_argument("--million", action="store_true", help="also a stream of a million reports, for its memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/labeler_speed"))
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    python, peers = Path(sys.executable), peer_python(output / "peers", MEDSPACY)

    texts = [findings_and_impression(report.text) for report in read_reports(arguments.reports or open_i())]
    texts = [text for text in texts if text.strip()]
    random.Random(arguments.seed).shuffle(texts)
    texts = texts[: arguments.limit]
    subset = texts[: arguments.peer_reports]
    files = {name: output / f"{name}.json" for name in ("all", "same", "terms")}
    source = output / "reports.csv"
    rows: list[dict[str, object]] = []
    try:
        for name, value in (("all", texts), ("same", subset), ("terms", synonyms())):
            files[name].write_text(json.dumps(value), encoding="utf-8")
        with source.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(("report_id", "text"))
            csv.writer(file).writerows((f"r{i}", texts[i % len(texts)]) for i in range(REPEATED))
        for labeler in (*OURS, *PEERS):
            own = peers if labeler in PEERS else python
            rows.append({"what": "same reports", "jobs": 1, **measured(own, labeler, files["same"], files["terms"])})
        for labeler in OURS:
            rows.append({"what": "all reports", "jobs": 1, **measured(python, labeler, files["all"], files["terms"])})
        for jobs in (1, 2):
            rows.append({"what": "jobs", **with_jobs("context", jobs, source, output / "labels.parquet", REPEATED)})
        if arguments.million:
            more = (MILLION, output / "labels.parquet")
            rows.append({"what": "stream", "jobs": 1, **measured(python, "context", files["all"], files["terms"], *more)})
    finally:  # they hold report text, or what was read in it
        for path in (files["all"], files["same"], source, output / "labels.parquet"):
            path.unlink(missing_ok=True)
    frame = table(rows)
    frame.to_csv(output / "results.csv", index=False, float_format="%.4g")
    picture(frame, output / "results.png")
    shown = frame.drop(columns=["version", "mentions"])
    print(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:,.4g}"))
    print(f"\nall columns: {output / 'results.csv'}, picture: {output / 'results.png'}")


if __name__ == "__main__":
    main()
