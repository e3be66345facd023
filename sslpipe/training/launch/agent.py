"""Starts the processes of a training on this machine by torchrun's own agent, and speaks for them."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic import rendezvous
from torch.distributed.elastic.agent.server import WorkerSpec
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from sslpipe.console.errors import UserError
from sslpipe.core.threads import cores
from sslpipe.training.core import plan
from sslpipe.training.core.config import Config
from sslpipe.training.core.guards import handled
from sslpipe.training.core.messages import LAUNCHED, LAUNCHER, raise_if_ended, told

PATIENCE = 5.0  # seconds after a first signal in which others change nothing; a later one ends all at once
_CUT_OFF = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo's words


def run(config: Config, module: str) -> None:
    """Train by `plan.processes(config)` processes here, `python -m module` each, and those of other machines, if any.

    Raises:
        UserError: a process failed, in its own words; or other machines did not come, or were lost.
        SystemExit: a signal came, and all have saved; the code is 128 + its number.
    """
    count, machines = plan.processes(config), plan.nodes(config)
    plan.check_shares(config, count * machines)
    place = _Place("127.0.0.1:0", "127.0.0.1", host=True)
    if machines > 1:
        place = _Place.of(plan.endpoint(config))
        print(f"pretrain: waiting for {machines} machines at {place.endpoint}", flush=True)
    seconds = str(config.cluster.wait_seconds)
    parameters = rendezvous.RendezvousParameters(
        backend="c10d", endpoint=place.endpoint, run_id="sslpipe", min_nodes=machines, max_nodes=machines,
        local_addr=place.address, is_host=str(place.host), join_timeout=seconds, read_timeout=seconds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sslpipe-") as name, _environment(place, name, count):
        folder = Path(name)
        handler = agent = None
        try:
            handler = get_rendezvous_handler(parameters)
            spec = WorkerSpec(
                role="pretrain", local_world_size=count, rdzv_handler=handler, entrypoint=sys.executable,
                args=("-m", module), max_restarts=config.cluster.restarts, local_addr=place.address,
            )  # fmt: skip
            agent = Agent(spec, folder, place)
            result = agent.run()
        except (rendezvous.RendezvousError, DistError) as error:
            raise _lost(error, config, folder, place, agent is not None and agent.started) from error
        finally:
            if handler is not None:
                with contextlib.suppress(Exception):  # the store may be gone with its machine
                    handler.shutdown()
        raise_if_ended(folder, agent.received)
        if result is None or result.is_failed():
            what = "the processes ended early" if result is None else _describe(result, trace=True)
            raise UserError(f"{what}; {_where(folder)}")


class Agent(LocalElasticAgent):
    """torchrun's agent, but it does not start processes again that ended on purpose, as they say in `folder`."""

    def __init__(self, spec: WorkerSpec, folder: Path, place: _Place) -> None:
        logs = DefaultLogsSpecs(log_dir=str(folder / "logs"))
        super().__init__(spec, logs, exit_barrier_timeout=60)
        self.received: signal.Signals | None = None
        self.started = False
        self._folder, self._place, self._first_signal = folder, place, 0.0

    def run(self, role: str = "pretrain") -> RunResult:
        """Start the processes and wait for them; signals are theirs."""
        with handled(self._pass_on):
            return super().run(role)

    def _assign_worker_ranks(
        self, store: Any, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Any]:
        """As torch's, but the first ranks are of the machine where all meet: it runs dvc, and writes the results.

        The store is another one at each start, so what is in it is of this start.
        """
        if self._place.host:
            store.set("sslpipe/host", str(group_rank))
            store.set("sslpipe/first", f"{self._place.address}:{_free_port(self._place.address)}")
        moved = (group_rank - int(store.get("sslpipe/host"))) % group_world_size
        return super()._assign_worker_ranks(store, moved, group_world_size, spec)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        store: Any = worker_group.store
        address, _, port = store.get("sslpipe/first").decode().rpartition(":")
        group: Any = worker_group  # torch says that these are None
        group.master_addr, group.master_port = address, int(port)
        self.started = True
        return super()._start_workers(worker_group)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.state is WorkerState.FAILED:
            if self.received or told(self._folder, "outcome"):
                self._remaining_restarts = 0
            elif self._remaining_restarts:
                most = worker_group.spec.max_restarts
                number = f"{most - self._remaining_restarts + 1} of {most}"
                again = f"all start again from the newest checkpoint ({number})"
                print(f"pretrain: {_describe(result)}; {again}", file=sys.stderr)
        return result

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._first_signal = signal.Signals(number), now
        elif now - self._first_signal > PATIENCE:
            raise SystemExit(128 + number)
        reached = False
        for pid in self._pcontext.pids().values() if self._pcontext else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                reached = True
        if not reached:
            raise SystemExit(128 + number)


@dataclass(frozen=True)
class _Place:
    """This machine among those that train."""

    endpoint: str  # where they meet
    address: str  # this machine's, by which it reaches the endpoint
    host: bool  # whether the endpoint is here

    @classmethod
    def of(cls, endpoint: str) -> _Place:
        """This machine, by what its routes say; a UserError if none leads to the endpoint, or its name is unknown."""
        name, _, port = endpoint.rpartition(":")
        try:
            there = socket.gethostbyname(name)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((there, int(port)))  # sends nothing
                address = probe.getsockname()[0]
        except OSError as error:
            raise UserError(
                f"pretrain.cluster.endpoint is {endpoint}, which cannot be reached from here "
                f"({error.strerror or error}): give the name or address of the machine that runs dvc"
            ) from error
        return cls(endpoint, address, host=address == there)

    @property
    def interface(self) -> str | None:
        """The name of the network interface that has the address."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):  # one without an address
                    request = struct.pack("256s", name.encode()[:15])
                    answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                    if socket.inet_ntoa(answer[20:24]) == self.address:
                        return name
        return None


@contextlib.contextmanager
def _environment(place: _Place, folder: str, count: int) -> Iterator[None]:
    """What the processes inherit; and torch's remarks on what is said here in a sentence are not shown."""
    settings = {
        LAUNCHED: folder,
        LAUNCHER: str(os.getpid()),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT",  # the others are for the processes
        # A store that agents keep through restarts is not found by a machine that comes back (torch 2.15).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    wishes = {
        "OMP_NUM_THREADS": str(max(1, cores() // count)),
        "GLOO_SOCKET_IFNAME": place.interface,
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    settings |= {name: value for name, value in wishes.items() if value and name not in os.environ}
    before = dict(os.environ)
    os.environ.update(settings)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.clear()
        os.environ.update(before)


def _describe(result: RunResult, *, trace: bool = False) -> str:
    """Which process failed, and how: one that was killed is named before those that only missed it."""

    def blame(failed: tuple[int, ProcessFailure]) -> tuple[int, int]:
        code = failed[1].exitcode
        # SIGTERM is what the agent itself sends to the rest once one has failed.
        return 2 if code == -signal.SIGTERM else int(code >= 0), failed[1].timestamp

    rank, failure = min(result.failures.items(), key=blame)
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = " (is there enough memory?)" if name == "SIGKILL" else ""
        return f"process {rank} was killed by {name}{hint}"
    text, stack = _error(failure)
    if any(words in text for words in _CUT_OFF):
        return f"process {rank} lost its connection to another"
    if trace and stack:
        print(stack, file=sys.stderr, flush=True)
    return f"process {rank} failed: {text}"


def _error(failure: ProcessFailure) -> tuple[str, str]:
    """What a process said, in a line, and its traceback."""
    data = failure.error_file_data.get("message") if failure.error_file_data else None
    if not isinstance(data, dict):
        return f"exit code {failure.exitcode}", ""
    return str(data["message"]).splitlines()[0][:300], data.get("extraInfo", {}).get("py_callstack", "")


def _lost(error: Exception, config: Config, folder: Path, place: _Place, started: bool) -> UserError:
    machines, seconds = plan.nodes(config), config.cluster.wait_seconds
    if isinstance(error, rendezvous.RendezvousClosedError):
        return UserError(
            f"another of the {machines} machines ended, and its output says why; {_where(folder)}"
        )
    if not started:
        return UserError(
            f"{machines} machines were to meet at {place.endpoint} and did not within {seconds} seconds: "
            "start the same command on all of them, and see that they reach that port"
        )
    what = f"it held {place.endpoint}, where all meet"
    if isinstance(error, rendezvous.RendezvousTimeoutError):
        what = f"it did not come back within {seconds} seconds"
    return UserError(f"lost another of the {machines} machines, {what}; {_where(folder)}")


def _where(folder: Path) -> str:
    """Where the next run will go on."""
    run = told(folder, "run")
    newest = max(Path(run["folder"]).glob("[0-9]*-*.safetensors"), default=None) if run else None
    step = f"it goes on from step {int(newest.name.partition('-')[0])}" if newest else "nothing was saved yet"
    return f"start again, {step}"


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
