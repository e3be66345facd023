"""What a method wants to see of each image: a `Recipe` of `ViewSpec`s, and how overrides reach it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest
from sslpipe.core.config import Config
from sslpipe.views.masks import PatchMask
from sslpipe.views.operations import IMAGENET_MEAN, IMAGENET_STD, OPERATIONS, Jitter, ViewSpec
from sslpipe.views.values import Colour

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Colour", "Jitter", "PatchMask", "Recipe", "ViewSpec", "resolve"]

# How messages name the two who may override a recipe.
USER, DATASET = "views.recipe", "the data set's recipe"
# What `share` takes from the other spec: everything that says which part of the image is seen.
SHARED = ("count", "scale", "ratio", *(row.name for row in OPERATIONS if row.in_crop))
# What overrides may not touch: it is what the method's code is written against.
FIXED = ("name", "share")


class Recipe(Config):
    """The views a method trains on, in the order it unpacks them."""

    views: tuple[ViewSpec, ...] = Field(min_length=1)

    @field_validator("views")
    @classmethod
    def _check_views(cls, views: tuple[ViewSpec, ...]) -> tuple[ViewSpec, ...]:
        named = {spec.name: spec for spec in views}
        if len(named) < len(views):
            raise ValueError("each view needs a name of its own")
        if clash := named.keys() & set(ViewSpec.model_fields):
            raise ValueError(f"a view cannot be called {sorted(clash)[0]}, which is the name of a setting")
        return tuple(_shared(spec, named) for spec in views)

    def __getitem__(self, name: str) -> ViewSpec:
        """The spec of that name."""
        return next(spec for spec in self.views if spec.name == name)

    def to_json(self) -> str:
        """The whole recipe, every value spelt out."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """The recipe `to_json` wrote.

        Raises:
            UserError: the text is not a recipe.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"not a view recipe: {_first(error)}; run stage `views` again") from error


def resolve(
    recipe: Recipe, *, dataset: Mapping[str, Any] | None = None, user: Mapping[str, Any] | None = None,
    mean: Colour | None = None, std: Colour | None = None, setting: str = USER,
) -> Recipe:  # fmt: skip
    """The recipe that is trained on: the method's, changed by the data set, its statistics and the user.

    Args:
        recipe: the method's.
        dataset: the data set's own values, for every spec, as `{"hflip": 0.0}`; `jitter` and `mask` change
            only the specs that have one, key by key, and `scale` only those whose crops may be the whole image
            or less: not small crops, and not crops of one size.
        user: single values from params.yaml, laid on top: `{"hflip": 0.5}` for every spec or
            `{"<spec name>": {"hflip": 0.5}}` for one.
        mean, std: of the data's channels, in [0, 1]; None leaves the method's.
        setting: where the user's values stand, for error messages.

    Raises:
        UserError: an unknown key (with the nearest spelling) or a value out of range.
    """
    names = [spec.name for spec in recipe.views]
    dataset, user = dict(dataset or {}), dict(user or {})
    _check_keys(dataset, [], DATASET)
    _check_keys(user, names, setting)
    single = {name: user.pop(name) for name in names if name in user}
    for key in ("jitter", "mask"):
        if user.get(key) is not None and not any(getattr(spec, key) for spec in recipe.views):
            raise UserError(
                f"{setting}.{key}: no view of this method has a {key}; set it for one view by name, "
                f"as {setting}.{names[0]}.{key}"
            )
    statistics: dict[str, Any] = {} if mean is None else {"mean": mean}
    if std is not None:
        statistics["std"] = tuple(max(value, 1 / 255) for value in std)  # a channel may be empty
    views = []
    for spec in recipe.views:
        whole_or_less = spec.scale[0] < spec.scale[1] == 1
        of_data = {key: value for key, value in dataset.items() if key != "scale" or whole_or_less}
        spec = _override(spec, of_data | statistics, DATASET, everywhere=True)
        spec = _override(spec, user, setting, everywhere=True)
        if spec.name in single:
            spec = _override_one(spec, single[spec.name], setting)
        views.append(spec)
    try:
        return Recipe(views=tuple(_shared(spec, {s.name: s for s in views}, refuse=False) for spec in views))
    except ValidationError as error:
        raise UserError(f"{setting}: {_first(error)}") from error


def _shared(spec: ViewSpec, named: Mapping[str, ViewSpec], refuse: bool = True) -> ViewSpec:
    """The spec with the crop of the spec it shares with."""
    if spec.share is None:
        return spec
    other = named.get(spec.share)
    if other is None or other.share is not None:
        raise ValueError(f"{spec.name} shares {spec.share}, which is no view with a crop of its own")
    for key in SHARED if refuse else ():
        if key in spec.model_fields_set and getattr(spec, key) != getattr(other, key):
            raise ValueError(f"{spec.name} shares the crop of {spec.share}: set {key} there")
    return spec.model_copy(update={key: getattr(other, key) for key in SHARED})


def _override_one(spec: ViewSpec, values: Any, setting: str) -> ViewSpec:
    where = f"{setting}.{spec.name}"
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping of settings, as {where}: {{hflip: 0.0}}")
    _check_keys(values, [], where)
    if spec.share is not None and (keys := [key for key in SHARED if key in values]):
        raise UserError(f"{where}.{keys[0]}: {spec.name} shares the crop of {spec.share}, so set it there")
    return _override(spec, values, where, everywhere=False)


def _override(spec: ViewSpec, values: Mapping[str, Any], where: str, *, everywhere: bool) -> ViewSpec:
    """The spec with some values replaced; jitter and mask are merged key by key."""
    merged = spec.model_dump(exclude_unset=True)
    for key, value in values.items():
        if key in ("jitter", "mask"):
            present = getattr(spec, key)
            if present is None and everywhere:
                continue
            if isinstance(value, Mapping):
                _check_keys(value, [], f"{where}.{key}", model=Jitter if key == "jitter" else PatchMask)
                value = (present.model_dump() if present is not None else {}) | dict(value)
        merged[key] = value
    try:
        return ViewSpec.model_validate(merged)
    except ValidationError as error:
        raise UserError(f"{where}{': ' if ' ' in where else '.'}{_first(error)}") from error


def _check_keys(
    values: Mapping[str, Any], names: list[str], where: str, model: type[Config] = ViewSpec
) -> None:
    """Refuse a key that is neither a setting nor the name of a view."""
    known = [key for key in model.model_fields if model is not ViewSpec or key not in FIXED] + names
    for key in values:
        if key not in known:
            near = nearest(str(key), known)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key}; {hint}")


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints as `key: what is wrong, not value`."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = "" if isinstance(first["input"], (Mapping, Config)) else f", not {first['input']!r}"
    return f"{place}: {message}{value}" if place else message
