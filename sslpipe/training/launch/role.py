"""What this process is to do: train, help another one, or start the processes that train."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from sslpipe.training.core import plan, worker
from sslpipe.training.core.config import Config


@contextlib.contextmanager
def role(config: Config, module: str) -> Iterator[str]:
    """Find out what this process is to do; where others are to train, start them and wait for them.

    Each of the others runs `python -m module`: there it comes here and trains.

    Yields:
        `records`: it trains alone, or is the first of several that train; `helps`: it is one of the others, which write
        nothing; `launched`: it has started others, and all is done.

    Raises:
        UserError: the processes failed, or cannot be started.
        SystemExit: they were stopped by a signal, and have saved.
    """
    if plan.among_others():
        with worker.joined(config.device):
            yield "records" if os.environ["RANK"] == "0" else "helps"
    elif "RANK" in os.environ:
        yield "records"
    elif config.launch == "slurm":
        # Here and below: most runs start no others, and torchrun's agent takes a second to import.
        from sslpipe.training.launch import slurm

        slurm.run(config, module)
        yield "launched"
    elif plan.nodes(config) > 1 or plan.processes(config) > 1:
        from sslpipe.training.launch import agent

        agent.run(config, module)
        yield "launched"
    else:
        yield "records"
