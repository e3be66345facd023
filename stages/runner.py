"""What every stage does around its work: settings, record, signals, errors in one sentence."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import NoReturn, cast

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core.pipeline import resolved, stages
from sslpipe.settings import Settings, load
from sslpipe.tracking.experiments import experiment_key
from sslpipe.tracking.record import Record

Body = Callable[[Settings, Record], None]
#: What this process does of a stage: it `records` and writes, `helps` one that does, or has `launched` others for it.
Roles = Callable[[Settings], AbstractContextManager[str]]


def stage(
    name: str,
    body: Body,
    *,
    fingerprint: Callable[[Settings], str | None] = lambda settings: None,
    role: Roles = lambda settings: nullcontext("records"),
) -> Callable[[], None]:
    """Make a stage of a function.

    Args:
        name: the stage's name: dvc.yaml says under it which settings it reads; they are validated first.
        body: what it does.
        fingerprint: what its result depends on, for stages that continue an interrupted run.
        role: for a stage that several processes may run: what this one does.
    """

    def main() -> None:
        with supervised(name):
            own = stages()[name].settings
            settings = load(sections=("seed", "tracking", *dict.fromkeys(key.split(".")[0] for key in own)))
            with role(settings) as part:
                if part == "helps":
                    body(settings, cast(Record, Unrecorded()))
                elif part == "records":
                    with record_of(name, settings, own, fingerprint(settings)) as record:
                        body(settings, record)

    return main


@contextmanager
def supervised(name: str) -> Iterator[None]:
    """End a stage with its parent process, and with one sentence on an error that the user can mend."""
    stop_with_parent()
    try:
        yield
    except UserError as error:
        _fail(name, str(error))
    except OSError as error:
        _fail(name, str(explain_os_error(error, f"working on {error.filename or 'a file'}")))
    except KeyboardInterrupt:
        print(f"{name}: interrupted; `dvc repro` goes on from here", file=sys.stderr)
        sys.exit(130)


def record_of(name: str, settings: Settings, own: tuple[str, ...], fingerprint: str | None) -> Record:
    """The record of a stage's run, with its settings and those that it reads."""
    chosen = f"methods.{settings.pretrain.method}"
    return Record(
        name,
        params=settings.flat(),
        own=tuple(chosen if key == "method" else key for key in own),
        key=experiment_key(resolved()),
        tracking=settings.tracking,
        fingerprint=fingerprint,
    )


class Unrecorded:
    """Takes what a `Record` takes, and keeps nothing of it."""

    def _nothing(self, *args: object, **options: object) -> None:
        pass

    metric = metrics = dataset = tag = artifact = resumed = result = _nothing


def _fail(name: str, message: str) -> NoReturn:
    print(f"\n{name} failed: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


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
