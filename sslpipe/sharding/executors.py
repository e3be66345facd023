"""Where the pieces of sharding are made: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.console.progress import Progress
from sslpipe.core.threads import cores
from sslpipe.sharding import pieces
from sslpipe.sharding.pieces import Piece, Report

#: Images for which another process pays: it takes about half a second to start.
WORTH_A_PROCESS = 4000
Made = Iterator[tuple[Piece, Report]]
_counter: Any = None  # in a worker: the images that all workers have done


def run(todo: Sequence[Piece], folder: Path, *, executor: str, workers: int | None, bar: Progress) -> Made:
    """Make pieces in a folder (with Ray, one that all machines share); they come in the order they are finished in.

    What a piece raises is raised here; a `UserError` if Ray is asked for and not installed.
    """
    if executor == "ray":
        return _on_ray(todo, folder, workers, bar)
    images = sum(len(piece.items) for piece in todo)
    if workers is None:
        workers = min(cores(), -(-images // WORTH_A_PROCESS))
    workers = min(workers, len(todo))
    if workers > 1:
        return _in_processes(todo, folder, workers, bar)
    return ((piece, pieces.make(piece, folder, threads=cores(), tick=bar.update)) for piece in todo)


def _in_processes(todo: Sequence[Piece], folder: Path, workers: int, bar: Progress) -> Made:
    # Fresh processes: a fork of one that has threads may hang.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(counter,))
    work = functools.partial(_counted, folder=folder, threads=max(1, cores() // workers))
    try:
        running = {pool.submit(work, piece): piece for piece in todo}
        shown = 0
        while running:
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            made = counter.value
            bar.update(made - shown)
            shown = made
            for future in done:
                yield running.pop(future), future.result()
    except BaseException as error:
        for child in multiprocessing.active_children():
            child.kill()  # what it was writing has no name yet
        if not isinstance(error, BrokenProcessPool):
            raise
        raise UserError(
            "a process that made shards was killed (out of memory?): lower shard.workers and run `dvc repro` again, "
            "finished shards are kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(counter: Any) -> None:
    """End with the parent, and leave Ctrl-C to it."""
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # killed while this process started
        os._exit(1)


def _counted(piece: Piece, folder: Path, threads: int) -> Report:
    def tick() -> None:
        with _counter.get_lock():
            _counter.value += 1

    return pieces.make(piece, folder, threads=threads, tick=tick)


def _on_ray(todo: Sequence[Piece], folder: Path, workers: int | None, bar: Progress) -> Made:
    """The same work as Ray tasks; `RAY_ADDRESS` says which cluster, else one is started on this machine."""
    try:
        import ray
    except ImportError as error:
        needed = (
            "shard.executor ray needs the package ray: run `pip install 'ray[default]'`, or set it to local"
        )
        raise UserError(needed) from error
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    make = ray.remote(max_retries=2)(_on_a_node)
    try:
        running = {make.remote(piece, folder.resolve()): piece for piece in todo}
        while running:
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            piece = running.pop(done)
            try:
                report = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError) else error) from None
            bar.update(len(piece.items))
            yield piece, report
    finally:
        if started:
            ray.shutdown()


def _on_a_node(piece: Piece, folder: Path) -> Report:
    return pieces.make(piece, folder)
