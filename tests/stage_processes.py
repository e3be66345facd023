"""Runs the stage `pretrain` in several projects one after another, as each of two processes that were started outside.

`python stage_processes.py PORT FOLDER…`: the processes are forked, so that they share what is slow to import.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

WORLD = 2


def main(port: int, folders: list[str]) -> int:
    """Both processes; 1 if one of them failed."""
    import torch
    import torch._dynamo  # torch wants it when the first checkpoint is made

    import stages.pretrain  # noqa: F401

    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(rank, port, folders)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return int(any(process.exitcode for process in processes))


def work(rank: int, port: int, folders: list[str]) -> None:
    """One of them."""
    import stages.pretrain

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
    }
    for number, folder in enumerate(folders):
        os.chdir(folder)
        os.environ |= {"DVC_ROOT": folder, "MASTER_PORT": str(port + number)}
        stages.pretrain.main()


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2:]))
