"""Training beside other work: steps a second alone and beside so many of its like, by how long waiting threads spin.

`python benchmarks/contention.py` runs each in processes of their own, in turn, for some rounds. A thread that waits for
the others of its process spins before it sleeps (GNU OpenMP's GOMP_SPINCOUNT). Where another process has the core that
a thread needs, those that wait for it spin through their whole share of time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from sslpipe.core.threads import SPIN

COUNTS = {"OpenMP's default": None, f"{SPIN}, the stages'": SPIN, "0": "0"}


def train(seconds: float, size: int) -> float:
    """Steps a second of SimCLR's network on 128 images of `size` pixels, in this process."""
    import torch

    from sslpipe import networks

    torch.manual_seed(0)
    network = networks.backbone("small_resnet", image_size=size)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x = torch.randn(128, 3, size, size)
    steps, start = -2, time.perf_counter()  # two to warm up
    while steps < 1 or time.perf_counter() - start < seconds:
        if steps == 0:
            start = time.perf_counter()
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        steps += 1
    return steps / (time.perf_counter() - start)


def measure(spin: str | None, processes: int, seconds: float, size: int) -> float:
    """The mean steps a second of so many processes at once."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if spin is not None:
        environment["GOMP_SPINCOUNT"] = spin
    command = [sys.executable, __file__, "--seconds", str(seconds), "--size", str(size), "--one"]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--size", type=int, default=28, help="side of the images, pixels (default: 28)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(train(args.seconds, args.size))
        return
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.rounds):
        for name, spin in COUNTS.items():
            for processes in (1, 2, 3):
                speed = measure(spin, processes, args.seconds, args.size)
                found.setdefault((name, processes), []).append(speed)
    print(
        f"{args.size} px, {os.cpu_count()} cores, n = {args.rounds}: steps a second of each, median (least–most)"
    )
    print("| GOMP_SPINCOUNT | alone | two at once | three at once |\n| --- | ---: | ---: | ---: |")
    for name in COUNTS:
        cells = [found[name, processes] for processes in (1, 2, 3)]
        told = [f"{statistics.median(cell):.2f} ({min(cell):.2f}–{max(cell):.2f})" for cell in cells]
        print(f"| {name} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
