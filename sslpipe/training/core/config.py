"""Settings of params.yaml's `pretrain` section, and all those that a training depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sslpipe.core.config import Config as Base
from sslpipe.data.config import Config as LoaderConfig
from sslpipe.methods.base.config import MethodConfig
from sslpipe.views.config import Config as ViewsConfig


class Cluster(Base):
    """Several machines that train together, and jobs of Slurm."""

    nodes: int = Field(1, ge=1, description="machines")
    endpoint: str | None = Field(
        None, pattern=r"^[^:\s]+:\d+$", description="host:port where they meet, of the one that runs dvc"
    )
    wait_seconds: int = Field(
        300, ge=1, description="how long they wait for each other, at the start and after one was lost"
    )
    restarts: int = Field(
        3, ge=0, description="how often processes that died are started again, from the newest checkpoint"
    )
    partition: str | None = Field(None, description="of Slurm; null: its default")
    account: str | None = Field(None, description="of Slurm; null: the user's default")
    hours: float = Field(
        24.0, gt=0, description="a job's time limit; a training that needs more is queued again"
    )
    cpus: int = Field(8, ge=1, description="cores a process in a job")
    memory_gb: int | None = Field(
        None, ge=1, description="memory a machine in a job; null: what the cluster gives"
    )
    sbatch: dict[str, Any] = Field({}, description="other options of sbatch, such as {qos: high}")


class Config(Base):
    """How the encoder is trained, whatever the method."""

    harmless: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds", "launch", "cluster"})

    method: str = Field("simclr", description="one of `sslpipe methods`")
    defaults: Literal["paper", "small"] = Field(
        "paper",
        description="what a method's settings are where `methods` says nothing: its paper's, or those for small data",
    )
    backbone: str = Field(
        "auto", description="auto, small_resnet, small_vit, timm:<name> or torchvision:<name>"
    )
    backbone_options: dict[str, Any] = Field(
        {}, description="the backbone's own options, such as {width: 32}"
    )
    epochs: int = Field(36, ge=1, description="passes over the training images")
    batch_size: int = Field(128, ge=2, description="images an optimiser step, over all processes")
    accumulate: int = Field(
        1, ge=1, description="parts that a batch goes through one after another, to save memory"
    )
    gradient_cache: bool = Field(
        False,
        description="with parts: the loss of the whole batch all the same, for twice the forward passes",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu or cuda")
    devices: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="processes on each machine; auto: one a GPU, one on a CPU"
    )
    launch: Literal["torchrun", "slurm"] = Field(
        "torchrun", description="several processes are started here, or in a job of Slurm"
    )
    sharding: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="of several processes; auto: fsdp for ViT-L and larger"
    )
    cluster: Cluster = Cluster()
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it")
    compile: Literal["auto", "never", "always", "graphs"] = Field(
        "auto",
        description="torch.compile the step; auto: long runs on a GPU; graphs: as CUDA graphs too, for small models",
    )
    deterministic: bool = Field(True, description="the same seed gives the same weights, bit for bit")
    checkpoint_seconds: float = Field(20.0, ge=0, description="time between resume checkpoints")
    log_every: int = Field(10, ge=1, description="steps between points of the training curves")
    monitor_epochs: int = Field(
        6,
        ge=0,
        description="epochs between looks at the features of a sample of the training images; 0: never",
    )
    stop_on_collapse: bool = Field(
        False, description="stop, with a checkpoint, where all features have become alike"
    )


@dataclass(frozen=True)
class Setup:
    """The settings that a training depends on, named as in params.yaml; `method` is the section of the chosen one."""

    pretrain: Config
    method: MethodConfig
    seed: int
    views: ViewsConfig
    loader: LoaderConfig
