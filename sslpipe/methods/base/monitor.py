"""Numbers that several methods monitor, and when they say that all images have become alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslpipe.measures.geometry import effective_rank, spread

_EQUAL = 1e-3  # `feature_std` below which features are equal: two images' 1 − cosine, 1e-6, is rounded away in float32
_NARROW = 0.1  # `projection_std` below which projections point one way
_FLAT = 3.0  # `projection_rank` below which projections fill hardly any dimension


@torch.no_grad()
def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """How alike the rows of a and b [N, D] are, the mean over N: 1 for all is collapse."""
    return F.cosine_similarity(a.float(), b.float()).mean()


@torch.no_grad()
def entropy_share(chosen: Tensor, choices: int) -> Tensor:
    """Entropy of what N images chose, int64 [N], as a share of the largest there can be: 0 when all chose the same."""
    most = min(choices, len(chosen))
    p = torch.bincount(chosen, minlength=choices) / len(chosen)  # [choices]
    return torch.special.entr(p).sum() / math.log(most)


def spread_of(z: Tensor) -> dict[str, Tensor]:
    """How far projections [N, D] spread: what `alike` looks at."""
    return {"projection_std": spread(z), "projection_rank": effective_rank(z)}


def student_and_teacher(parts: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of a network's projections and its momentum network's, [n, D] each: their spread, and how far apart they are.

    teacher_gap: 1 − their cosine, the mean over images: 0 at the start, where the networks are equal, and again when
    momentum has reached 1 at the end; 1 when the one says nothing of the other.
    """
    student, teacher = (torch.cat(column) for column in zip(*parts, strict=True))
    return {**spread_of(student), "teacher_gap": 1 - mean_cosine(student, teacher)}


def alike(looks: Sequence[Mapping[str, float]]) -> str | None:
    """In what all images have become alike, in a few words; None where they can be told from each other.

    The looks are what was seen so far, the newest last: `epoch`, `feature_std`, and of methods that compare projections
    `projection_std` and `projection_rank`. The first is of random weights where its epoch is 0.

    A number is low where it is below a bound and below half of what random weights have, which so never count as
    collapsed. The bounds lie below what healthy runs on the bundled digits have (docs/guides/watching.md): a
    `feature_std` of .018 and more, since the features of masked image models share a large common part; a
    `projection_std` of .26 to 1; a `projection_rank` of 5 to 70.
    """
    now, first = looks[-1], looks[0]

    def low(name: str, bound: float) -> bool:
        before = first[name] / 2 if first["epoch"] == 0 and name in first else bound
        return now.get(name, bound) < min(bound, before)

    if not math.isfinite(now["feature_std"]):
        return "the features are not finite"
    if low("feature_std", _EQUAL):
        return f"all features are equal, their spread is {now['feature_std']:.2g}"
    if low("projection_std", _NARROW):
        return f"all projections point the same way, their spread is {now['projection_std']:.2g} of 1"
    if low("projection_rank", _FLAT):
        return f"all projections lie in few dimensions, their effective rank is {now['projection_rank']:.2g}"
    return None
