"""What every stage does around its work: settings, record, signals, errors in one sentence."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core.config import Config
from sslpipe.core.scratch import atomic_write, write_json
from sslpipe.settings import Settings, load
from sslpipe.tracking.experiments import code_digest, experiment_key
from sslpipe.tracking.record import Record

Body = Callable[[Settings, Record], None]
#: What this process does of a stage: it `records` and writes, `helps` one that does, or has `launched` others for it.
Roles = Callable[[Settings], AbstractContextManager[str]]


def stage(
    name: str,
    *sections: str,
    fingerprint: Callable[[Settings], str] | None = None,
    role: Roles = lambda settings: nullcontext("records"),
) -> Callable[[Body], Callable[[], None]]:
    """Make a stage of a function.

    Args:
        name: the stage's name in dvc.yaml.
        sections: the sections of params.yaml it reads; they are validated first.
        fingerprint: what its result depends on, for stages that continue an interrupted run.
        role: for a stage that several processes may run: what this one does.
    """

    def decorate(body: Body) -> Callable[[], None]:
        def main() -> None:
            stop_with_parent()
            try:
                settings = load(sections=("seed", "tracking", *sections))
                own = (
                    "seed",
                    *(f"methods.{settings.pretrain.method}" if s == "method" else s for s in sections),
                )
                with role(settings) as part:
                    if part == "launched":
                        return
                    if part == "helps":
                        body(settings, cast(Record, Unrecorded()))
                        return
                    mark = fingerprint(settings) if fingerprint else None
                    key = key_of(settings)
                    with Record(
                        name,
                        params=settings.flat(),
                        own=own,
                        key=key,
                        tracking=settings.tracking,
                        fingerprint=mark,
                    ) as record:
                        body(settings, record)
            except UserError as error:
                fail(name, str(error))
            except OSError as error:
                fail(name, str(explain_os_error(error, f"working on {error.filename or 'a file'}")))
            except KeyboardInterrupt:
                print(f"{name}: interrupted; `dvc repro` goes on from here", file=sys.stderr)
                sys.exit(130)

        return main

    return decorate


class Unrecorded:
    """Takes what a `Record` takes, and keeps nothing of it."""

    def _nothing(self, *args: object) -> None:
        pass

    metric = metrics = dataset = tag = artifact = resumed = _nothing


def key_of(settings: Settings) -> str:
    """The key of the experiment that the workspace is about to be."""
    flat = settings.flat()
    source = json.loads(Path("data/source.json").read_text())
    return experiment_key(flat, source["digest"], code_digest(".", flat.get("pretrain.method")))


def fail(name: str, message: str) -> NoReturn:
    """End the stage with one sentence."""
    print(f"\n{name} failed: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def evaluated(
    name: str, metrics: dict[str, Any], own: Config, record: Record, data: str | None = None
) -> None:
    """Write an evaluation's metrics file with the digests of what it measured, and record its numbers and protocol.

    Args:
        name: of the stage.
        metrics: numbers, and `protocol`.
        own: the stage's settings.
        record: of the run.
        data: digest of the data it was measured on; None for data/shards.
    """
    from sslpipe.evals.base.trust import digests
    from sslpipe.shards import manifest as manifests

    data = data or manifests.read(Path("data/shards")).digest
    protocol = metrics["protocol"]
    found = digests(data, own, Path("models/encoder.json"), protocol.get("seeds", 1))
    protocol = {**protocol, "digests": found}
    write_json(f"metrics/{name}.json", {**metrics, "protocol": protocol})
    record.metrics({key: value for key, value in metrics.items() if isinstance(value, int | float)})
    record.tag("protocol", json.dumps(protocol, sort_keys=True))


def elsewhere(name: str) -> str | None:
    """Digest of the data outside data/shards that an evaluation reads, as stage `source` found it; None for none."""
    found = json.loads(Path("data/elsewhere.json").read_text())[name]
    return None if found is None else str(found["digest"])


def skipped(
    name: str,
    settings: Settings,
    record: Record,
    *,
    splits: tuple[str, ...] = ("train", "test"),
    labels: bool = True,
) -> bool:
    """Whether an evaluation has nothing to do; then its metrics file says why, and so do its plots. Imports no torch.

    Args:
        name: of the stage.
        settings: which say whether it is on.
        record: of the stage, which gets the reason as a tag.
        splits: of which it needs images.
        labels: whether it needs labels of them.
    """
    reason, note = _reason_to_skip(name, settings, splits, labels), Path("plots", name, "skipped.txt")
    if reason is None:
        note.unlink(missing_ok=True)
        return False
    write_json(f"metrics/{name}.json", {"skipped": reason})
    atomic_write(note, f"{reason}\n")  # DVC warns of an empty folder, again and again
    record.tag("skipped", reason)
    print(f"{name}: skipped, {reason}", flush=True)
    return True


def _reason_to_skip(name: str, settings: Settings, splits: tuple[str, ...], labels: bool) -> str | None:
    if not settings.enabled(name):
        return f"{name}.enabled is false in params.yaml"
    manifest = json.loads(Path("data/shards/manifest.json").read_text())
    for split in splits:
        if not manifest["splits"].get(split, {}).get("count"):
            return f"there are no {split} images"
        if labels and not manifest["splits"][split]["labelled"]:
            return f"the {split} images have no labels"
    return None


def stop_with_parent() -> None:
    """Leave by SystemExit(143) on SIGTERM, and on Linux get SIGTERM when the parent process dies.

    Killing dvc alone would otherwise leave its stage training on. A process that another stage started may have lost
    it already.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    launcher = os.environ.get("SSLPIPE_LAUNCHER")  # sslpipe/training/core/messages.py
    if launcher not in (None, str(os.getppid())):
        os.kill(os.getpid(), signal.SIGTERM)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
