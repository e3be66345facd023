"""`torchvision:<name>`: torchvision's CNNs behind the `Backbone` protocol, with random weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import meant
from sslpipe.core.distributed import synchronise
from sslpipe.networks.protocol import Backbone, ConvBackbone, probe, set_stem

_FAMILIES = ("resnet", "efficientnet", "mobilenetv2", "mobilenetv3")


def find(member: str) -> Callable[..., Backbone]:
    """What builds torchvision's `member`.

    Raises:
        UserError: an unknown name, or a family that is not covered (timm has it).
    """
    from torchvision import models

    every = models.list_models(module=models)
    families = {name: models.get_model_builder(name).__module__.rpartition(".")[2] for name in every}
    covered = [name for name in every if families[name] in _FAMILIES]
    if member not in every:
        raise UserError(
            f"torchvision has no network {member!r}{meant(member, covered)}: choose one of {', '.join(covered)}"
        )
    if member not in covered:
        raise UserError(
            f"torchvision:{member} is not covered: choose a network of the families {', '.join(_FAMILIES)}, "
            "or timm:<name>, which has nearly all others"
        )
    return partial(TorchvisionResNet if families[member] == "resnet" else TorchvisionCNN, member)


class TorchvisionCNN(ConvBackbone):
    """A network of feature maps; `stem` as in `TimmCNN`, `own` for torchvision's constructor."""

    kind: Literal["resnet", "cnn"] = "cnn"

    def __init__(self, member: str, image_size: int, stem: str = "imagenet", **own: bool) -> None:
        from torchvision import models

        super().__init__()
        self.name, self.image_size = f"torchvision:{member}", image_size
        model = models.get_model(member, weights=None, **own)
        set_stem(self.name, stem, model)
        kept = {name: child for name, child in model.named_children() if name not in ("avgpool", "fc")}
        self.trunk = synchronise(getattr(model, "features", nn.Sequential(OrderedDict(kept))))
        self.dim = probe(self, image_size)

    def maps(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] → [N, D, h, w], before pooling."""
        return self.trunk(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay: each block."""
        return {"blocks": r"^trunk\.(\d+)"}


class TorchvisionResNet(TorchvisionCNN):
    """A ResNet.

    With `zero_init_residual`, the last batch norm of each block starts at 0, so that the block starts as its shortcut
    (Goyal et al. 2017).
    """

    kind = "resnet"

    def __init__(
        self, member: str, image_size: int, stem: str = "imagenet", zero_init_residual: bool = False
    ) -> None:
        super().__init__(member, image_size, stem, zero_init_residual=zero_init_residual)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for layer decay: the stem, then each block."""
        return {"stem": r"^trunk\.(?:conv1|bn1)\.", "blocks": r"^trunk\.layer(\d+)\.(\d+)"}
