"""Everything that may be done to a view: a row for each operation, and the settings that switch them on.

A row of `OPERATIONS` says what is drawn at random for the operation, how the report puts it into words, and how strong
the operation is where the robustness evaluation measures whether features ignore it. The table of drawn parameters, the
order of work, the drawing and the words derive from the rows. How pixels are made is the renderers' part:
`render/reference.py`, `render/cpu/colour.py` and `render/triton/colour.py` each have a function for each step.
docs/views.md says how to add an operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from sslpipe.core.config import Config
from sslpipe.views import philox
from sslpipe.views.masks import PatchMask
from sslpipe.views.values import Colour, IncreasingRange, PartOfArea, Probability, Range

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")  # of the jitter, in the order of its factors

# Random words are numbered within a view. A word has one use for ever, so that no operation moves another one's
# numbers; a new operation takes the next free word from `philox.OTHERS` on.
_FLIPS, _COLOUR = 4 * philox.FLIPS, 4 * philox.COLOUR


# ------------------------------------------------------------------------------------------- kinds of rows


@dataclass(frozen=True)
class Column:
    """A column of the table of drawn parameters; neighbours of one name are one column of several values side by side.

    For each view: if a random number in [0, 1) is below `chance`, the value is uniform between the `limits`, else it is
    `rest`. Columns of whole numbers round down.
    """

    name: str
    kind: Literal["?", "f4", "u1"]  # numpy's name of the type: flags, numbers, small whole numbers
    word: int  # number of the random word that gives the value
    limits: Callable[[ViewSpec], Range] = lambda spec: (1.0, 1.0)
    chance: Callable[[ViewSpec], float] = lambda spec: 1.0
    switch: int | None = None  # number of the random word that is held against the chance; by default `word`
    rest: float = 0.0
    choices: NDArray[np.uint8] | None = None  # if set, the whole number drawn stands for this row of it

    @property
    def words(self) -> tuple[int, int]:
        """The numbers of the random words that are the switch and the value."""
        return self.word if self.switch is None else self.switch, self.word


@dataclass(frozen=True)
class Strength:
    """A change of an image whose effect on features is measured, for every image and with nothing else changed."""

    name: str  # of the measurement
    words: str  # how strong the change is
    #: (u, size of the view) → columns of the table; u [N, 2] is uniform in [0, 1), drawn for each image. By default
    #: the operation's first column is 1.
    drawn: Callable[[NDArray[np.float64], int], Mapping[str, Any]] | None = None
    #: Size of the view → what the spec has to say besides.
    settings: Callable[[int], Mapping[str, Any]] = lambda size: {}
    #: Whether a spec has this change; by default, whether its operation has a chance.
    used: Callable[[ViewSpec], bool] | None = None


@dataclass(frozen=True)
class Operation:
    """One row."""

    name: str
    columns: tuple[Column, ...]  # what is drawn for it; where the first one is 0, nothing is done
    words: Callable[[ViewSpec], str]  # what the report says of it, nothing where it is switched off
    strengths: tuple[Strength, ...]  # how strong it is where its effect on features is measured
    in_crop: bool = False  # part of the step `crop` of `ViewSpec.order`, else a step of its own
    early: bool = False  # whether this step may come before the crop

    @property
    def step(self) -> str:
        """The step of `ViewSpec.order` that it is part of."""
        return "crop" if self.in_crop else self.name

    def chance(self, spec: ViewSpec) -> float:
        """The probability that a view of the spec undergoes it."""
        return self.columns[0].chance(spec) if self.columns else 1.0

    def has(self, spec: ViewSpec, strength: Strength) -> bool:
        """Whether views of the spec undergo one of the operation's `strengths`."""
        return self.chance(spec) > 0 if strength.used is None else strength.used(spec)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f}\u202f%"


def _often(word: str, chance: float) -> str:
    """An operation in words, with its probability unless it is certain."""
    if chance == 0:
        return ""
    return word if chance >= 1 else f"{word} {_percent(chance)}"


def _switch(name: str, word: int, said: str, strength: str, **place: bool) -> Operation:
    """An operation that is done or not, with the probability that its setting says."""

    def chance(spec: ViewSpec) -> float:
        return float(getattr(spec, name))

    columns, strengths = (Column(name, "?", word, chance=chance),), (Strength(name, strength),)
    return Operation(name, columns, lambda spec: _often(said, chance(spec)), strengths, **place)


def _sign(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """-1 or 1 for each image."""
    return np.where(u[:, 0] < 0.5, -1.0, 1.0)


# ------------------------------------------------------------------------------------------------- jitter


class Jitter(Config):
    """Colour jitter: with `probability`, the four adjustments in an order drawn for each sample.

    As torchvision's ColorJitter: factors uniform in [max(0, 1 - strength), 1 + strength], hue in [-hue, hue]
    turns of the colour wheel; an adjustment of strength 0 is left out. The defaults are SimCLR's at
    strength .5.
    """

    probability: Probability = 0.8
    brightness: float = Field(0.4, ge=0)
    contrast: float = Field(0.4, ge=0)
    saturation: float = Field(0.4, ge=0)
    hue: float = Field(0.1, ge=0, le=0.5)

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """Of the four adjustments, in the order of `ADJUSTMENTS`."""
        return self.brightness, self.contrast, self.saturation, self.hue


_NO_JITTER = Jitter(probability=0)
_ORDERS = np.array(list(permutations(range(4))), dtype=np.uint8)  # [24, 4]
_FACTOR, _HUE = 0.4, 0.1  # strengths at which the effect on features is measured


def _factor(place: int, name: str) -> Column:
    """The column of an adjustment's factor."""

    def limits(spec: ViewSpec) -> Range:
        strength = getattr(spec.jitter or _NO_JITTER, name)
        return (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)

    return Column("factors", "f4", _COLOUR + 1 + place, limits, rest=0.0 if name == "hue" else 1.0)


def _jitter_words(spec: ViewSpec) -> str:
    jitter = spec.jitter or _NO_JITTER
    strengths = zip(ADJUSTMENTS, jitter.strengths, strict=True)
    parts = ", ".join(f"{name} {strength:g}" for name, strength in strengths if strength)
    return f"jitter {_percent(jitter.probability)} ({parts})" if jitter.probability and parts else ""


def _jitter_strength(name: str) -> Strength:
    """One of the adjustments alone."""
    rest, strength, words = 1.0, _FACTOR, "factor 0.6 or 1.4"
    if name == "hue":
        rest, strength, words = 0.0, _HUE, "a tenth of the colour wheel to either side"
    alone = Jitter(probability=1, **dict.fromkeys(ADJUSTMENTS, 0.0) | {name: strength})

    def drawn(u: NDArray[np.float64], size: int) -> dict[str, Any]:
        factors = np.tile(np.array([1.0, 1.0, 1.0, 0.0]), (len(u), 1))
        factors[:, ADJUSTMENTS.index(name)] = rest + strength * _sign(u)
        return {"jitter": True, "factors": factors}

    def used(spec: ViewSpec) -> bool:
        return spec.jitter is not None and spec.jitter.probability * getattr(spec.jitter, name) > 0

    return Strength(name, words, drawn, settings=lambda size: {"jitter": alone}, used=used)


# ------------------------------------------------------------------------------------- the other operations

_ANGLE = 15.0  # degrees at which the effect of rotations on features is measured


def _sigma(size: int) -> float:
    """Of the blur whose effect on features is measured, in pixels."""
    return max(1.0, size / 100)


def _kernel(size: int) -> int:
    """The length of that blur's kernel."""
    return 2 * min(math.ceil(3 * _sigma(size)), size - 1) + 1


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "crop",
        columns=(),  # boxes are drawn by `sslpipe.views.drawing`
        words=lambda spec: f"crop of {100 * spec.scale[0]:.0f}\u2013{_percent(spec.scale[1])} of the area",
        strengths=(Strength("crop", "half the area, anywhere", used=lambda spec: spec.scale[0] < 1),),
    ),
    _switch("hflip", _FLIPS, "mirrored", "mirrored", in_crop=True),
    _switch("vflip", _FLIPS + 1, "upside down", "upside down", in_crop=True),
    Operation(
        "rotation",
        in_crop=True,
        columns=(
            Column(
                "angle", "f4", _FLIPS + 2,
                limits=lambda spec: (-spec.rotation, spec.rotation), chance=lambda spec: float(spec.rotation > 0),
            ),
        ),
        words=lambda spec: f"turned \u00b1{spec.rotation:g}\u00b0" if spec.rotation else "",
        strengths=(
            Strength(
                "rotation", "15° to either side",
                drawn=lambda u, size: {"angle": _ANGLE * _sign(u)}, settings=lambda size: {"rotation": _ANGLE},
            ),
        ),
    ),
    Operation(
        "quarter_turns",
        in_crop=True,
        columns=(
            Column(
                "turns", "u1", _FLIPS + 3,
                limits=lambda spec: (0, 4), chance=lambda spec: float(spec.quarter_turns),
            ),
        ),
        words=lambda spec: "quarter turns" if spec.quarter_turns else "",
        strengths=(
            Strength("quarter_turns", "90°, 180° or 270°", lambda u, size: {"turns": 1 + np.floor(3 * u[:, 0])}),
        ),
    ),
    Operation(
        "jitter",
        early=True,
        columns=(
            Column("jitter", "?", _COLOUR, chance=lambda spec: (spec.jitter or _NO_JITTER).probability),
            *(_factor(place, name) for place, name in enumerate(ADJUSTMENTS)),
            Column("order", "u1", _COLOUR + 5, lambda spec: (0, len(_ORDERS)), choices=_ORDERS),
        ),
        words=_jitter_words,
        strengths=tuple(_jitter_strength(name) for name in ADJUSTMENTS),
    ),
    _switch("grey", _COLOUR + 6, "grey", "without colour", early=True),
    Operation(
        "blur",
        columns=(
            Column(
                "sigma", "f4", _COLOUR + 8,
                limits=lambda spec: spec.blur_sigma, chance=lambda spec: spec.blur, switch=_COLOUR + 7,
            ),
        ),
        words=lambda spec: _often("blurred", spec.blur),
        strengths=(
            Strength(
                "blur", "deviation of 1 pixel, or 1 % of the side if that is more",
                drawn=lambda u, size: {"sigma": _sigma(size)}, settings=lambda size: {"blur_kernel": _kernel(size)},
            ),
        ),
    ),
    _switch("solarize", _COLOUR + 9, "solarized", "values from 0.5 up inverted"),
)  # fmt: skip

COLUMNS = tuple(column for operation in OPERATIONS for column in operation.columns)
#: The steps of the work, in the order that `ViewSpec.order` may change.
ORDER = tuple(dict.fromkeys(operation.step for operation in OPERATIONS))
#: The operations by their names.
NAMED = {operation.name: operation for operation in OPERATIONS}


# ------------------------------------------------------------------------------------------------ the spec


class ViewSpec(Config):
    """How `count` views of size x size pixels are made of each image; the fields left alone do nothing.

    Order of work: where `rotation` is not 0, rotate about the crop's centre at native scale (bilinear,
    `fill` outside the image); crop a box of `scale` of the image's area and aspect within `ratio`, resize it
    with antialiasing; flips, then quarter turns; colour; (x - mean) / std. `order` says where the colour
    operations come: MoCo v1 has grey before jitter, BEiT jitter before the crop (then contrast's mean is the
    whole image's).

    Attributes:
        name: how the method finds the views, unique within a recipe.
        size: side of the view in pixels.
        count: views an image.
        scale, ratio: crop, as torchvision's RandomResizedCrop.
        hflip, vflip, grey, blur, solarize: probabilities.
        rotation: degrees; the angle is uniform in ± this.
        quarter_turns: turn by 0, 90, 180 or 270 degrees, each as likely.
        blur_sigma: range of the Gaussian's standard deviation in pixels; blur_kernel: its odd length,
            2⌊size/20⌋ + 1 if None.
        fill: grey level in [0, 1] outside the image.
        mean, std: normalisation, of pixels in [0, 1].
        mask: patches hidden, or None.
        order: the steps, first to last. Steps that are left out come last, in the order of `ORDER`.
        share: name of another spec: the same part of the image, flips and turns as that one's views, at this
            spec's size (BEiT's tokenizer). Everything is drawn from the same random numbers, so colour
            operations with the same settings come out the same too.
    """

    name: str = Field("view", pattern=r"^[a-z][a-z0-9_]*$")
    size: int = Field(ge=1, le=4096)
    count: int = Field(1, ge=1, le=256)
    scale: PartOfArea = (0.08, 1.0)
    ratio: IncreasingRange = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    hflip: Probability = 0.5
    vflip: Probability = 0.0
    rotation: float = Field(0.0, ge=0, le=180)
    quarter_turns: bool = False
    jitter: Jitter | None = None
    grey: Probability = 0.0
    blur: Probability = 0.0
    blur_sigma: IncreasingRange = (0.1, 2.0)
    blur_kernel: int | None = Field(None, ge=1)
    solarize: Probability = 0.0
    fill: float = Field(0.0, ge=0, le=1)
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    mask: PatchMask | None = None
    order: tuple[str, ...] = ORDER
    share: str | None = None

    @property
    def kernel(self) -> int:
        """Length of the blur's kernel in pixels."""
        return 2 * (self.size // 20) + 1 if self.blur_kernel is None else self.blur_kernel

    @property
    def around_crop(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The steps before the crop, and those after it."""
        crop = self.order.index("crop")
        return self.order[:crop], self.order[crop + 1 :]

    @field_validator("std")
    @classmethod
    def _check_std(cls, value: Colour) -> Colour:
        if min(value) <= 0:
            raise ValueError("must be three numbers above 0")
        return value

    @field_validator("order")
    @classmethod
    def _complete_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or not set(value) <= set(ORDER):
            raise ValueError(f"must name steps of {', '.join(ORDER)}, each once")
        value = (*value, *(step for step in ORDER if step not in value))
        early = set(value[: value.index("crop")])
        if late := sorted(early - {operation.step for operation in OPERATIONS if operation.early}):
            raise ValueError(f"{' and '.join(late)} must come after crop")
        return value

    @model_validator(mode="after")
    def _check_fit(self) -> ViewSpec:
        if self.kernel % 2 == 0 or self.kernel // 2 >= self.size:
            raise ValueError(f"blur_kernel must be odd and below {2 * self.size} for size {self.size}")
        if self.mask is not None:
            side = self.mask.patch_size * (self.mask.unit if self.mask.kind == "random" else 1)
            if self.size % side:
                raise ValueError(f"size {self.size} is not a multiple of the mask's {side} pixels")
        return self


def in_words(values: Mapping[str, Any]) -> str:
    """What a spec does, as a list in words; empty where it does nothing, or cannot be read.

    Args:
        values: of the spec, as recipe.json has them. Those that no spec of today has are passed over.
    """
    known = {name: value for name, value in values.items() if name in ViewSpec.model_fields}
    try:
        spec = ViewSpec.model_validate(known)
    except ValidationError:
        return ""
    words = [operation.words(spec) for operation in OPERATIONS]
    if spec.mask is not None:
        words.append(f"{_percent(spec.mask.ratio)} of the patches hidden")
    return ", ".join(filter(None, words))
