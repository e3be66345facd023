"""torchrun's agent as it is used here, with processes that stand for a training and need no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow

#: What each process does at its n-th start: the n-th word of `todo<rank>`, of which the last one holds.
STAND_IN = """
import os, signal, sys, time
from sslpipe.training.core.messages import tell
rank = os.environ["RANK"]
with open(f"started{rank}", "a+") as file:
    file.write("x")
    file.flush()
    start = file.tell()
words = open(f"todo{rank}").read().split()
word = words[min(start, len(words)) - 1]
tell("run", folder=".")
print(f"rank {rank} {word} {os.environ['MASTER_PORT']}\\n", end="", flush=True)
if word == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "crash":
    sys.exit(3)
if word == "fail":
    tell("outcome", failed="the disk is full")
    open("failed", "w").close()
    sys.exit(1)
def stop(number, frame):
    print(f"rank {rank} got {signal.Signals(number).name}\\n", end="", flush=True)
    tell("outcome", stopped=int(number))
    sys.exit(0)
if word == "lose":
    while not os.path.exists("failed"):
        time.sleep(0.05)
    time.sleep(3)
    sys.exit(3)
if word == "idle":
    time.sleep(60)
if word == "wait":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, stop)
    open(f"ready{rank}-{start}", "w").close()
    time.sleep(60)
if word == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    open(f"ready{rank}-{start}", "w").close()
    time.sleep(60)
"""
LAUNCHER = """
import json, sys
from sslpipe.console.errors import UserError
from sslpipe.training.launch import agent
from sslpipe.training.core.config import Config
agent.PATIENCE = 0.5
try:
    agent.run(Config.parse(json.loads(sys.argv[1])), "stand_in")
except UserError as error:
    print("failed:", error, flush=True)
    sys.exit(1)
print("done", flush=True)
"""


class Machine:
    """Starts the processes of a training in a folder."""

    def __init__(self, folder: Path) -> None:
        (folder / "stand_in.py").write_text(STAND_IN)
        (folder / "launcher.py").write_text(LAUNCHER)
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def todo(self, *words: str) -> None:
        for rank, each in enumerate(words):
            (self.folder / f"todo{rank}").write_text(each)

    def start(self, settings: str, *before: str) -> subprocess.Popen[str]:
        unset = ("RANK", "WORLD_SIZE", "PET_NNODES", "PET_RDZV_ENDPOINT", "MASTER_ADDR", "MASTER_PORT")
        environment = {key: value for key, value in os.environ.items() if key not in unset}
        process = subprocess.Popen(
            [*before, sys.executable, "launcher.py", settings], cwd=self.folder, text=True, start_new_session=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(["", *sys.path])},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            if process.poll() is None:
                kill(process)

    def run(self, settings: str) -> tuple[int, str]:
        process = self.start(settings)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def starts(self, rank: int) -> int:
        file = self.folder / f"started{rank}"
        return len(file.read_text()) if file.exists() else 0

    def wait(self, name: str, process: subprocess.Popen[str]) -> None:
        self.wait_until((self.folder / name).exists, process)

    def wait_until(self, ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 60
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.end()


TWO = '{"devices": 2, "device": "cpu", "cluster": {"restarts": 2}}'


def test_processes_that_die_are_started_again_and_meet_at_another_place(machine: Machine) -> None:
    machine.todo("do", "die crash do")
    code, output = machine.run(TWO)
    assert code == 0, output
    assert "process 1 was killed by SIGKILL" in output
    assert "process 1 failed: exit code 3; all start again from the newest checkpoint (2 of 2)" in output
    places = {line.split()[3] for line in output.splitlines() if line.startswith("rank 1")}
    assert len(places) == 3


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({0: -15, 1: 3}, "process 1 failed: exit code 3"),  # the agent ended the other
        ({0: 1, 1: -9}, "process 1 was killed by SIGKILL (is there enough memory?)"),
        ({0: -15, 1: -9}, "process 1 was killed by SIGKILL (is there enough memory?)"),
        ({0: -15}, "process 0 was killed by SIGTERM"),
    ],
)
def test_the_process_that_began_it_is_named(codes: dict[int, int], said: str) -> None:
    failures = {
        rank: SimpleNamespace(exitcode=code, timestamp=rank, error_file_data=None)
        for rank, code in codes.items()
    }
    from sslpipe.training.launch import agent

    assert agent._describe(SimpleNamespace(failures=failures)) == said  # type: ignore[arg-type]


def test_after_the_last_restart_it_says_which_one_died(machine: Machine) -> None:
    machine.todo("idle", "die")
    code, output = machine.run(TWO)
    assert code == 1
    assert output.splitlines()[-1] == (
        "failed: process 1 was killed by SIGKILL (is there enough memory?); start again, nothing was saved yet"
    )
    assert machine.starts(1) == 3


def test_a_failure_for_the_user_is_not_tried_again(machine: Machine) -> None:
    machine.todo("idle", "fail")
    code, output = machine.run(TWO)
    assert (code, output.splitlines()[-1]) == (1, "failed: the disk is full")
    assert machine.starts(0) == machine.starts(1) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_all_processes_and_give_the_exit_code(machine: Machine, number: signal.Signals) -> None:
    machine.todo("wait", "wait")
    process = machine.start(TWO)
    for rank in range(2):
        machine.wait(f"ready{rank}-1", process)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    for rank in range(2):
        assert f"rank {rank} got {number.name}" in output
        assert machine.starts(rank) == 1


def test_a_signal_to_one_process_stops_all_of_them_for_good(machine: Machine) -> None:
    machine.todo("do", "wait")  # the others stop since processes agree, which is the training's own business
    process = machine.start(TWO)
    machine.wait("ready1-1", process)
    machine.wait_until(lambda: len(children(process.pid)) == 1, process)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert machine.starts(1) == 1


def test_a_later_signal_ends_processes_that_do_not_listen(machine: Machine) -> None:
    machine.todo("deaf", "deaf")
    process = machine.start(TWO)
    for rank in range(2):
        machine.wait(f"ready{rank}-1", process)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.8)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT


def children(pid: int) -> list[int]:
    """The processes that it started and that run."""
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if ") Z " not in Path(f"/proc/{child}/stat").read_text()]


def kill(process: subprocess.Popen[str]) -> None:
    """The machine is gone."""
    for pid in [process.pid, *children(process.pid)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def cluster(address: str, wait: int) -> str:
    return (
        '{"devices": 1, "device": "cpu", "batch_size": 16, '
        f'"cluster": {{"nodes": 2, "endpoint": "{address}:29512", "wait_seconds": {wait}}}}}'
    )


def test_a_machine_that_comes_back_is_taken_in_and_one_that_ends_is_named(
    machine: Machine, hosts: Any
) -> None:
    first, second, address = hosts
    settings = cluster(address, 60)
    machine.todo("wait lose", "wait fail")
    one, other = machine.start(settings, *first), machine.start(settings, *second)
    for rank in range(2):
        machine.wait(f"ready{rank}-1", one)
    kill(other)
    os.kill(children(one.pid)[0], signal.SIGKILL)  # a training ends by itself when it loses others
    other = machine.start(settings, *second)
    output, _ = other.communicate(timeout=90)
    assert (other.returncode, output.splitlines()[-1]) == (1, "failed: the disk is full")
    output, _ = one.communicate(timeout=90)
    assert one.returncode == 1
    assert "failed: another of the 2 machines ended, and its output says why; start again" in output


def test_without_the_machine_where_all_meet_the_others_end_at_once(machine: Machine, hosts: Any) -> None:
    first, second, address = hosts
    settings = cluster(address, 60)
    machine.todo("wait", "wait")
    one, other = machine.start(settings, *first), machine.start(settings, *second)
    for rank in range(2):
        machine.wait(f"ready{rank}-1", one)
    began = time.monotonic()
    kill(one)
    output, _ = other.communicate(timeout=90)
    assert time.monotonic() - began < 45
    assert other.returncode == 1
    assert f"failed: lost another of the 2 machines, it held {address}:29512, where all meet" in output


def test_machines_that_do_not_come_are_not_waited_for_for_ever(machine: Machine, hosts: Any) -> None:
    first, _, address = hosts
    machine.todo("wait", "wait")
    process = machine.start(cluster(address, 2), *first)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"2 machines were to meet at {address}:29512 and did not within 2 seconds" in output
