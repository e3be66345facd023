"""Make the views of every method and train it, in the project of the current folder; print digests as JSON.

All in one process, as loading torch takes longer than training at this size.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from sslpipe import methods
from sslpipe.data.loader import Loader, open_split
from sslpipe.views.engine import ViewEngine
from sslpipe.views.recipe import Recipe
from stages import pretrain, views


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


def main() -> None:
    """Go through the methods."""
    digests = {}
    for name in methods.names():
        settings = yaml.safe_load(Path("params.yaml").read_text())
        settings["pretrain"]["method"] = name
        Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        shutil.rmtree("models")
        with contextlib.redirect_stdout(sys.stderr):
            views.main()
            pretrain.main()
        digests[f"{name}.views"] = digest(first_batch())
        digests[f"{name}.encoder"] = digest(load_file("models/encoder.safetensors"))
    print(json.dumps(digests))


if __name__ == "__main__":
    main()
