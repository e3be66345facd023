"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sslpipe.core.config import nest, numbers


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        metrics: its numbers, in mappings of any depth. A number of a baseline has that baseline's prefix, in the last
            part of its name or in the first: `random_init_top1`, `random_init_corruptions.jpeg.3`.
        protocol: how they were measured; `chosen_on` says what chose the hyper-parameters.
        details: what is drawn of it, such as predictions; never written as it is.
    """

    metrics: Mapping[str, Any]
    protocol: Mapping[str, Any]
    details: Any = None


def headline(metrics: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The part of nested metrics that `names`, an `Evaluation.headline`, stand for, nested as before."""
    return nest(
        {name: value for name, value in numbers(metrics).items() if any(fits(name, each) for each in names)}
    )


def fits(name: str, pattern: str) -> bool:
    """Whether a dotted name is one of those that a pattern of `Evaluation.headline` stands for."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(w in ("*", part) for part, w in zip(parts, wanted, strict=True))
