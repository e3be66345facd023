"""Resume checkpoints: atomic, verified, the last two kept, nothing unpickled.

A checkpoint is one safetensors file: tensors as tensors, the containers around them as JSON in its header. Its name
carries the step and a digest of its bytes, so a part or a damaged file is never taken for a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslpipe.console.errors import explain_os_error
from sslpipe.core import scratch


class Checkpoints:
    """The checkpoints of one run, in a folder of its own."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, verify it, then drop the oldest beyond `keep`.

        Raises:
            UserError: the disk is full, read-only or forbidden; earlier checkpoints are untouched.
        """
        content = to_bytes(state)
        name = f"{step:09d}-{scratch.bytes_digest(content)[:16]}.safetensors"
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            scratch.sync(temporary)
            if temporary.read_bytes() != content:
                raise OSError(0, "what was written does not read back the same")
            os.replace(temporary, self.folder / name)
            scratch.sync(self.folder)
            for old in self._files()[self.keep :]:
                old.unlink(missing_ok=True)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            size = f"{len(content) / 2**20:.0f} MiB"
            raise explain_os_error(error, f"saving a checkpoint of {size} in {self.folder}") from error

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint that is whole, as (step, state), or None. A damaged one is named and passed over."""
        for file in self._files():
            content = file.read_bytes()
            step, _, digest = file.stem.partition("-")
            if scratch.bytes_digest(content)[:16] == digest:
                return int(step), from_bytes(content)
            said = f"checkpoint {file.name} is damaged: falling back to the one before"
            print(said, file=sys.stderr, flush=True)
        return None

    def clear(self) -> None:
        """Delete the folder: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*.safetensors"), reverse=True)


def to_bytes(state: Any) -> bytes:
    """Nested dicts, lists, tuples, tensors and scalars as one safetensors file."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": [[key, encode(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return {type(value).__name__: [encode(item) for item in value]}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")

    skeleton = json.dumps(encode(state))  # it also collects the tensors
    return save(tensors, metadata={"state": skeleton})


def from_bytes(content: bytes) -> Any:
    """The inverse of `to_bytes`."""
    from safetensors.torch import load

    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "tensor":
            return tensors[inner]
        if kind == "dict":
            return {key: decode(item) for key, item in inner}
        items = [decode(item) for item in inner]
        return tuple(items) if kind == "tuple" else items

    return decode(json.loads(header["__metadata__"]["state"]))
