"""Jobs by submitit: really run on this machine by its local executor; for Slurm, the script that would be submitted."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sslpipe.console.errors import UserError
from sslpipe.training.core.config import Config
from sslpipe.training.launch import slurm

pytestmark = pytest.mark.slow

submitit: Any = pytest.importorskip(
    "submitit", reason="jobs of Slurm need submitit: pip install 'sslpipe[slurm]'"
)

#: Stands for the stage: it does what its argument in the environment says, and leaves word as the stage does.
STAGE = """
import json, os, signal, sys, time
from sslpipe.training.core.messages import tell
rank = int(os.environ["RANK"])
print("rank", rank, "of", os.environ["WORLD_SIZE"], flush=True)
todo = open("todo").read().split()
if rank == 0:
    open("attempts", "a").write("x")
if todo[0] == "die" and os.path.getsize("attempts") < 2:
    time.sleep(.5)
    sys.exit(3)
if todo[0] == "fail":
    tell("outcome", failed="the disk is full")
    sys.exit(1)
if todo[0] == "wait":
    def stop(number, frame):
        tell("outcome", stopped=number)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, stop)
    open(f"ready{rank}", "w").close()
    time.sleep(60)
if rank == 0:
    tell("outcome", done=True)
"""


@pytest.fixture
def work(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (project / "stand_in.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *sys.path]))
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return project


def config(**cluster: Any) -> Config:
    return Config.parse(
        {"launch": "slurm", "devices": 2, "device": "cpu", "cluster": {"restarts": 1, **cluster}}
    )


def run(project: Path, todo: str, **cluster: Any) -> None:
    (project / "todo").write_text(todo)
    slurm.run(config(**cluster), "stand_in", submitit.AutoExecutor(project / "jobs", cluster="local"))


def test_a_job_runs_all_processes_and_shows_the_first_ones_output(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(work, "do")
    said = capfd.readouterr().out
    assert "rank 0 of 2" in said
    assert "rank 1" not in said
    (other,) = work.glob(".sslpipe/slurm/*/output-1.log")
    assert "rank 1 of 2" in other.read_text()


def test_a_job_that_dies_is_submitted_again_and_one_that_fails_is_not(
    work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(work, "die")
    assert "died, 1 more are tried" in capfd.readouterr().err
    assert (work / "attempts").read_text() == "xx"
    with pytest.raises(UserError, match=r"^the disk is full$"):
        run(work, "fail")
    assert (work / "attempts").read_text() == "xxx"


def test_a_signal_stops_the_job_after_it_has_saved(work: Path) -> None:
    def stop() -> None:
        end = time.monotonic() + 60
        while not (work / "ready0").exists() and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as caught:
        run(work, "wait")
    thread.join()
    assert caught.value.code == 128 + signal.SIGTERM
    assert (work / "attempts").read_text() == "x"


def test_what_would_be_submitted_to_slurm(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = work / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        program = programs / name
        program.write_text(f'#!/bin/sh\ncp "$1" {work}/submitted.sh\necho Submitted batch job 7\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    settings = Config.parse({
        "launch": "slurm",
        "devices": 8,
        "cluster": {
            "nodes": 2, "partition": "gpu", "account": "us", "hours": 1.5, "cpus": 6, "memory_gb": 100,
            "sbatch": {"reservation": "ours"},
        },
    })  # fmt: skip
    executor = slurm._slurm(work / "jobs")
    executor.update_parameters(**slurm.parameters(settings))
    assert executor.submit(slurm.Task("stand_in", "jobs")).job_id == "7"
    lines = (work / "submitted.sh").read_text().splitlines()
    for option in (
        "nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=6", "mem=100GB", "time=90", "partition=gpu",
        "account=us", "signal=USR2@120", "reservation=ours", "job-name=sslpipe",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines
    (command,) = [line for line in lines if line.startswith("srun")]
    assert "--kill-on-bad-exit=1" in command
    assert "-m submitit.core._submit" in command


def test_without_slurm_it_says_so(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(work))
    with pytest.raises(UserError, match="there is no `srun` here"):
        slurm.run(config(), "stand_in")


def test_a_task_whose_time_is_up_lets_its_process_save_and_asks_for_the_same_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    (work / "todo").write_text("wait")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("SSLPIPE_LAUNCHED", str(work))
    task = slurm.Task("stand_in", str(work))
    task.process = subprocess.Popen([sys.executable, "-m", "stand_in"])
    end = time.monotonic() + 60
    while not (work / "ready1").exists() and time.monotonic() < end:
        time.sleep(0.05)
    again = task.checkpoint()
    assert task.process.poll() == 0
    assert (again.function.module, again.function.folder) == ("stand_in", str(work))
    assert again.function.process is None  # it can be pickled
