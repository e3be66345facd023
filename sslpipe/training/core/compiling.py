"""torch.compile of a method's step: backbone, heads and loss together."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys

import torch

from sslpipe.methods.base.method import Method
from sslpipe.training.core.config import Config

WORTH_STEPS = 2000  # compiling takes a minute or two; shorter runs would not earn it back


def compiled(
    method: Method, config: Config, device: torch.device, steps: int, backend: str = "inductor"
) -> str:
    """Compile the step of a method, in place, where the settings ask for it; returns what was done, in a word.

    `auto` asks for it in long runs, of `steps` in all, on a GPU where a compiler is found. State and parameters stay
    the same modules under the same names, so checkpoints and exports know nothing of it. What cannot be compiled runs
    as it is, with torch's warning.
    """
    wanted = config.compile
    if wanted == "auto":
        compiler = importlib.util.find_spec("triton") and (shutil.which("cc") or shutil.which("gcc"))
        wanted = "always" if device.type == "cuda" and steps >= WORTH_STEPS and compiler else "never"
    if wanted == "never":
        return wanted
    if wanted == "graphs" and device.type != "cuda":
        print("pretrain: CUDA graphs are for GPUs; the step is compiled without them", file=sys.stderr)
        wanted = "always"
    dynamo = importlib.import_module("torch._dynamo")  # seconds, which others need not spend
    dynamo.config.suppress_errors = True  # a graph that cannot be compiled must not cost a run
    mode = "reduce-overhead" if wanted == "graphs" else None
    for name in ("step", "embed", "loss"):
        setattr(method, name, torch.compile(getattr(method, name), mode=mode, backend=backend))
    return wanted
