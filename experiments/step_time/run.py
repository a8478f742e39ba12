"""What a training step costs beside its encoders alone, the first paper's code, and open_clip's losses; README.md beside this."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import hybrid
import pandas as pd
import reference
import torch
from timing import Corpus, peak_tflops

HERE = Path(__file__).resolve().parent
PARTS = ("hybrid", "reference", "contrast")
COLUMNS = (
    "device",
    "machine",
    "torch",
    "part",
    "name",
    "batch",
    "precision",
    "compiled",
    "seconds",
    "seconds_low",
    "seconds_high",
    "repeats",
    "images_per_s",
    "ratio",
    "ratio_low",
    "ratio_high",
    "peak_mb",
    "share_of_peak",
    "version",
)
STUDIES = 400
SHARE_OF_MEMORY = 0.8
COPIES = 7
"""Matrices of N x N float32 that open_clip's losses hold at their peak, a little rounded up; more than there is memory for is not tried."""


def hybrid_rows(arguments: argparse.Namespace, corpus: Corpus, folder: Path) -> Iterable[dict[str, object]]:
    """Every setting; on a GPU in bfloat16, plain and compiled, with the share of its peak."""
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    peak = peak_tflops(device, arguments.peak_tflops)
    for setting in hybrid.QUICK if arguments.quick else hybrid.GPU if on_gpu else hybrid.CPU:
        operations: object = None
        for compiled in (False, True) if on_gpu else (False,):
            for row in hybrid.measured(setting, corpus, folder, device, "bf16" if on_gpu else "float32", compiled):
                operations = row.pop("operations") or operations  # counted where nothing is compiled
                if peak is not None:
                    row["share_of_peak"] = float(operations) / float(row["seconds"]) / (peak * 1e12)  # type: ignore[arg-type]
                yield row


def reference_rows(arguments: argparse.Namespace, corpus: Corpus, folder: Path) -> Iterable[dict[str, object]]:
    """Both shares of reports; ResNet-50 and a BERT of 12 layers on a GPU, of 4 on a CPU."""
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    layers, pixels, batch, steps, repeats = (12, 224, 128, 10, 12) if on_gpu else (4, 224, 16, 1, 12)
    if arguments.quick:
        layers, pixels, batch, steps, repeats = 2, 64, 4, 1, 2
    return reference.measured(arguments.reference, corpus, folder, device, layers, pixels, batch, steps, repeats)


def contrast_rows(arguments: argparse.Namespace) -> Iterable[dict[str, object]]:
    """Each loss of each side at growing N, in a process of its own, the two sides after each other."""
    on_gpu = arguments.device.startswith("cuda")
    sizes = (4096, 8192, 16384, 32768)
    budget = 3.0 if on_gpu else 5.0
    if arguments.quick:
        sizes, budget = (512, 1024), 0.5
    peer = importlib.util.find_spec("open_clip") is not None
    if not peer:
        print("open_clip is not installed, so that its losses are left out: pip install open_clip_torch", file=sys.stderr)
    for rows in sizes:
        for precision in ("float32", "bf16") if on_gpu else ("float32",):
            for loss in ("clip", "siglip"):
                taken: dict[str, float] = {}
                for side in ("open_clip", "ours") if peer else ("ours",):
                    name = f"{loss}, {rows:,} x 512: {side}"
                    if side == "open_clip" and 4 * COPIES * rows**2 > SHARE_OF_MEMORY * _memory(arguments.device):
                        print(f"{name}: not tried, more than this machine's memory", file=sys.stderr)
                        continue
                    found = _process(HERE / "contrast.py", loss, side, rows, arguments.device, precision, budget)
                    if found is None:
                        print(f"{name}: ended without a figure (out of memory?)", file=sys.stderr)
                        continue
                    taken[side] = float(found["seconds"])  # type: ignore[arg-type]
                    ratio = {"ratio": taken["ours"] / taken["open_clip"]} if len(taken) == 2 else {}
                    yield {
                        "part": "contrast",
                        "name": name,
                        "batch": rows,
                        "precision": precision,
                        "compiled": False,
                        **found,
                        **ratio,
                    }


def _memory(device: str) -> float:
    """Memory that is free, in bytes."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = next(line for line in meminfo.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable"))
        return 1024.0 * int(free.split()[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _process(*words: object) -> dict[str, object] | None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def picture(frame: pd.DataFrame, path: Path) -> None:
    """Draw the ratios of the steps, and time and memory of the contrasts by N."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.2), layout="constrained")
    steps, times, memory = figure.subplots(1, 3)
    shown = frame[frame["part"].isin(["hybrid", "reference"]) & frame["ratio"].notna()].iloc[::-1]
    labels = [_label(row) for _, row in shown.iterrows()]
    errors = [shown["ratio"] - shown["ratio_low"], shown["ratio_high"] - shown["ratio"]]
    steps.errorbar(shown["ratio"], range(len(shown)), xerr=errors, fmt="o", capsize=3)
    steps.axvline(1, color="grey", linewidth=0.8)
    steps.set_yticks(range(len(shown)), labels, fontsize=7)
    steps.set(xlabel="hybrid: time by the encoders'\nreference: speed by theirs", ylim=(-0.5, max(1, len(shown)) - 0.5))
    contrasts = frame[frame["part"] == "contrast"]
    kinds = [
        f"{name.split(',')[0]}, {name.rsplit(': ')[-1]}, {p}"
        for name, p in zip(contrasts["name"], contrasts["precision"], strict=True)
    ]
    for kind, rows in contrasts.groupby(kinds, sort=False):
        times.plot(rows["batch"], rows["seconds"], marker="o", label=kind)
        memory.plot(rows["batch"], rows["peak_mb"], marker="o", label=kind)
    for axes, what in ((times, "seconds, forward and backward"), (memory, "peak memory, MB")):
        axes.set(xlabel="rows of 512", ylabel=what, xscale="log", yscale="log")
        axes.set_xticks(sorted(contrasts["batch"].unique()), [f"{n:,}" for n in sorted(contrasts["batch"].unique())])
        axes.xaxis.minorticks_off()
    if len(contrasts):
        times.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def _label(row: pd.Series) -> str:  # type: ignore[type-arg]
    compiled = ", compiled" if row["compiled"] else ""
    what, _, rest = str(row["name"]).rpartition(": ")[0].partition(", " if row["part"] == "hybrid" else " (")
    where = rest.rpartition("), ")[2]
    return f"{row['part']}: {what}\n{where}, {row['precision']}{compiled}"


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all; reference needs --reference)"
    )
    parser.add_argument("--reference", type=Path, metavar="CHECKOUT", help="a checkout of github.com/jusiro/DLILP")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-tflops", type=float, help="the card's peak in bfloat16, where its name is not known")
    parser.add_argument("--threads", type=int, help="threads of a CPU (default: torch's)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; its figures mean nothing")
    parser.add_argument("--output", type=Path, default=Path("runs/experiments/step_time"))
    arguments = parser.parse_args()
    chosen = arguments.parts or [part for part in PARTS if part != "reference" or arguments.reference]
    unknown = set(chosen) - set(PARTS)
    if unknown or ("reference" in chosen and arguments.reference is None):
        parser.error(
            f"no part '{min(unknown)}'; the parts are {', '.join(PARTS)}" if unknown else "reference needs --reference CHECKOUT"
        )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    device = arguments.device
    about = {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads",
        "machine": _processor(),
        "torch": torch.__version__,
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder) / "phantom", STUDIES) if set(chosen) != {"contrast"} else None
        runs: dict[str, Callable[[], Iterable[dict[str, object]]]] = {
            "hybrid": lambda: hybrid_rows(arguments, corpus, Path(folder)),  # type: ignore[arg-type]
            "reference": lambda: reference_rows(arguments, corpus, Path(folder)),  # type: ignore[arg-type]
            "contrast": lambda: contrast_rows(arguments),
        }
        for part in chosen:
            begun = time.perf_counter()
            for row in runs[part]():
                rows.append({**about, **row})
                print(f"{part}: {row['name']} ({row['precision']}): {row['seconds']:.4g} s", file=sys.stderr, flush=True)
                pd.DataFrame(rows).reindex(columns=COLUMNS).to_csv(
                    arguments.output / "results.csv", index=False, float_format="%.5g"
                )
            print(f"{part}: {time.perf_counter() - begun:.0f} s in all", file=sys.stderr, flush=True)
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    picture(frame, arguments.output / "results.png")
    shown = frame.drop(columns=["device", "machine", "torch", "version"])
    print(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:,.4g}"))
    print(f"\nall columns: {arguments.output / 'results.csv'}, picture: {arguments.output / 'results.png'}")


def _processor() -> str:
    """The processor's name, and how many cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


if __name__ == "__main__":
    main()
