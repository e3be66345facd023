"""Trains in a job of Slurm, by submitit: nodes × devices processes, followed from here until the job has ended.

The folder of a job is in the project's scratch, which all its machines must see. What passes between this process and
the job are files in it: the first process's output, word of how it ended, a sign of life, and the wish to stop.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.training.core import plan
from sslpipe.training.core.config import Config
from sslpipe.training.core.messages import LAUNCHED, LAUNCHER, raise_if_ended, told

SIGNAL_SECONDS = 120  # Slurm says so long before a job's time is up that it will be
DEAF = 120.0  # seconds without a sign of life from here after which a job stops
KILL_SECONDS = 120.0  # given to a job to save and stop, before it is cancelled


def run(config: Config, module: str, executor: Any = None) -> None:
    """Train in a job, and return when it has ended well; one that dies is submitted again, `cluster.restarts` times.

    Each process of the job runs `python -m module`. `executor` is submitit's; None: Slurm's.

    Raises:
        UserError: submitit or Slurm is not here, or the job failed; in its own words.
        SystemExit: a signal came, and the job has saved; the code is 128 + its number.
    """
    plan.check_shares(config, plan.world_size(config))
    restarts = config.cluster.restarts
    for attempt in range(restarts + 1):
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = scratch.folder("slurm", name).absolute()
        submitter = _slurm(folder) if executor is None else executor
        submitter.update_parameters(**parameters(config))
        job = submitter.submit(Task(module, str(folder)))
        print(f"pretrain: job {job.job_id}, its logs are in {folder}", flush=True)
        received = _Follower(job, folder).follow()
        if (told(folder, "outcome") or {}).get("done"):
            return
        raise_if_ended(folder, received)
        print(
            f"pretrain: job {job.job_id} died, {restarts - attempt} more are tried; see {folder}",
            file=sys.stderr,
        )
    raise UserError(f"the job died {restarts + 1} times: see the logs in {folder}; start again to go on")


def parameters(config: Config) -> dict[str, Any]:
    """The job, in submitit's words."""
    cluster = config.cluster
    wanted = {
        "name": "sslpipe",
        "nodes": plan.nodes(config),
        "tasks_per_node": plan.slurm_tasks(config),
        "gpus_per_node": None if config.device == "cpu" else plan.slurm_tasks(config),
        "cpus_per_task": cluster.cpus,
        "mem_gb": cluster.memory_gb,
        "timeout_min": int(cluster.hours * 60),
        "slurm_partition": cluster.partition,
        "slurm_account": cluster.account,
        "slurm_signal_delay_s": SIGNAL_SECONDS,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_additional_parameters": cluster.sbatch or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _slurm(folder: Path) -> Any:
    try:
        import submitit  # an optional package
    except ImportError:
        raise UserError(plan.NO_SUBMITIT) from None
    try:
        return submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=1000)
    except RuntimeError:
        raise UserError(
            "pretrain.launch is slurm, and there is no `srun` here: start on a machine of the cluster, or set it to "
            "torchrun"
        ) from None


class Task:
    """What each process of the job does: it runs the stage, and passes on what stops it.

    submitit calls it, and `checkpoint` when the job's time is up: then the job is queued again.
    """

    def __init__(self, module: str, folder: str) -> None:
        self.module, self.folder = module, folder
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the stage to its end."""
        from submitit.helpers import TorchDistributedEnvironment  # optional

        place = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        folder, leader = Path(self.folder), place.rank == 0
        if leader:  # of an earlier time in the queue
            (folder / "outcome.json").unlink(missing_ok=True)
        environment = os.environ | {LAUNCHED: self.folder, LAUNCHER: str(os.getpid())}
        with open(folder / ("output.log" if leader else f"output-{place.rank}.log"), "ab") as output:
            command = [sys.executable, "-m", self.module]
            # Slurm's warning reaches all processes; this one is told by the task.
            ignore = functools.partial(signal.signal, signal.SIGUSR2, signal.SIG_IGN)
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, preexec_fn=ignore
            )
        self._wait(folder)
        if self.process.returncode:
            raise RuntimeError(f"process {place.rank} ended with {self.process.returncode}")

    def checkpoint(self) -> Any:
        """Let all processes save and stop, which takes this one's asking; then the same once more."""
        from submitit.helpers import DelayedSubmission  # optional

        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.8 * SIGNAL_SECONDS)
        return DelayedSubmission(Task(self.module, self.folder))

    def _wait(self, folder: Path) -> None:
        """Wait for the stage; tell it to stop if that is wished, or if who submitted the job is no longer there."""
        assert self.process is not None
        asked, seen, last = False, "", time.monotonic()
        while self.process.poll() is None:
            time.sleep(0.2)
            beat = _read(folder / "alive")
            if beat != seen:
                seen, last = beat, time.monotonic()
            wish = _read(folder / "stop")
            if not asked and (wish or time.monotonic() - last > DEAF):
                asked = True
                self.process.send_signal(int(wish or signal.SIGTERM))


class _Follower:
    """Shows what the first process prints, until the job has ended."""

    def __init__(self, job: Any, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.received, self.since, self.shown = 0, 0.0, 0

    def follow(self) -> int:
        """Returns the number of the signal that came, or 0."""
        # Not at the top: the job's tasks need no torch, which takes seconds.
        from sslpipe.training.core.guards import handled

        with handled(self._note):
            beats = 0
            while not self.job.done():
                beats += 1
                scratch.atomic_write(self.folder / "alive", str(beats), durable=False)
                self._show()
                if self.received and time.monotonic() - self.since > KILL_SECONDS:
                    self.job.cancel(check=False)
                time.sleep(0.5)
            self._show()
        return self.received

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self.since = number, time.monotonic()
            (self.folder / "stop").write_text(str(number))

    def _show(self) -> None:
        try:
            with open(self.folder / "output.log", "rb") as output:
                output.seek(self.shown)
                new = output.read()
        except FileNotFoundError:  # it waits in the queue
            return
        self.shown += len(new)
        print(new.decode(errors="replace"), end="", flush=True)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
