"""How many phantom pictures are drawn and written by one core in a second: rounds with the median, the least and the most."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Time several sets, each into a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # before numpy is loaded
    import numpy as np

    from hybridpt.data.phantom import Phantom

    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.rounds + 1):  # the first warms up
            root = Path(folder) / str(seed)
            started, used = time.perf_counter(), time.process_time()
            Phantom(arguments.studies, arguments.size, seed).write(root)
            pictures = len(list((root / "images").iterdir()))
            if seed:
                speeds.append((pictures / (time.perf_counter() - started), pictures / (time.process_time() - used)))
    for what, values in zip(("of wall time", "of processor time"), np.array(speeds).T, strict=True):
        middle, low, high = np.median(values), values.min(), values.max()
        print(f"pictures a second {what}: {middle:.0f} ({low:.0f} to {high:.0f}) at {arguments.size} pixels, one process")


if __name__ == "__main__":
    main()
