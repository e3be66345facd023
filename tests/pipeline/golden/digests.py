"""Print digests of what `dvc repro` made in the project of the current folder, then train it by every method.

All methods in one process, as loading torch takes longer than training at this size. The last line is JSON.
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
    settings = yaml.safe_load(Path("params.yaml").read_text())
    settings["pretrain"]["method"] = name
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    shutil.rmtree("models")
    with contextlib.redirect_stdout(sys.stderr):
        views.main()
        pretrain.main()
    return {f"{name}.views": digest(first_batch()), f"{name}.encoder": digest(load_file(ENCODER))}


def main() -> None:
    """Print them."""
    found = of_project()
    for name in methods.names():
        found |= of_method(name)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
