from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.views import Jitter, PatchMask, Recipe, ViewSpec, philox, resolve
from sslpipe.views.operations import OPERATIONS, ORDER, in_words
from sslpipe.views.recipe import SHARED

PAIR = Recipe(views=(ViewSpec(name="a", size=32, jitter=Jitter(), grey=0.2), ViewSpec(name="b", size=32)))
BEIT = Recipe(
    views=(
        ViewSpec(
            name="image",
            size=224,
            scale=(0.2, 1),
            interpolation="bicubic",
            jitter=Jitter(probability=1),
            mask=PatchMask(kind="block", patch_size=16, ratio=0.383),
            order=("jitter", "crop", "grey", "blur", "solarize"),
        ),
        ViewSpec(
            name="tokenizer",
            size=112,
            share="image",
            jitter=Jitter(probability=1),
            order=("jitter", "crop", "grey", "blur", "solarize"),
        ),
    )
)


@pytest.mark.parametrize("recipe", [PAIR, BEIT], ids=["pair", "beit"])
def test_json_and_back(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert '"hflip": 0.5' in recipe.to_json()


def test_what_is_not_a_recipe() -> None:
    with pytest.raises(UserError, match="not a view recipe"):
        Recipe.from_json('{"views": [{"name": "a"}]}')


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys; from sslpipe.views import ViewSpec; assert ViewSpec and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "greater than or equal to 1"),
        ({"scale": (0.5, 0.2)}, "the smaller first"),
        ({"scale": (0.5, 1.2)}, "share of the image"),
        ({"ratio": (0.0, 1.0)}, "above 0"),
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"order": ("jitter", "crop", "jitter")}, "once"),
        ({"order": ("jitter", "crop", "mirror")}, "steps of crop, jitter"),
        ({"order": ("blur", "crop", "jitter", "grey", "solarize")}, "blur must come after crop"),
        ({"blur_kernel": 4}, "odd"),
        ({"blur_kernel": 65}, "below 64"),
        ({"mask": PatchMask(patch_size=5)}, "multiple"),
        ({"mask": PatchMask(patch_size=4, unit=3)}, "multiple"),
        ({"hflip": 1.5}, "less than or equal to 1"),
        ({"hflp": 0.5}, "Extra inputs"),
    ],
)
def test_a_spec_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ViewSpec(**({"size": 32} | values))


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "at least 1"),
        ([ViewSpec(name="a", size=8)] * 2, "name of its own"),
        ([ViewSpec(name="hflip", size=8)], "name of a setting"),
        ([ViewSpec(name="a", size=8, share="b")], "no view with a crop of its own"),
        ([ViewSpec(name="a", size=8, share="a")], "no view with a crop of its own"),
        ([ViewSpec(name="a", size=8), ViewSpec(name="b", size=8, share="a", hflip=0.1)], "set hflip there"),
    ],
)
def test_a_recipe_that_cannot_be(views: list[ViewSpec], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe(views=tuple(views))


def test_the_blurs_kernel() -> None:
    assert [ViewSpec(size=size).kernel for size in (1, 19, 28, 32, 96, 224)] == [1, 1, 3, 3, 9, 23]
    assert ViewSpec(size=96, blur_kernel=5).kernel == 5


@pytest.mark.parametrize("order", [(), ("jitter",), ("jitter", "crop"), ("crop", "solarize")])
def test_steps_that_an_order_leaves_out_come_last(order: tuple[str, ...]) -> None:
    assert ORDER[:5] == ("crop", "jitter", "grey", "blur", "solarize")
    expected = (*order, *(step for step in ORDER if step not in order))
    assert ViewSpec(size=8, order=order).order == expected


def test_sharing_takes_the_crop_and_nothing_else() -> None:
    image, tokenizer = BEIT.views
    assert tokenizer.scale == image.scale == (0.2, 1)
    assert (tokenizer.size, tokenizer.interpolation, tokenizer.mask) == (112, "bilinear", None)


def test_resolve_merges_data_set_statistics_and_user() -> None:
    recipe = resolve(
        PAIR,
        dataset={
            "hflip": 0.0,
            "rotation": 15.0,
            "scale": [0.3, 1.0],
            "jitter": {"saturation": 0.0, "hue": 0.0},
        },
        user={"grey": 0.1, "rotation": 5, "b": {"grey": 0.4}},
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    a, b = recipe.views
    assert a.jitter == Jitter(saturation=0, hue=0)  # the method's other strengths stay
    assert b.jitter is None  # and a view without jitter is not given one
    assert (a.hflip, a.rotation, a.scale, a.grey) == (0, 5, (0.3, 1), 0.1)
    assert (b.hflip, b.rotation, b.scale, b.grey) == (0, 5, (0.3, 1), 0.4)
    assert (a.mean, b.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert resolve(PAIR) == PAIR


def test_resolve_a_channel_that_never_changes() -> None:
    assert resolve(PAIR, std=(0.2, 0.0, 0.1))["a"].std == (0.2, 1 / 255, 0.1)


def test_resolve_user_wins_over_data_set_and_statistics() -> None:
    recipe = resolve(
        PAIR, dataset={"hflip": 0.0}, user={"hflip": 0.5, "mean": [0, 0, 0]}, mean=(0.1, 0.2, 0.3)
    )
    assert recipe["a"].hflip == 0.5
    assert recipe["a"].mean == (0, 0, 0)


def test_resolve_single_views() -> None:
    recipe = resolve(PAIR, user={"b": {"jitter": {"hue": 0.0}}, "jitter": {"hue": 0.2}})
    assert recipe["a"].jitter == Jitter(hue=0.2)
    assert recipe["b"].jitter == Jitter(hue=0.0)
    assert resolve(PAIR, user={"a": {"jitter": None}})["a"].jitter is None
    assert resolve(PAIR, user={"jitter": None})["a"].jitter is None


def test_resolve_keeps_shared_crops_shared() -> None:
    for user in ({"scale": [0.5, 1.0]}, {"image": {"scale": [0.5, 1.0]}}):
        recipe = resolve(BEIT, dataset={"hflip": 0.0}, user=user)
        assert [spec.scale for spec in recipe.views] == [(0.5, 1)] * 2
        assert [spec.hflip for spec in recipe.views] == [0, 0]
    assert (
        resolve(BEIT, user={"tokenizer": {"interpolation": "bicubic"}})["tokenizer"].interpolation
        == "bicubic"
    )


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"hflp": 0}, "views.recipe: unknown key hflp; did you mean hflip?"),
        ({"zzz": 0}, "views.recipe: unknown key zzz; known are size, count"),
        ({"a": {"hflp": 0}}, "views.recipe.a: unknown key hflp; did you mean hflip?"),
        ({"jitter": {"hu": 0}}, "views.recipe.jitter: unknown key hu; did you mean hue?"),
        ({"name": "x"}, "views.recipe: unknown key name"),
        ({"hflip": 2}, "views.recipe.hflip: input should be less than or equal to 1, not 2"),
        (
            {"a": {"jitter": {"hue": 0.7}}},
            "views.recipe.a.jitter.hue: input should be less than or equal to 0.5, not 0.7",
        ),
        (
            {"scale": [0.5, 0.2]},
            "views.recipe.scale: must be two numbers above 0, the smaller first, not [0.5, 0.2]",
        ),
        ({"a": 3}, "views.recipe.a must be a mapping of settings"),
        ({"mask": {"ratio": 0.5}}, "views.recipe.mask: no view of this method has a mask"),
        ({"b": {"mask": {"ratio": 0.5}}}, "views.recipe.b.mask.patch_size: field required"),
        ({"hflip": "often"}, "views.recipe.hflip: input should be a valid number"),
        ({"blur_kernel": 2}, "views.recipe.blur_kernel must be odd"),
    ],
)
def test_resolve_says_what_is_wrong(user: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(PAIR, user=user)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_resolve_refuses_a_crop_where_it_is_shared() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.scale: tokenizer shares the crop of image, so set"):
        resolve(BEIT, user={"tokenizer": {"scale": [0.5, 1.0]}})


def test_resolve_names_the_data_sets_mistakes() -> None:
    with pytest.raises(UserError, match="the data set's recipe: unknown key flip"):
        resolve(PAIR, dataset={"flip": 1})
    with pytest.raises(UserError, match="the data set's recipe: hflip: input should be"):
        resolve(PAIR, dataset={"hflip": 2})


def test_a_data_sets_scale_leaves_small_crops_and_crops_of_one_size_alone() -> None:
    specs = {"global": (0.14, 1.0), "local": (0.05, 0.14), "whole": (1.0, 1.0)}
    recipe = Recipe(views=tuple(ViewSpec(name=name, size=8, scale=scale) for name, scale in specs.items()))
    resolved = resolve(recipe, dataset={"scale": (0.3, 1.0), "hflip": 0.0})
    assert [spec.scale for spec in resolved.views] == [(0.3, 1.0), (0.05, 0.14), (1.0, 1.0)]
    assert [spec.scale for spec in resolve(recipe, user={"scale": (0.3, 0.9)}).views] == [(0.3, 0.9)] * 3


def test_every_operation_has_settings_and_words_and_random_words_of_its_own() -> None:
    used: set[int] = set()
    assert set(SHARED) <= set(ViewSpec.model_fields)
    for row in OPERATIONS:
        assert row.name == "crop" or row.name in ViewSpec.model_fields
        words = {word for column in row.columns for word in column.words}
        assert not words & used
        assert all(4 * philox.FLIPS <= word < 4 * philox.MASK for word in words)
        used |= words
        assert row.strengths


def test_a_spec_in_words() -> None:
    spec = ViewSpec(
        size=32, scale=(0.2, 1), vflip=1.0, rotation=10, quarter_turns=True, jitter=Jitter(hue=0), grey=0.2, blur=0.5,
        solarize=0.1, mask=PatchMask(patch_size=4),
    )  # fmt: skip
    assert in_words(spec.model_dump(mode="json")) == (
        "crop of 20–100\u202f% of the area, mirrored 50\u202f%, upside down, turned ±10°, quarter turns, "
        "jitter 80\u202f% (brightness 0.4, contrast 0.4, saturation 0.4), grey 20\u202f%, blurred 50\u202f%, "
        "solarized 10\u202f%, 75\u202f% of the patches hidden"
    )
    assert in_words({"size": 32, "sharpness": 3, "hflip": 0}) == "crop of 8–100\u202f% of the area"
    assert in_words({"size": "wide"}) == ""
