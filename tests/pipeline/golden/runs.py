"""Run stages in the project of the current folder, then train copies of it by every method.

The last line printed is digests as JSON. The copies lie in `../methods/NAME`.

    python runs.py stages.source stages.shard …

Each runs in a process of its own, forked from this one: loading torch takes longer than most of what is done with it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numba  # noqa: F401 (loaded once for all)
import torch
import torchvision  # noqa: F401
import yaml
from safetensors.torch import load_file

from sslpipe import methods
from sslpipe.data.loader import Loader, open_split
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe

ENCODER = Path("models/encoder.safetensors")


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of names, kinds, shapes and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def first_batch() -> dict[str, torch.Tensor]:
    """The first batch of the run's images as the resolved recipe renders it."""
    recipe = Recipe.from_json(Path("data/views/recipe.json").read_bytes())
    batch = next(Loader(open_split(Path("data/shards"), "train"), batch_size=30, seed=0).epoch(0))
    found = {}
    for number, view in enumerate(ViewEngine(recipe, seed=0)(batch, 0)):
        found |= {f"{number}.pixels": view.pixels, f"{number}.to_canvas": view.to_canvas}
        if view.masks is not None:
            found[f"{number}.masks"] = view.masks
    return found


def of_project() -> dict[str, str]:
    """The shards' bytes, the features and the encoder."""
    found = {}
    for path in sorted(Path("data/shards").glob("*/*.tar")):
        found[f"shards.{path.parent.name}.{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for split in ("train", "test"):
        features = load_file(f"data/features/{split}.safetensors")
        found |= {f"features.{split}.{name}": digest({name: tensor}) for name, tensor in features.items()}
    return {**found, "encoder": digest(load_file(ENCODER))}


def of_method(name: str) -> dict[str, str]:
    """The views that a method trains on, and the encoder that it gives."""
    copy = Path("..", "methods", name)
    shutil.copytree(".", copy, ignore=shutil.ignore_patterns(".git", "raw"))
    os.chdir(copy)
    shutil.rmtree("models")
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["pretrain"]["method"] = name
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    run("stages.views")
    run("stages.pretrain")
    return {f"{name}.views": digest(first_batch()), f"{name}.encoder": digest(load_file(ENCODER))}


def run(command: str) -> None:
    """Do what `python -m COMMAND` does."""
    sys.argv = command.split()
    runpy.run_module(sys.argv[0], run_name="__main__")


def apart(work: Callable[..., Any], *arguments: str) -> Any:
    """What a function returns in a process of its own, in which all is loaded and nothing was used before."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(work(*arguments)))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{work.__name__} {' '.join(arguments)} exited {process.exitcode}")
    return results.get()


def main() -> None:
    """Run the stages, print the digests."""
    for command in sys.argv[1:]:
        apart(run, command)
    found = apart(of_project)
    for name in methods.names():
        found |= apart(of_method, name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
