"""Kinds of values that settings of views have, and what they must be."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
Colour = tuple[float, float, float]


def _increasing(value: Range) -> Range:
    if not 0 < value[0] <= value[1]:
        raise ValueError("must be two numbers above 0, the smaller first")
    return value


def _within(value: Range, whole: str) -> Range:
    if value[1] > 1:
        raise ValueError(f"must not be above 1: it is a share of {whole}")
    return value


IncreasingRange = Annotated[Range, AfterValidator(_increasing)]
PartOfArea = Annotated[IncreasingRange, AfterValidator(partial(_within, whole="the image's area"))]
PartOfView = Annotated[IncreasingRange, AfterValidator(partial(_within, whole="the view"))]
