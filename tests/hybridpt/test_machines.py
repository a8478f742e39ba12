"""Two machines, each in the shape of a process of this one: started by torchrun, and by the shipped job of SLURM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT
from tests.hybridpt.test_distributed_cli import alone, config, pytestmark  # noqa: F401

MULTI_NODE = "configs/trainer/multi_node.yaml"
JOB = "4242"
SRUN = """#!/bin/bash
# Two tasks, one on each of two machines; ends with the worst status of both.
pids=()
for task in 0 1; do
    SLURM_NNODES=2 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=1 SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 "$@" &
    pids+=($!)
done
worst=0
for pid in "${pids[@]}"; do
    wait "$pid"
    status=$?
    [ "$status" -gt "$worst" ] && worst=$status
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> asked
"""


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The project's own, but for the processor, in a folder to start from."""
    body = yaml.safe_load((ROOT / MULTI_NODE).read_text(encoding="utf-8"))
    body["trainer"] |= {"accelerator": "cpu", "devices": 1, "precision": "32-true", "sync_batchnorm": False}
    path = tmp_path / MULTI_NODE
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    loopback = {} if sys.platform == "darwin" else {"GLOO_SOCKET_IFNAME": "lo"}
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "PATH": path,
        **loopback,
        **more,
    }


def same(folder: Path, expected: Path) -> None:
    """The losses of one process with the joint batch, each logged once."""
    parts = [pd.read_csv(path) for path in (folder / "metrics_1.csv", folder / "metrics.csv") if path.exists()]
    got, wanted = pd.concat(parts, ignore_index=True), pd.read_csv(expected / "metrics.csv")
    columns = [name for name in wanted if name.split("/")[0] in ("epoch", "step", "train", "val")]
    assert "val/clip/contrast" in columns
    pd.testing.assert_frame_equal(got[columns], wanted[columns], check_dtype=False, atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_torchrun_on_two_machines_trains_as_one_process(config: Path, alone: Path, overlay: Path, tmp_path: Path) -> None:  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ("--master-addr", "127.0.0.1", "--master-port", port, "--no-python", "hybridpt", "fit")
    options = (
        "--config",
        config,
        "--config",
        overlay,
        "--wandb.mode",
        "disabled",
        "--trainer.default_root_dir",
        tmp_path / "run",
    )
    machines = []
    for node in (0, 1):
        words = ("torchrun", "--nnodes", 2, "--nproc-per-node", 1, "--node-rank", node, *meeting, *options)
        machines.append(subprocess.Popen([*map(str, words)], env=environment(), text=True, stderr=subprocess.PIPE))
    said = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "sync_dist" not in said[0]
    same(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the job is a script of bash")
def test_a_job_of_slurm_asks_to_be_requeued_and_goes_on(config: Path, alone: Path, overlay: Path, tmp_path: Path) -> None:  # noqa: F811
    """With commands of SLURM's names in the place of its own: a signal stops the first run, and the second is given the same words."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(script, encoding="utf-8")
        (tools / name).chmod(0o755)
    body = yaml.safe_load(config.read_text(encoding="utf-8"))
    stops = [*(body["trainer"].get("callbacks") or []), {"class_path": "tests.hybridpt.test_distributed_cli.Stop"}]
    given = tmp_path / "given.yaml"
    slurm = environment(SLURM_JOB_ID=JOB, SLURM_JOB_NAME="fit", SLURM_NODELIST="127.0.0.1")
    slurm["PATH"] = os.pathsep.join([str(tools), slurm["PATH"]])
    words = ["bash", str(ROOT / "configs/slurm/fit.sbatch"), str(given), str(tmp_path / "run")]
    for callbacks, status in ((stops, 143), ([], 0)):
        given.write_text(yaml.safe_dump({**body, "trainer": {**body["trainer"], "callbacks": callbacks}}), encoding="utf-8")
        done = subprocess.run(words, cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == status, done.stderr
    assert (tmp_path / "asked").read_text(encoding="utf-8") == f"requeue {JOB}\n"
    same(tmp_path / "run", alone)
