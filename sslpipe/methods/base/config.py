"""Settings that every method has; nothing here imports torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sslpipe.core.config import Config


class OptimizerConfig(Config):
    """How a method's parameters are optimised; each paper has its own."""

    name: Literal["adamw", "sgd", "lars"] = Field("adamw", description="adamw, sgd or lars")
    lr: float = Field(1e-3, gt=0, description="learning rate, which `rule` scales")
    rule: Literal["linear", "sqrt", "absolute"] = Field(
        "linear", description="peak learning rate: linear, lr · batch / 256; sqrt, lr · √batch; absolute, lr"
    )
    weight_decay: float = Field(0.05, ge=0, description="of weights, not of biases and norms")
    weight_decay_end: float | None = Field(None, ge=0, description="cosine from weight_decay to this (DINO)")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and lars")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of adamw")
    schedule: Literal["cosine", "steps", "constant"] = Field(
        "cosine", description="the learning rate after the warm-up"
    )
    milestones: tuple[float, ...] = Field(
        (0.6, 0.8), description="`steps`: shares of training at which lr · step_factor"
    )
    step_factor: float = Field(0.1, gt=0, lt=1, description="`steps`: what lr is multiplied by at each")
    warmup_epochs: float = Field(
        10.0, ge=0, description="epochs in which the learning rate rises to its peak"
    )
    final_lr: float = Field(0.0, ge=0, description="where the cosine ends, as a share of the peak")
    clip: float | None = Field(None, gt=0, description="largest norm of all gradients together")

    def peak(self, batch_size: int) -> float:
        """The learning rate after warm-up for a global batch of this size."""
        scale = {"linear": batch_size / 256, "sqrt": batch_size**0.5, "absolute": 1.0}[self.rule]
        return self.lr * scale

    @model_validator(mode="after")
    def _check(self) -> OptimizerConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas should both be at least 0 and below 1")
        if list(self.milestones) != sorted(self.milestones) or not all(0 < m < 1 for m in self.milestones):
            raise ValueError("milestones should rise and lie between 0 and 1")
        return self


class MethodConfig(Config):
    """Settings every method has. A subclass gives its paper's defaults."""

    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="how parameters are optimised")
    views: dict[str, Any] = Field(
        {}, description="changes of this method's views, written as views.recipe, which comes on top"
    )


#: The optimiser of most methods on a few thousand small images; found by trying.
SMALL_ADAMW: dict[str, Any] = {
    "name": "adamw", "lr": 0.002, "rule": "absolute", "weight_decay": 0.05, "warmup_epochs": 2,
}  # fmt: skip
