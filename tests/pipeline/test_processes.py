"""The stage `pretrain` by two processes: on one machine, on two, killed, stopped, and without one of the machines."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dvc_project import ROOT, TINY, _digits
from safetensors.torch import load_file

from sslpipe.settings import load
from sslpipe.training.core.build import build_recipe

pytestmark = pytest.mark.slow

#: Rates at which rounding does not grow to something else within a few steps.
STEADY = {"name": "sgd", "lr": 0.003, "rule": "absolute", "momentum": 0.0, "warmup_epochs": 0, "clip": 1.0}
EPOCHS = {"moco": 8}
STEPS = 8 * 5  # of moco
PRETRAIN = {"batch_size": 16, "epochs": 2, "log_every": 1, "checkpoint_seconds": 0, "precision": "fp32"}


class Work:
    """A folder in which the stage can run, and what a user does in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "PYTEST_"))},
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
            "DVC_ROOT": str(folder),
        }

    def set(self, **changes: Any) -> None:
        """Change the section `pretrain`."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        params["pretrain"] |= changes
        path.write_text(yaml.safe_dump(params))

    def start(self, *before: str) -> Running:
        """Start the stage, by a command that comes before it."""
        return Running([*before, sys.executable, "-m", "stages.pretrain"], self.folder, self.environment)

    @property
    def weights(self) -> bytes:
        return (self.folder / "models/encoder.safetensors").read_bytes()

    @property
    def losses(self) -> torch.Tensor:
        with (self.folder / "plots/pretrain/curves.csv").open() as file:
            return torch.tensor([float(row["loss"]) for row in csv.DictReader(file)])

    def record(self) -> Any:
        return json.loads((self.folder / "runs/pretrain.json").read_text())

    def checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob(".sslpipe/pretrain/*/0*.safetensors"))

    @property
    def newest(self) -> int:
        """The step of the newest checkpoint."""
        return max(map(step, self.checkpoints()))

    def wait_for_checkpoint(self, running: Running, after: int = 0) -> None:
        """Wait until training has saved a step later than this one."""
        wait_for(lambda: any(step(file) > after for file in self.checkpoints()), running)


class Running:
    """A started stage, whose output is kept."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Its exit code, and what it said."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, output

    def workers(self) -> list[int]:
        """The processes it started, by rank."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    environment = (process / "environ").read_bytes().split(b"\0")
                    (rank,) = [line[5:] for line in environment if line.startswith(b"RANK=")]
                    found[int(rank)] = int(process.name)
        return [found[rank] for rank in sorted(found)]

    def kill(self) -> None:
        """Kill it and what it started, outright and all at once."""
        for pid in [self.process.pid, *self.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def step(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[0])


def wait_for(condition: Callable[[], object], running: Running) -> None:
    def ready() -> object:
        assert running.process.poll() is None, running.end()
        return condition()

    wait_until(ready)


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def alive(pids: list[int]) -> list[int]:
    """Those of these processes that run."""
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first two stages."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(ROOT / "dvc.yaml", folder)
    for name in (
        "stages",
        "sslpipe",
    ):  # what the stages' digests are of; their code comes from where these tests are
        (folder / name).symlink_to(ROOT / name)
    _digits(folder / "data" / "raw" / "digits")
    params = copy.deepcopy(TINY)
    params["pretrain"] |= PRETRAIN
    params["tracking"]["enabled"] = False
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run = "import stages.source, stages.shard; stages.source.main(); stages.shard.main()"
    subprocess.run(
        [sys.executable, "-c", run], cwd=folder, env=Work(folder).environment, check=True, capture_output=True
    )
    return folder


def prepared(data: Path, folder: Path, method: str, **settings: Any) -> Work:
    """A project in which `pretrain` is the next stage."""
    from sslpipe.shards import manifest as manifests

    shutil.copytree(data, folder, symlinks=True)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["pretrain"] |= {"method": method, "epochs": EPOCHS.get(method, 2), **settings}
    params["methods"][method] = {**(params["methods"][method] or {}), "optimizer": STEADY}
    if method == "moco":
        params["methods"][method] |= {"shuffle": False, "queue": 32}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    loaded = load(folder / "params.yaml")
    manifest = manifests.read(folder / "data/shards")
    recipe = build_recipe(
        loaded.pretrain, loaded.method, loaded.views, manifest.recipe, **manifest.statistics.model_dump()
    )
    (folder / "data/views").mkdir()
    (folder / "data/views/recipe.json").write_text(recipe.to_json())
    return Work(folder)


METHODS = (
    "simclr",
    "moco",
    "swav",
    "mae",
    "beit",
)  # contrastive, with a queue, clustering, masked; one that prepares


@pytest.fixture(scope="module")
def alone_and_joined(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Work, Work]]:
    """Each method by one process, and by two that were started outside, as torchrun or srun do."""
    base = tmp_path_factory.mktemp("joined")
    pairs = {
        name: tuple(prepared(data, base / f"{name}-{kind}", name, epochs=2) for kind in ("alone", "joined"))
        for name in METHODS
    }
    pairs["mae"][1].set(sharding="fsdp")
    script = ROOT / "tests" / "stage_processes.py"
    folders = [str(joined.folder) for _, joined in pairs.values()]
    environment = pairs["simclr"][0].environment
    both = subprocess.Popen(
        [sys.executable, str(script), str(free_port()), *folders],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    run = """
import os, sys, stages.pretrain
for folder in sys.argv[1:]:
    os.chdir(folder)
    os.environ["DVC_ROOT"] = folder
    stages.pretrain.main()
"""
    folders = [str(alone.folder) for alone, _ in pairs.values()]
    subprocess.run([sys.executable, "-c", run, *folders], env=environment, check=True, timeout=300)
    said, _ = both.communicate(timeout=300)
    assert both.returncode == 0
    assert said.count("words in use") == 1  # BEiT's tokenizer was trained by the process that speaks
    return pairs  # type: ignore[return-value]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_what_one_gives(
    alone_and_joined: dict[str, tuple[Work, Work]], method: str
) -> None:
    alone, joined = alone_and_joined[method]
    torch.testing.assert_close(joined.losses, alone.losses, rtol=1e-4, atol=1e-5)
    expected, found = (load_file(work.folder / "models/encoder.safetensors") for work in (alone, joined))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (found[name] - value).double().norm() <= 1e-3 * value.double().norm() + 1e-4, name
    assert joined.record()["tags"]["processes"] == "2"
    assert len(list(joined.folder.glob(".sslpipe/runs/*-pretrain-*"))) == 1  # one process records
    assert joined.record()["result"]["metrics"]["steps"] == 2 * 5
    assert not joined.checkpoints()


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Two processes that the stage starts by itself."""
    work = prepared(data, tmp_path_factory.mktemp("undisturbed") / "project", "moco", devices=2)
    code, output = work.start().end()
    assert code == 0, output
    assert output.count(f"{STEPS}/{STEPS} steps") == 1  # one process shows its progress
    assert "Warning" not in output
    return work


def test_the_stage_starts_its_processes(undisturbed: Work) -> None:
    assert undisturbed.record()["tags"]["processes"] == "2"
    assert len(undisturbed.losses) == STEPS
    assert not undisturbed.checkpoints()


def test_killed_and_stopped_it_ends_with_the_same_weights(
    data: Path, undisturbed: Work, tmp_path: Path
) -> None:
    work = prepared(data, tmp_path / "project", "moco", devices=2)
    running = work.start()
    work.wait_for_checkpoint(running, after=6)
    first = running.workers()
    os.kill(first[1], signal.SIGKILL)  # in the middle of an epoch
    wait_for(lambda: len(running.workers()) == 2 and not set(first) & set(running.workers()), running)
    second = running.workers()
    work.wait_for_checkpoint(running, after=work.newest + 2)
    os.kill(running.process.pid, signal.SIGTERM)
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output
    assert "process 1 was killed by SIGKILL" in output
    assert output.count("all start again from the newest checkpoint (1 of 3)") == 1
    assert output.count("continuing from the checkpoint at step") == 1
    assert output.count("saved; `dvc repro` goes on from there") == 1
    assert "Traceback" not in output
    assert not alive(second)
    assert not (work.folder / "models").exists()

    stopped = work.newest
    running = work.start()
    work.wait_for_checkpoint(running, after=stopped + 2)
    workers = running.workers()
    running.process.kill()  # those that it started must not train on
    wait_until(lambda: not alive(workers))
    running.end()
    assert work.newest > stopped
    assert not (work.folder / "models").exists()

    code, output = work.start().end()
    assert code == 0, output
    assert work.weights == undisturbed.weights
    assert torch.equal(work.losses, undisturbed.losses)
    assert len([row for row in work.record()["metrics"] if row[0] == "loss"]) == STEPS


def test_what_only_a_user_can_mend_is_one_sentence_and_is_not_tried_again(data: Path, tmp_path: Path) -> None:
    work = prepared(data, tmp_path / "project", "moco", devices=2)
    shards = work.folder / "data/shards/train/train-000000.tar"
    content = bytearray(shards.read_bytes())
    content[2000] ^= 1
    shards.write_bytes(content)
    code, output = work.start().end()
    assert code == 1
    (line,) = [line for line in output.splitlines() if line.strip()]
    assert line.startswith("pretrain failed: ")
    assert "train-000000.tar" in line


def test_two_hosts_give_what_one_gives_and_the_loss_of_one_is_borne(
    data: Path, undisturbed: Work, hosts: tuple[list[str], list[str], str], tmp_path: Path
) -> None:
    first, second, address = hosts
    cluster = {"nodes": 2, "endpoint": f"{address}:29511", "wait_seconds": 15}
    work = prepared(data, tmp_path / "project", "moco", devices=1, cluster=cluster)

    one, other = work.start(*first), work.start(*second)
    work.wait_for_checkpoint(one, after=6)
    other.kill()  # the host is gone, with all that ran there
    began = time.monotonic()
    code, output = one.end()
    assert time.monotonic() - began < 15 + 40
    assert code == 1, output
    saved, lost = work.newest, output
    assert "process 0 lost its connection to another; all start again" in output
    assert "lost another of the 2 machines, it did not come back within 15 seconds" in output
    assert f"start again, it goes on from step {saved}" in output
    assert "Traceback" not in output
    other.end()

    one, other = work.start(*first), work.start(*second)
    (code, output), (other_code, other_output) = one.end(), other.end()
    if log := os.environ.get("SSLPIPE_TEST_LOG"):  # for the guide
        Path(log).write_text("\n---\n".join([lost, output, other_output]))
    assert code == other_code == 0, output + other_output
    assert f"continuing from the checkpoint at step {saved}" in output  # the first process is where all meet
    assert "steps" not in other_output
    assert work.weights == undisturbed.weights
    assert torch.equal(work.losses, undisturbed.losses)
