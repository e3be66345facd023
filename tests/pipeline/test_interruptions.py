"""Killed at any moment, the next `dvc repro` goes on and ends with the same weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from dvc_project import Project, end_group

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]


def wait_for(condition: object, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def stage_pid(folder: Path, stage: str) -> int | None:
    """The process of the stage itself; a shell that holds the same words in one argument is another."""
    found = subprocess.run(
        ["pgrep", "-f", f"python -m stages.{stage}$"], stdout=subprocess.PIPE, text=True
    ).stdout
    for line in found.split():
        process = Path("/proc", line)
        try:
            module = (process / "cmdline").read_bytes().split(b"\0")[1:3] == [
                b"-m",
                f"stages.{stage}".encode(),
            ]
            if module and (process / "cwd").resolve() == folder.resolve():
                return int(line)
        except OSError:
            continue
    return None


def retrain(finished: Project, folder: Path) -> Project:
    """The finished project with its encoder gone and a longer, slower training to be interrupted."""
    project = finished.clone(folder)
    project.set(pretrain__epochs=80)
    return project


@pytest.fixture(scope="module")
def undisturbed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    project = retrain(finished, tmp_path_factory.mktemp("undisturbed") / "project")
    project.repro("pretrain")
    return project.bytes("models/encoder.safetensors")


def test_however_often_it_is_stopped_it_ends_with_the_same_weights(
    finished: Project, undisturbed: bytes, tmp_path: Path
) -> None:
    project = retrain(finished, tmp_path / "project")
    scratch = project.folder / ".sslpipe" / "pretrain"
    seen: set[str] = set()

    def start_and_wait() -> tuple[subprocess.Popen[str], int]:
        """Start, and return with the stage's process once it has saved something new."""
        seen.update(f.name for f in scratch.glob("*/00*.safetensors"))
        running = project.start("dvc", "repro", "pretrain")
        wait_for(lambda: {f.name for f in scratch.glob("*/00*.safetensors")} - seen)
        pid = stage_pid(project.folder, "pretrain")
        assert pid is not None
        return running, pid

    running, pid = start_and_wait()  # the stage is killed outright
    os.kill(pid, signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert not (project.folder / "models/encoder.safetensors").exists()

    running, pid = start_and_wait()  # the stage is asked to end: it saves first
    os.kill(pid, signal.SIGTERM)
    output, _ = running.communicate(timeout=60)
    assert "continuing from the checkpoint at step" in output
    assert "saved; `dvc repro` goes on from there" in output
    assert "exited with 143" in output

    running, pid = start_and_wait()  # dvc alone is killed: its stage must not train on
    running.kill()
    wait_for(lambda: stage_pid(project.folder, "pretrain") is None, seconds=30)
    assert not (project.folder / "models/encoder.safetensors").exists()  # it stopped, it did not finish
    assert list(scratch.glob("*/00*.safetensors"))
    end_group(running)

    running, pid = start_and_wait()  # Ctrl-C, as a terminal sends it
    os.killpg(running.pid, signal.SIGINT)
    output, _ = running.communicate(timeout=60)
    assert "saved; `dvc repro` goes on from there" in output
    assert "Traceback" not in output

    draw = random.Random(0)
    for _ in range(2):  # and outright again, at whatever it is doing; tests/crash does it often
        running, pid = start_and_wait()
        time.sleep(draw.uniform(0, 0.5))
        if draw.random() < 0.5:
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate(timeout=60)
        assert not (project.folder / "models/encoder.safetensors").exists()

    assert "continuing from the checkpoint at step" in project.repro("pretrain")
    assert project.bytes("models/encoder.safetensors") == undisturbed
    assert "resumed" in project.json("runs/pretrain.json")["tags"]


def test_other_settings_start_over_and_say_why_and_force_really_trains_again(
    finished: Project, tmp_path: Path
) -> None:
    project = retrain(finished, tmp_path / "project")
    running = project.start("dvc", "repro", "pretrain")
    scratch = project.folder / ".sslpipe" / "pretrain"
    wait_for(lambda: list(scratch.glob("*/00*.safetensors")))
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    project.set(pretrain__epochs=1)
    output = project.repro("pretrain")
    assert "starting over; the unfinished run differs in pretrain.epochs (80 → 1)\n" in output
    before, run = project.bytes("models/encoder.safetensors"), project.json("runs/pretrain.json")["id"]
    assert "training anew; the finished run differs in nothing" in project.repro("-f", "-s", "pretrain")
    assert project.json("runs/pretrain.json")["id"] != run
    assert project.bytes("models/encoder.safetensors") == before
    project.set(methods__simclr__temperature=0.3, views__recipe__rotation=5.0)
    said = project.repro("pretrain")
    assert "training anew; the finished run differs in methods.simclr.temperature (0.1 → 0.3)" in said
    assert "rotation (10 → 5)" in said


def test_sharding_goes_on_with_the_shards_it_has(finished: Project, tmp_path: Path) -> None:
    project, other = finished.clone(tmp_path / "project"), finished.clone(tmp_path / "other")
    for each in (project, other):
        each.set(shard__shard_size=1)
    other.repro("shard")
    running = project.start("dvc", "repro", "shard")
    reports = project.folder / ".sslpipe" / "shard"
    wait_for(lambda: len(list(reports.glob("*/*/*.npz"))) > 5)
    pid = stage_pid(project.folder, "shard")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert not (project.folder / "data/shards/manifest.json").exists()
    kept = len(list(reports.glob("*/*/*.npz")))
    output = project.repro("shard")
    assert f"shard: going on, {kept} shards are finished" in output
    assert project.bytes("data/shards/manifest.json") == other.bytes("data/shards/manifest.json")
    assert not list(reports.iterdir())
