"""Projection and prediction heads: multi-layer perceptrons."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sslpipe.core.distributed import BatchNorm1d


def mlp(
    in_dim: int,
    hidden: int,  # features between the layers; a single one has no use for it
    out_dim: int,
    *,
    layers: int = 2,  # linear ones, at least 1
    norm: bool = True,  # batch norm after every layer but the last
    last_norm: Literal["affine", "scale", "plain"] | None = None,  # None: BYOL
    last_bias: bool | None = None,  # unless told, the last layer has one where no norm follows
) -> nn.Sequential:
    """Linear, batch norm and ReLU, `layers` times, the last without ReLU: [N, in] → [N, out].

    A linear layer that a batch norm follows has no bias: the norm would take it away again.
    The norm after the last layer, if any, is "affine", "scale" (a factor but no shift: SimCLR's official code) or
    "plain" (neither: MoCo v3, SimSiam).
    """
    network = nn.Sequential()
    for _ in range(layers - 1):
        network.append(nn.Linear(in_dim, hidden, bias=not norm))
        if norm:
            network.append(BatchNorm1d(hidden))
        network.append(nn.ReLU(inplace=True))
        in_dim = hidden
    network.append(nn.Linear(in_dim, out_dim, bias=last_norm is None if last_bias is None else last_bias))
    if last_norm == "scale":
        network.append(ScaleNorm(out_dim))
    elif last_norm is not None:
        network.append(BatchNorm1d(out_dim, affine=last_norm == "affine"))
    return network


class ScaleNorm(nn.Module):
    """Batch norm with a learned factor but no shift."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = BatchNorm1d(dim)
        self.norm.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] → [N, D]."""
        return self.norm(x)
