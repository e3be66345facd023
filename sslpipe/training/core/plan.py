"""How many processes train, on how many machines, and what a batch must be for them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

from sslpipe.console.errors import UserError
from sslpipe.training.core.config import Config

NO_SUBMITIT = (
    "pretrain.launch is slurm, which needs submitit: "
    "run `pip install 'sslpipe[slurm]'`, or set it to torchrun"
)


def processes(config: Config) -> int:
    """How many processes train on this machine: one a GPU, or one on a CPU, or as many as the settings say.

    Raises:
        UserError: more processes than GPUs, or several for one GPU.
    """
    wanted = None if config.devices == "auto" else config.devices
    if wanted == 1 or config.device == "cpu":
        return wanted or 1
    if config.device not in ("auto", "cuda"):
        if wanted:
            raise UserError(
                f"pretrain.devices is {wanted} and pretrain.device names one, {config.device}: set device to "
                "cuda or auto"
            )
        return 1
    import torch  # here, because other questions are asked where nothing is trained

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None:
        return max(gpus, 1)
    if gpus and wanted > gpus:
        raise UserError(f"pretrain.devices is {wanted} and this machine has {gpus} GPUs: set it to auto")
    return wanted


def nodes(config: Config) -> int:
    """How many machines train together: of the settings, else of torchrun's own variable."""
    return config.cluster.nodes if config.cluster.nodes > 1 else int(os.environ.get("PET_NNODES", "1"))


def world_size(config: Config) -> int:
    """How many processes will train together."""
    if among_others():
        return int(os.environ["WORLD_SIZE"])
    if config.launch == "slurm":
        return nodes(config) * slurm_tasks(config)
    return nodes(config) * processes(config)


def slurm_tasks(config: Config) -> int:
    """How many processes train on each machine of a Slurm job; a UserError if the settings do not say it."""
    if config.devices == "auto":
        raise UserError(
            "pretrain.launch is slurm and pretrain.devices is auto: set devices to the GPUs that each machine of the "
            "job is to have, as this one need not be like them"
        )
    return config.devices


def check(config: Config) -> Iterator[str]:
    """What `sslpipe check` says of the processes.

    Raises:
        UserError: they cannot share a batch, or something that starts them is missing.
    """
    count, machines = world_size(config), nodes(config)
    check_shares(config, count)
    if config.launch == "slurm":
        if importlib.util.find_spec("submitit") is None:
            raise UserError(NO_SUBMITIT)
    elif machines > 1:
        endpoint(config)
    share = config.batch_size // count
    where = f" on {machines} machines" if machines > 1 else ""
    each = f", {share} images of each batch a process" if count > 1 else ""
    yield f"processes: {count}{where}{each}"
    if count > 1 and share // config.accumulate < 8:
        yield (
            f"  note: {share // config.accumulate} images at a time keep a device idle most of the time: raise "
            "pretrain.batch_size, or lower pretrain.devices"
        )


def check_shares(config: Config, count: int) -> None:
    """Raise a UserError, which says what to set, if so many processes cannot share a batch."""
    if config.batch_size % count:
        fitting = next(k for k in range(count, 0, -1) if config.batch_size % k == 0)
        lower = config.batch_size // count * count
        choices = f"{lower} or {lower + count}" if lower else f"{count}"
        raise UserError(
            f"pretrain.batch_size is {config.batch_size}, which {count} processes cannot share evenly: set it to "
            f"{choices}, or train in {fitting}"
        )
    share = config.batch_size // count
    if count > 1 and (share % config.accumulate or share // config.accumulate < 2):
        raise UserError(
            f"each of {count} processes has {share} images of a batch of {config.batch_size}, which do not make "
            f"{config.accumulate} equal parts of two or more: change pretrain.accumulate, batch_size or devices"
        )


def endpoint(config: Config) -> str:
    """Where machines meet, host:port: of the settings, else of the usual variables; a UserError if none says it."""
    if config.cluster.endpoint:
        return config.cluster.endpoint
    if found := os.environ.get("PET_RDZV_ENDPOINT"):
        return found
    if host := os.environ.get("MASTER_ADDR"):
        return f"{host}:{os.environ.get('MASTER_PORT', '29400')}"
    raise UserError(
        f"{nodes(config)} machines are to train together and do not know where to meet: set "
        "pretrain.cluster.endpoint to host:port of the machine that runs dvc, on all of them"
    )


def among_others() -> bool:
    """Whether this process was started as one of several that train together."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
