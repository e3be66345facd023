"""Children forked after one import: they work until they are killed or something under them fails."""

from __future__ import annotations

import builtins
import errno
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError

#: What a child can come to.
FINISHED, SAID_WHY, BROKE = 0, 3, 4
#: What a disk can say.
DISEASES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass
class Sabotage:
    """At the `count`-th call that changes the disk: a kill, or an error that the system would give.

    Calls are opening for writing, writing, fsync, replace and unlink, of all of Python's ways that sslpipe takes. A
    write does a random part of its work before it happens, as a real one may.
    """

    count: int
    error: int | None  # an errno; None: the child is killed
    seed: int

    def install(self) -> None:
        """Patch this process, which is a child."""
        import safetensors.torch  # noqa: F401  (what it opens while it is imported is none of the run's)

        self.random = random.Random(self.seed)
        self.open = builtins.open
        builtins.open = self._open  # type: ignore[assignment]
        for name in ("fsync", "replace", "unlink", "rename"):
            setattr(os, name, self._wrapped(getattr(os, name)))

    def happens(self) -> bool:
        """Count a call; whether this is the one."""
        self.count -= 1
        return self.count == 0

    def strike(self) -> None:
        """Kill or raise."""
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        raise OSError(self.error, os.strerror(self.error or 0))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self.happens():
                self.strike()
            return call(*arguments, **options)

        return wrapped

    def _open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return self.open(file, mode, *arguments, **options)
        if self.happens():
            self.strike()
        opened = self.open(file, mode, *arguments, **options)
        return _Writer(opened, self)


class _Writer:
    """A file whose writing may end in the middle."""

    def __init__(self, file: Any, sabotage: Sabotage) -> None:
        self.file, self.sabotage = file, sabotage

    def write(self, content: Any) -> Any:
        if self.sabotage.happens():
            self.file.write(content[: self.sabotage.random.randrange(len(content) + 1)])
            self.file.flush()
            self.sabotage.strike()
        return self.file.write(content)

    def __enter__(self) -> _Writer:
        self.file.__enter__()
        return self

    def __exit__(self, *reason: Any) -> Any:
        return self.file.__exit__(*reason)

    def __iter__(self) -> Any:
        return iter(self.file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def run(
    work: Callable[[], None], log: Path, sabotage: Sabotage | None = None, kill_after: float | None = None
) -> int:
    """Do the work in a child; how it ended, negative for a signal.

    Args:
        work: what to do.
        log: where its output goes.
        sabotage: what goes wrong.
        kill_after: seconds after which the child is killed from outside.
    """
    child = os.fork()
    if child == 0:
        _work(work, log, sabotage)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work(work: Callable[[], None], log: Path, sabotage: Sabotage | None) -> None:
    code = BROKE
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        if sabotage is not None:
            sabotage.install()
        work()
        code = FINISHED
    except (UserError, OSError) as error:  # a stage makes one sentence of either
        print(f"said: {error}")
        code = SAID_WHY
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
