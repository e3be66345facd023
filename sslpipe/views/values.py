"""Kinds of values that settings of views have, and what they must be."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
Colour = tuple[float, float, float]


def increasing(value: Range) -> Range:
    """A range as it is.

    Raises:
        ValueError: it is not two numbers above 0, the smaller first.
    """
    if not 0 < value[0] <= value[1]:
        raise ValueError("must be two numbers above 0, the smaller first")
    return value


def check_share(value: Range, of: str) -> Range:
    """A range of shares as it is.

    Raises:
        ValueError: it goes beyond the whole.
    """
    if value[1] > 1:
        raise ValueError(f"must not be above 1: it is a share of {of}")
    return value
