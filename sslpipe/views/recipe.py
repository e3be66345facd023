"""What a method wants to see of each image: a `Recipe` of `ViewSpec`s, and how overrides reach it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest
from sslpipe.core.config import Config

Operation = Literal["crop", "jitter", "grey", "blur", "solarize"]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
ORDER: tuple[Operation, ...] = ("crop", "jitter", "grey", "blur", "solarize")

# How messages name the two who may override a recipe.
USER, DATASET = "views.recipe", "the data set's recipe"
# What `share` takes from the other spec: everything that says which part of the image is seen.
SHARED = ("count", "scale", "ratio", "hflip", "vflip", "rotation", "quarter_turns")
# What overrides may not touch: it is what the method's code is written against.
FIXED = ("name", "share")


def _increasing(value: Range) -> Range:
    if not 0 < value[0] <= value[1]:
        raise ValueError("must be two numbers above 0, the smaller first")
    return value


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


class PatchMask(Config):
    """Which patches of a view are hidden.

    Kinds:
        random: exactly ⌈ratio · patches⌉ (MAE, SimMIM), as squares of `unit` x `unit` patches.
        block: blocks of `min_block` patches or more, aspect within `aspect`, until at most ⌊ratio · patches⌋
            are hidden (BEiT's blockwise masking: 75 of 196 is ratio .383).
        multi_block: `targets` blocks that cover `target_scale` of the patches each, aspect within
            `target_aspect`, and one square context of `context_scale` without the targets but of
            `min_context` patches at least (I-JEPA). A sample's block sizes are its own, where the official
            code has one for the batch, since a view depends on nothing else in its batch.
    """

    kind: Literal["random", "block", "multi_block"] = "random"
    patch_size: int = Field(ge=1)
    ratio: float = Field(0.75, gt=0, lt=1)
    unit: int = Field(1, ge=1)
    min_block: int = Field(16, ge=1)
    aspect: Range = (0.3, 1 / 0.3)
    targets: int = Field(4, ge=1)
    target_scale: Range = (0.15, 0.2)
    target_aspect: Range = (0.75, 1.5)
    context_scale: Range = (0.85, 1.0)
    min_context: int = Field(4, ge=1)

    @field_validator("aspect", "target_scale", "target_aspect", "context_scale")
    @classmethod
    def _check_range(cls, value: Range) -> Range:
        return _increasing(value)

    @field_validator("target_scale", "context_scale")
    @classmethod
    def _check_share(cls, value: Range) -> Range:
        if value[1] > 1:
            raise ValueError("must not be above 1: it is a share of the view")
        return value


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
        share: name of another spec: the same part of the image, flips and turns as that one's views, at this
            spec's size (BEiT's tokenizer). Everything is drawn from the same random numbers, so colour
            operations with the same settings come out the same too.
    """

    name: str = Field("view", pattern=r"^[a-z][a-z0-9_]*$")
    size: int = Field(ge=1, le=4096)
    count: int = Field(1, ge=1, le=256)
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    hflip: Probability = 0.5
    vflip: Probability = 0.0
    rotation: float = Field(0.0, ge=0, le=180)
    quarter_turns: bool = False
    jitter: Jitter | None = None
    grey: Probability = 0.0
    blur: Probability = 0.0
    blur_sigma: Range = (0.1, 2.0)
    blur_kernel: int | None = Field(None, ge=1)
    solarize: Probability = 0.0
    fill: float = Field(0.0, ge=0, le=1)
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    mask: PatchMask | None = None
    order: tuple[Operation, ...] = ORDER
    share: str | None = None

    @property
    def kernel(self) -> int:
        """Length of the blur's kernel in pixels."""
        return 2 * (self.size // 20) + 1 if self.blur_kernel is None else self.blur_kernel

    @field_validator("scale", "ratio", "blur_sigma")
    @classmethod
    def _check_range(cls, value: Range) -> Range:
        return _increasing(value)

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: Range) -> Range:
        if value[1] > 1:
            raise ValueError("must not be above 1: it is a share of the image's area")
        return value

    @field_validator("std")
    @classmethod
    def _check_std(cls, value: Colour) -> Colour:
        if min(value) <= 0:
            raise ValueError("must be three numbers above 0")
        return value

    @field_validator("order")
    @classmethod
    def _check_order(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if sorted(value) != sorted(ORDER):
            raise ValueError(f"must name each of {', '.join(ORDER)} once")
        if early := {"blur", "solarize"} & set(value[: value.index("crop")]):
            raise ValueError(f"{' and '.join(sorted(early))} must come after crop")
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


class Recipe(Config):
    """The views a method trains on, in the order it unpacks them."""

    views: tuple[ViewSpec, ...] = Field(min_length=1)

    @field_validator("views")
    @classmethod
    def _check_names(cls, views: tuple[ViewSpec, ...]) -> tuple[ViewSpec, ...]:
        names = [spec.name for spec in views]
        if len(set(names)) < len(names):
            raise ValueError("each view needs a name of its own")
        if clash := set(names) & set(ViewSpec.model_fields):
            raise ValueError(f"a view cannot be called {sorted(clash)[0]}, which is the name of a setting")
        return views

    @field_validator("views")
    @classmethod
    def _share(cls, views: tuple[ViewSpec, ...]) -> tuple[ViewSpec, ...]:
        named = {spec.name: spec for spec in views}
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
    recipe: Recipe,
    *,
    dataset: Mapping[str, Any] | None = None,
    user: Mapping[str, Any] | None = None,
    mean: Colour | None = None,
    std: Colour | None = None,
    setting: str = USER,
) -> Recipe:
    """The recipe that is trained on: the method's, changed by the data set, its statistics and the user.

    Args:
        recipe: the method's.
        dataset: the data set's own values, for every spec, as `{"hflip": 0.0}`; `jitter` and `mask` change
            only the specs that have one, key by key, and `scale` only those whose crops may be the whole image
            or less: not small crops, and not crops of one size.
        user: single values from params.yaml, laid on top: `{"hflip": 0.5}` for every spec or
            `{"<spec name>": {"hflip": 0.5}}` for one.
        mean: the data's channel means in [0, 1]; None leaves the method's.
        std: the data's channel deviations; None leaves the method's.
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
        spec = _override(spec, _for(spec, dataset) | statistics, DATASET, everywhere=True)
        spec = _override(spec, user, setting, everywhere=True)
        if spec.name in single:
            spec = _override_one(spec, single[spec.name], setting)
        views.append(spec)
    try:
        return Recipe(views=tuple(_shared(spec, {s.name: s for s in views}, refuse=False) for spec in views))
    except ValidationError as error:
        raise UserError(f"{setting}: {_first(error)}") from error


def _for(spec: ViewSpec, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's values that concern a spec."""
    whole_or_less = spec.scale[0] < spec.scale[1] == 1
    return {key: value for key, value in dataset.items() if key != "scale" or whole_or_less}


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
