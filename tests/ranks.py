"""Two real processes that are the ranks of one gloo group, for what a single process cannot show.

A test file names its work in `WORKS`: functions of no arguments that give tensors. A process of its own loads the
file and parts into the ranks, so that they share what is slow to import; each does all of the work, in order.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from scripts import load
from torch import Tensor

WORLD = 2


class Found:
    """What the ranks found, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, work: str) -> list[dict[str, Tensor]]:
        """One piece of work's tensors, by rank; a rank's traceback if it failed."""
        for rank in range(WORLD):
            failure = self.folder / f"{work}-{rank}.txt"
            assert not failure.exists(), failure.read_text()
        return [load_file(self.folder / f"{work}-{rank}.safetensors") for rank in range(WORLD)]


def run(file: str, folder: Path) -> Found:
    """Do the works of a test file, its `__file__`, on all ranks."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, __file__, file, str(folder)], env=environment, start_new_session=True
    )
    try:
        code = process.wait(timeout=300)
        assert code == 0, "\n".join(path.read_text() for path in folder.glob("*.txt"))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Found(folder)


def check_same(ranks: list[dict[str, Tensor]], alone: dict[str, Tensor], rtol: float, atol: float) -> None:
    """Each rank found what one process finds."""
    for found in ranks:
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                found[name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


def main(file: str, folder: Path) -> int:
    """The process that parts into ranks."""
    torch.set_num_threads(1)
    module = load(file)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(module.WORKS, folder, rank)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


def work(works: Mapping[str, Callable[[], dict[str, Tensor]]], folder: Path, rank: int) -> None:
    """One rank. A piece of work that fails leaves its traceback, and the others go on."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=120),
    )
    for name, piece in works.items():
        try:
            found = {
                key: value.detach().clone(memory_format=torch.contiguous_format)
                for key, value in piece().items()
            }
            save_file(found, folder / f"{name}-{rank}.safetensors")
        except Exception:
            (folder / f"{name}-{rank}.txt").write_text(traceback.format_exc())
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
