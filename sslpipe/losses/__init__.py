"""Losses: pure functions, tensors in, a scalar out; float32 (float64 if given) also under autocast."""

from sslpipe.losses.classes import label_cross_entropy, rebalanced_cross_entropy
from sslpipe.losses.clustering import sinkhorn, swapped_prediction
from sslpipe.losses.contrastive import batch_info_nce, info_nce, negative_cosine, nt_xent
from sslpipe.losses.masked import masked_l1, masked_mse, masked_token_cross_entropy
from sslpipe.losses.patch import patch_info_nce
from sslpipe.losses.precision import similarity, unit

__all__ = [
    "batch_info_nce", "info_nce", "label_cross_entropy", "masked_l1", "masked_mse", "masked_token_cross_entropy",
    "negative_cosine", "nt_xent", "patch_info_nce", "rebalanced_cross_entropy", "similarity", "sinkhorn",
    "swapped_prediction", "unit",
]  # fmt: skip
