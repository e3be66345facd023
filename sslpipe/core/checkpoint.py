"""Resume checkpoints: atomic, verified, the last two kept, nothing unpickled.

A checkpoint is one safetensors file: tensors as tensors, the containers around them as JSON in its header. Its name
carries the step and a digest of its bytes, so a part or a damaged file is never taken for a whole one. A thread can
write it: what it holds is copied before.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslpipe.console.errors import UserError, explain_os_error
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


class Saves:
    """Checkpoints that a thread writes, one at a time, while training goes on.

    As a context it waits for the last one at its end, and raises what went wrong unless something else is raised.

    Attributes:
        seconds: that the last one took, from its copy to the disk; 0 before the first.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self.seconds = checkpoints, 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._task: Future[None] | None = None
        self._ended = time.monotonic()
        self._stream: torch.cuda.Stream | None = None

    @property
    def since(self) -> float:
        """Seconds since the last one was done, or since the start; none while one is being written."""
        if self._task is not None and not self._task.done():
            return 0.0
        self.wait()
        return time.monotonic() - self._ended

    def start(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state after `step` steps and let it be written; raises what went wrong with the one before."""
        self.wait()
        began, copies = time.monotonic(), list[Tensor]()
        copied = _copied(state, copies)
        device = next((copy.device for copy in copies if copy.is_cuda), None)
        made: torch.cuda.Event | None = None
        if device is not None:
            # Not the stream of training, which would stand still for as long as the copy to the host takes.
            self._stream = self._stream or torch.cuda.Stream(device)
            made = torch.cuda.current_stream(device).record_event()
            for copy in copies:
                if copy.is_cuda:
                    copy.record_stream(self._stream)
        self._task = self._pool.submit(self._write, step, copied, made, began)

    def wait(self) -> None:
        """Wait until it is written; raises what went wrong."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def __enter__(self) -> Saves:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            self.wait()
        except UserError:
            if kind is None:
                raise
        finally:
            self._pool.shutdown()

    def _write(self, step: int, state: dict[str, Any], made: torch.cuda.Event | None, began: float) -> None:
        try:
            if made is None or self._stream is None:
                self.checkpoints.save(step, state)
                return
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(made)
                self.checkpoints.save(step, state)
        finally:
            self._ended = time.monotonic()
            self.seconds = self._ended - began


def _copied(state: Any, copies: list[Tensor]) -> Any:
    """The state with copies of its tensors where they are; these are collected."""
    if isinstance(state, Tensor):
        copies.append(state.detach().clone())
        return copies[-1]
    if isinstance(state, dict):
        return {key: _copied(value, copies) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_copied(value, copies) for value in state)
    return state


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
