"""Losses: pure functions, tensors in, a scalar out; float32 (float64 if given) also under autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslpipe.losses.classes import label_cross_entropy, rebalanced_cross_entropy
    from sslpipe.losses.clustering import sinkhorn, swapped_prediction
    from sslpipe.losses.contrastive import batch_info_nce, info_nce, nt_xent
    from sslpipe.losses.distillation import negative_cosine
    from sslpipe.losses.masked import masked_l1, masked_mse, masked_token_cross_entropy
    from sslpipe.losses.patch import patch_info_nce

__all__ = [
    "batch_info_nce",
    "info_nce",
    "label_cross_entropy",
    "masked_l1",
    "masked_mse",
    "masked_token_cross_entropy",
    "negative_cosine",
    "nt_xent",
    "patch_info_nce",
    "rebalanced_cross_entropy",
    "sinkhorn",
    "swapped_prediction",
]

_HOMES = {
    "batch_info_nce": "contrastive",
    "info_nce": "contrastive",
    "masked_l1": "masked",
    "label_cross_entropy": "classes",
    "masked_mse": "masked",
    "masked_token_cross_entropy": "masked",
    "negative_cosine": "distillation",
    "nt_xent": "contrastive",
    "patch_info_nce": "patch",
    "rebalanced_cross_entropy": "classes",
    "sinkhorn": "clustering",
    "swapped_prediction": "clustering",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sslpipe.losses.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
