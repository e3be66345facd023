"""What a process does that trains with others: join them, take turns, and end so that whoever started it knows why."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import torch.distributed as dist

from sslpipe.console.errors import UserError, explain_os_error
from sslpipe.core import distributed
from sslpipe.core.device import take
from sslpipe.training.core import parallel
from sslpipe.training.core.guards import Interrupted
from sslpipe.training.core.messages import LAUNCHED, tell

TIMEOUT = timedelta(minutes=30)  # after which a process that hears nothing of another gives up

_store: dist.Store | None = None
_turns = itertools.count()


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of the processes that `RANK`, `WORLD_SIZE` and `MASTER_ADDR` speak of; only the first one prints."""
    global _store
    with _explained(), quiet() if os.environ["RANK"] != "0" else contextlib.nullcontext():
        gpu = take(device).type == "cuda"
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        # The keys of each start are kept apart, where torchrun keeps one store for all of them.
        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if kept else "0"
        _store = dist.PrefixStore(f"sslpipe/{attempt}", store)
        # Objects travel by gloo also where tensors travel by NCCL.
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        dist.init_process_group(backend, store=_store, rank=rank, world_size=size, timeout=TIMEOUT)
        yield
        leave()


def leave() -> None:
    """Part with the other processes: from here on this one is alone."""
    if dist.is_initialized():
        parallel.gathered(None)
        dist.destroy_process_group()


@contextlib.contextmanager
def first(*, everywhere: bool = False) -> Iterator[None]:
    """Let the first process of each machine, or with `everywhere` the first of all, do this before the others do.

    What it makes is there when they come. They look whether it is done, for as long as it takes, and no timeout of
    the process group ends them.
    """
    if distributed.world_size() == 1:
        yield
        return
    assert _store is not None
    rank = distributed.rank()
    leader = 0 if everywhere else rank - int(os.environ.get("LOCAL_RANK", "0"))
    key = f"turn/{next(_turns)}/{leader}"
    while rank != leader and not _store.check([key]):
        time.sleep(0.05)
    yield
    if rank == leader:
        _store.set(key, "done")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that Python prints is seen."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Where another process started this one, it hears how this one ended, and prints what there is to say."""
    if LAUNCHED not in os.environ:
        yield
        return
    try:
        yield
        if os.environ["RANK"] == "0":
            tell("outcome", done=True)
    except Interrupted as stop:
        tell("outcome", stopped=int(stop.code or 0) - 128)
        raise SystemExit(0) from None  # it ended as it should: no other is to be killed for it
    except UserError as error:
        tell("outcome", failed=str(error))
        _end(1)
    except OSError as error:
        tell("outcome", failed=str(explain_os_error(error, f"working on {error.filename or 'a file'}")))
        _end(1)
    except KeyboardInterrupt:
        _end(130)
    except Exception as error:
        # Here, because its package is slow to import and most processes do not fail.
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        _end(1)


def _end(code: int) -> None:
    """End at once: communication with others is broken, and tidying it up might wait for them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
