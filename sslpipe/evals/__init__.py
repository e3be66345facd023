"""Evaluations of an encoder, each beside the same protocol on random weights."""

from __future__ import annotations

import importlib
from functools import cache

from sslpipe.core.config import Config
from sslpipe.evals.base.declaration import Evaluation, Score


@cache
def declarations() -> dict[str, Evaluation]:
    """All evaluations by name, in the order of the report."""
    return {
        "knn": Evaluation(title="k-NN", about="", order=10, subject="k-NN", rank=1),
        "retrieval": Evaluation(
            title="Retrieval", about="", order=20,
            scores=(Score(key="map", title="Retrieval, mean average precision, %"),),
        ),
        "linear": Evaluation(title="Linear probe", about="", order=30, subject="a linear probe", rank=0),
        "online": Evaluation(
            title="Linear probe, augmented", about="", order=40, subject="a linear probe on augmented views", rank=2
        ),
        "attentive": Evaluation(title="Attentive probe", about="", order=50, subject="an attentive probe", rank=3),
        "finetune": Evaluation(title="Fine-tuning", about="", order=60, subject="fine-tuning", rank=4),
        "diagnostics": Evaluation(
            title="Diagnostics", about="", order=70,
            scores=(Score(key="rankme", title="RankMe", factor=1), Score(key="lidar", title="LiDAR", factor=1)),
        ),
        "robustness": Evaluation(
            title="Robustness", about="", order=80,
            scores=(Score(key="mean_corrupted_top1", title="k-NN under corruptions, %"),),
        ),
        "segment": Evaluation(
            title="Segmentation", about="", order=90,
            scores=(
                Score(key="miou", title="Segmentation, linear, mIoU, %"),
                Score(key="knn_miou", title="Segmentation, k-NN, mIoU, %"),
                Score(key="finetuned_miou", title="Segmentation, fine-tuned, mIoU, %"),
            ),
        ),
        "detect": Evaluation(
            title="Detection", about="", order=100,
            scores=(Score(key="ap50", title="Detection, AP50, %"), Score(key="map", title="Detection, mAP, %")),
        ),
        "transfer": Evaluation(
            title="Another set", about="", order=110,
            scores=(
                Score(key="linear_top1", title="Another set, linear probe, %"),
                Score(key="knn_top1", title="Another set, k-NN, %"),
            ),
        ),
    }  # fmt: skip


def names() -> tuple[str, ...]:
    """The names of all evaluations, in the order of the report."""
    return tuple(declarations())


def config_of(name: str) -> type[Config]:
    """The Config of an evaluation."""
    found: type[Config] = importlib.import_module(f"{__name__}.{name}").Config
    return found
