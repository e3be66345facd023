"""The official view recipes: what each paper's own code does to an image, as a YAML file a method in `recipes/`.

A file says `paper`, `code` (where its values were checked), the `image_size` and, where patches are hidden, the
`patch_size` that it is written for; then `views`, or several lists of them by name under `variants`, the first of
which holds where none is asked for. A view is a ViewSpec's values, in the order that the method unpacks them, and
perhaps `multiple`, what its size is a multiple of: a number of pixels, or `grid` for the patches along a side.

At another size everything keeps its proportion to the image: a view's size, rounded to its multiple (by default the
patch size, where there is one); a blur's kernel, rounded down to an odd number; squares and blocks of patches to
their share of the grid. Sigmas stay in pixels, as in the official codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest
from sslpipe.core.config import Config
from sslpipe.core.yaml import read
from sslpipe.views.recipe import Recipe

_FOLDER = Path(__file__).parent

Views = tuple[dict[str, Any], ...]


class _File(Config):
    """One file, as it stands there."""

    paper: str
    code: str
    image_size: int = Field(ge=1)
    patch_size: int | None = Field(None, ge=1)
    views: Views = ()
    variants: Mapping[str, Views] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_either(self) -> _File:
        if bool(self.views) == bool(self.variants):
            raise ValueError("give either views or variants")
        return self


@cache
def names() -> tuple[str, ...]:
    """The methods that have an official recipe, in alphabetical order."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def variants(name: str) -> tuple[str, ...]:
    """The variants of a recipe, first the one that holds where none is asked for; none if it has one form only.

    Raises:
        UserError: there is no such recipe.
    """
    return tuple(_open(name).variants)


def official(
    name: str, image_size: int, *, patch_size: int | None = None, variant: str | None = None
) -> Recipe:
    """The views of a paper's own code, at `image_size` pixels a side.

    That is the size of the encoder's input, and of most large views. The backbone's patch size is needed where patches
    are hidden, and small views are a multiple of it. The variant is the first of `variants(name)` if None.

    Raises:
        UserError: an unknown name or variant (with the nearest spelling), no patch size where one is needed, or
            sizes that do not fit each other.
    """
    file = _open(name)
    variant = variant or next(iter(file.variants), None)
    if variant is not None and variant not in file.variants:
        raise UserError(_unknown(f"the official recipe of {name} has no variant", variant, file.variants))
    views = file.views if variant is None else file.variants[variant]
    if patch_size is None and any("mask" in view for view in views):
        raise UserError(
            f"{name} masks patches: give the backbone's patch size, or set pretrain.backbone to a ViT"
        )
    try:
        return Recipe.parse({"views": [_scaled(view, file, image_size, patch_size) for view in views]})
    except ValidationError as error:
        raise UserError(f"the official recipe of {name} at {image_size} pixels: {_reason(error)}") from error


def _open(name: str) -> _File:
    if name not in names():
        raise UserError(_unknown("there is no official recipe", name, names()))
    return _parsed(_FOLDER / f"{name}.yaml")


@cache
def _parsed(path: Path) -> _File:
    try:
        return _File.parse(read(path))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"]) or "views"
        raise UserError(f"{path}: {key}: {_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    hint = f"did you mean {near}?" if near else f"choose from {', '.join(known) or 'none'}"
    return f"{what} `{name}`; {hint}"


def _scaled(view: dict[str, Any], file: _File, image_size: int, patch_size: int | None) -> dict[str, Any]:
    """A view's values at another image size and patch size."""
    view = dict(view)
    multiple = view.pop("multiple", None) or patch_size or 1
    if multiple == "grid":
        assert patch_size is not None  # a view that needs the grid stands beside one whose patches are hidden
        multiple = max(1, image_size // patch_size)
    if view["size"] == file.image_size:
        view["size"] = image_size
    else:
        view["size"] = _nearest(view["size"] * image_size, file.image_size, multiple)
    if "blur_kernel" in view:
        view["blur_kernel"] = view["blur_kernel"] * image_size // file.image_size // 2 * 2 + 1
    if "mask" in view:
        assert patch_size is not None
        assert file.patch_size is not None
        paper, grid = file.image_size // file.patch_size, image_size // patch_size
        view["mask"] = {"patch_size": patch_size, **_mask(view["mask"], paper, grid)}
    return view


def _mask(mask: dict[str, Any], paper: int, grid: int) -> dict[str, Any]:
    """A mask written for `paper` x `paper` patches, at `grid` x `grid`."""
    mask = dict(mask)
    if "unit" in mask:  # squares must fill the grid, so only a divisor will do
        ideal = mask["unit"] * grid / paper
        divisors = [side for side in range(1, grid + 1) if grid % side == 0]
        mask["unit"] = min(divisors or [1], key=lambda side: abs(side - ideal))
    if "min_block" in mask:
        mask["min_block"] = _nearest(mask["min_block"] * grid**2, paper**2, 1)
    if "min_context" in mask:  # a floor, the same in the official code for 14 x 14 and 28 x 28 patches
        mask["min_context"] = min(mask["min_context"], _nearest(mask["min_context"] * grid**2, paper**2, 1))
    return mask


def _nearest(numerator: int, denominator: int, multiple: int) -> int:
    """The multiple nearest to a fraction, the larger of two, and not 0."""
    step = denominator * multiple
    return multiple * max(1, (2 * numerator + step) // (2 * step))
