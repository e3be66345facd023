from __future__ import annotations

import math
import random
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats

from sslpipe import methods, recipes
from sslpipe.console.errors import UserError
from sslpipe.core.yaml import read
from sslpipe.data.batch import Batch
from sslpipe.methods.base.method import Method
from sslpipe.recipes import official as module
from sslpipe.recipes.official import names, official, variants
from sslpipe.views import Jitter, PatchMask, Recipe, ViewEngine, ViewSpec, masks, resolve
from sslpipe.views.render import reference

FOLDER = Path(recipes.__file__).parent
ALL = [(name, variant) for name in names() for variant in variants(name) or (None,)]
STRONG = Jitter(probability=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)  # SimCLR, SwAV
MILD = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)  # MoCo v2 and after
BYOLS = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
BEITS = Jitter(probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0)
MOCO = ViewSpec(name="view", size=224, count=2, scale=(0.2, 1.0), jitter=MILD, grey=0.2, blur=0.5)


def pair(low: float, interpolation: str) -> tuple[ViewSpec, ...]:
    """BYOL's two views, with crops from `low` on."""
    both: dict[str, Any] = {"size": 224, "scale": (low, 1.0), "interpolation": interpolation, "grey": 0.2}
    return (
        ViewSpec(name="view1", jitter=BYOLS, blur=1.0, solarize=0.0, **both),
        ViewSpec(name="view2", jitter=BYOLS, blur=0.1, solarize=0.2, **both),
    )


# At 224 pixels and patches of 16, from the official code that each file names.
OFFICIAL: dict[tuple[str, str | None], tuple[ViewSpec, ...]] = {
    ("simclr", None): (
        ViewSpec(
            name="view", size=224, count=2, scale=(0.08, 1.0), interpolation="bicubic", jitter=STRONG,
            grey=0.2, blur=0.5,
        ),
    ),
    ("moco", "v2"): (MOCO,),
    ("moco", "v1"): (
        ViewSpec(
            name="view", size=224, count=2, scale=(0.2, 1.0), grey=0.2,
            jitter=Jitter(probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
            order=("crop", "grey", "jitter", "blur", "solarize"),
        ),
    ),
    ("simsiam", None): (MOCO,),
    ("patch_contrast", None): (MOCO,),
    ("mocov3", "resnet"): pair(0.2, "bilinear"),
    ("mocov3", "vit"): pair(0.08, "bilinear"),
    ("byol", None): pair(0.08, "bicubic"),
    ("swav", None): (
        ViewSpec(
            name="global", size=224, count=2, scale=(0.14, 1.0), jitter=STRONG, grey=0.2, blur=0.5,
            std=(0.228, 0.224, 0.225),
        ),
        ViewSpec(
            name="local", size=96, count=6, scale=(0.05, 0.14), jitter=STRONG, grey=0.2, blur=0.5, blur_kernel=13,
            std=(0.228, 0.224, 0.225),
        ),
    ),
    ("dino", None): (
        ViewSpec(
            name="global1", size=224, scale=(0.4, 1.0), interpolation="bicubic", jitter=BYOLS, grey=0.2, blur=1.0,
        ),
        ViewSpec(
            name="global2", size=224, scale=(0.4, 1.0), interpolation="bicubic", jitter=BYOLS, grey=0.2, blur=0.1,
            solarize=0.2,
        ),
        ViewSpec(
            name="local", size=96, count=8, scale=(0.05, 0.4), interpolation="bicubic", jitter=BYOLS, grey=0.2,
            blur=0.5, blur_kernel=13,
        ),
    ),
    ("mae", None): (
        ViewSpec(
            name="view", size=224, scale=(0.2, 1.0), interpolation="bicubic",
            mask=PatchMask(kind="random", patch_size=16, ratio=0.75),
        ),
    ),
    ("beit", None): (
        ViewSpec(
            name="image", size=224, scale=(0.08, 1.0), interpolation="bicubic", jitter=BEITS,
            order=("jitter", "crop", "grey", "blur", "solarize"),
            mask=PatchMask(kind="block", patch_size=16, ratio=0.383, min_block=16, aspect=(0.3, 1 / 0.3)),
        ),
        ViewSpec(
            name="tokenizer", size=112, share="image", interpolation="bicubic", jitter=BEITS,
            order=("jitter", "crop", "grey", "blur", "solarize"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        ),
    ),
    ("simmim", None): (
        ViewSpec(
            name="view", size=224, scale=(0.67, 1.0), mask=PatchMask(kind="random", patch_size=16, ratio=0.6, unit=2)
        ),
    ),
    ("ijepa", None): (
        ViewSpec(
            name="view", size=224, scale=(0.3, 1.0), hflip=0.0,
            mask=PatchMask(
                kind="multi_block", patch_size=16, targets=4, target_scale=(0.15, 0.2), target_aspect=(0.75, 1.5),
                context_scale=(0.85, 1.0), min_context=11,
            ),
        ),
    ),
    ("rotation", None): (ViewSpec(name="view", size=224, scale=(0.08, 1.0)),),
    ("jigsaw", None): (
        ViewSpec(name="view", size=255, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, grey=0.3),
    ),
    ("colorization", None): (ViewSpec(name="view", size=224, scale=(0.4727, 0.4727), ratio=(1.0, 1.0)),),
}  # fmt: skip


def batch() -> Batch:
    """Two images of noise, one high and one wide."""
    size = torch.tensor([[48, 30], [36, 48]], dtype=torch.int32)
    pixels = torch.zeros(2, 48, 48, 3, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for n, (h, w) in enumerate(size.tolist()):
        pixels[n, :h, :w] = torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8)
    return Batch(pixels=pixels, size=size, index=torch.arange(2), label=torch.full((2,), -1))


@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_recipe_is_the_official_code(name: str, variant: str | None) -> None:
    recipe = official(name, 224, patch_size=16, variant=variant)
    assert recipe == Recipe(views=OFFICIAL[name, variant])


def test_every_recipe_is_expected_above() -> None:
    assert set(ALL) == set(OFFICIAL)


def test_the_blur_has_23_taps_at_224_pixels() -> None:
    # SimCLR and BYOL: a tenth of the height, made odd. Pillow's, in the others, reaches no further.
    for views in OFFICIAL.values():
        assert all(spec.kernel == 23 for spec in views if spec.size == 224)


@pytest.mark.parametrize(("image_size", "patch_size"), [(224, 16), (96, 8), (32, 4), (28, 4)])
@pytest.mark.parametrize(("name", "variant"), ALL)
def test_a_recipe_renders_at_any_size(
    name: str, variant: str | None, image_size: int, patch_size: int
) -> None:
    recipe = resolve(official(name, image_size, patch_size=patch_size, variant=variant))
    views = ViewEngine(recipe, seed=0, renderer="reference")(batch(), 0)
    assert len(views) == sum(spec.count for spec in recipe.views)
    grid = image_size // patch_size
    for view in views:
        spec = recipe[view.name]
        assert view.pixels.shape == (2, 3, spec.size, spec.size)
        assert torch.isfinite(view.pixels).all()
        if name != "jigsaw":
            assert spec.size <= image_size
        if spec.mask is not None:
            assert view.masks is not None
            assert view.masks.shape[-1] == grid**2
            hidden = view.masks.flatten(1)[:, : grid**2]
            assert (hidden.any(dim=1) & ~hidden.all(dim=1)).all()


@pytest.mark.parametrize(
    ("name", "image_size", "patch_size", "sizes"),
    [
        ("swav", 224, None, [224, 96]),
        ("swav", 96, None, [96, 41]),
        ("swav", 32, None, [32, 14]),
        ("swav", 28, None, [28, 12]),
        ("swav", 1, None, [1, 1]),
        ("dino", 224, 16, [224, 224, 96]),
        ("dino", 224, 14, [224, 224, 98]),
        ("dino", 224, 8, [224, 224, 96]),
        ("dino", 96, 8, [96, 96, 40]),
        ("dino", 32, 4, [32, 32, 12]),
        ("dino", 28, 4, [28, 28, 12]),
        ("dino", 16, 4, [16, 16, 8]),
        ("beit", 224, 16, [224, 112]),
        ("beit", 96, 8, [96, 48]),
        ("beit", 32, 4, [32, 16]),
        ("beit", 28, 4, [28, 14]),
        ("beit", 28, 7, [28, 16]),  # a grid of 4: 12 and 16 are as near to 14
        ("jigsaw", 224, None, [255]),
        ("jigsaw", 96, None, [108]),
        ("jigsaw", 32, None, [36]),
        ("jigsaw", 28, None, [33]),
    ],
)
def test_sizes_keep_their_proportion(
    name: str, image_size: int, patch_size: int | None, sizes: list[int]
) -> None:
    recipe = official(name, image_size, patch_size=patch_size)
    assert [spec.size for spec in recipe.views] == sizes
    if name == "beit":  # as many words as patches
        assert patch_size is not None
        assert recipe["tokenizer"].size % (image_size // patch_size) == 0


def test_multi_crop_makes_as_many_views_as_the_papers() -> None:
    assert [(spec.name, spec.count) for spec in official("swav", 224).views] == [("global", 2), ("local", 6)]
    assert [(spec.name, spec.count) for spec in official("dino", 224).views] == [
        ("global1", 1),
        ("global2", 1),
        ("local", 8),
    ]


def test_kernels_keep_their_proportion_and_sigmas_do_not_change() -> None:
    for size, kernel in ((448, 27), (224, 13), (96, 5), (32, 1), (28, 1)):
        spec = official("dino", size)["local"]
        assert spec.kernel == kernel
        assert spec.blur_sigma == (0.1, 2.0)


def test_small_crops_are_blurred_as_far_as_pillow_does() -> None:
    # A line of light, and how far it spreads: Pillow's radius 2 has a standard deviation of 2.
    line = np.zeros((61, 61), dtype=np.uint8)
    line[30] = 255
    pillow = np.asarray(Image.fromarray(line).filter(ImageFilter.GaussianBlur(2)), dtype=float)[:, 30]
    place = np.arange(61) - 30

    def deviation(weight: np.ndarray) -> float:
        return float(np.sqrt((weight * place**2).sum() / weight.sum()))

    def ours(kernel: int) -> float:
        x = torch.from_numpy(line / 255).float()[None, None]
        return deviation(reference.blur(x, torch.tensor([2.0]), kernel)[0, 0, :, 30].numpy())

    spec = official("swav", 224)["local"]
    assert ours(spec.kernel) == pytest.approx(deviation(pillow), abs=0.02)
    assert ours(ViewSpec(size=96).kernel) < deviation(pillow) - 0.1


@pytest.mark.parametrize(
    ("image_size", "patch_size", "unit", "count"),
    [(224, 16, 2, 120), (224, 32, 1, 30), (96, 8, 2, 88), (28, 4, 1, 30), (32, 4, 1, 39), (224, 4, 8, 1920)],
)
def test_simmim_hides_squares_of_32_pixels(image_size: int, patch_size: int, unit: int, count: int) -> None:
    (spec,) = official("simmim", image_size, patch_size=patch_size).views
    assert spec.mask is not None
    assert spec.mask.unit == unit
    assert (drawn(spec, 20).sum(axis=1) == count).all()


@pytest.mark.parametrize(
    ("image_size", "patch_size", "count"), [(224, 16, 147), (96, 8, 108), (32, 4, 48), (28, 4, 37)]
)
def test_mae_hides_three_quarters_exactly(image_size: int, patch_size: int, count: int) -> None:
    (spec,) = official("mae", image_size, patch_size=patch_size).views
    assert (drawn(spec, 50).sum(axis=1) == count).all()


def drawn(spec: ViewSpec, n: int) -> np.ndarray:
    assert spec.mask is not None
    return masks.draw(spec.mask, view_size=spec.size, seed=3, epoch=0, index=np.arange(n), view=0)


def blocks_in_plain_loops(generator: random.Random, side: int, budget: int, smallest: int) -> np.ndarray:
    """BEiT's MaskingGenerator, from its description: blocks, one after another, ten tries for each.

    Unlike the one in test_masks.py it draws its own numbers, so it shares nothing with ours but the distribution.
    """
    hidden: set[tuple[int, int]] = set()
    while len(hidden) < budget:
        for _ in range(10):
            left = budget - len(hidden)
            area = generator.uniform(smallest, left)
            aspect = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= side or width >= side:
                continue
            top, start = generator.randint(0, side - height), generator.randint(0, side - width)
            block = {(y, x) for y in range(top, top + height) for x in range(start, start + width)}
            if 0 < len(block - hidden) <= left:
                hidden |= block
                break
        else:
            break
    grid = np.zeros((side, side), dtype=bool)
    for place in hidden:
        grid[place] = True
    return grid.reshape(-1)


def test_beits_blocks_are_distributed_as_the_official_generators() -> None:
    spec = official("beit", 224, patch_size=16)["image"]
    ours = drawn(spec, 3000)
    generator = random.Random(0)
    theirs = np.stack([blocks_in_plain_loops(generator, 14, 75, 16) for _ in range(3000)])
    for counts in (ours.sum(axis=1), theirs.sum(axis=1)):
        assert counts.max() == 75
        assert counts.mean() == pytest.approx(74.5, abs=0.15)
    short = [75 - counts.sum(axis=1) for counts in (ours, theirs)]
    table = [np.bincount(counts.clip(max=4), minlength=5) for counts in short]
    assert stats.chi2_contingency(table).pvalue > 1e-3  # how far below 75 they stop
    # Where they lie: the middle is hidden more often than the corners, alike in both.
    ours_often, theirs_often = ours.mean(axis=0), theirs.mean(axis=0)
    assert np.abs(ours_often - theirs_often).max() < 0.06  # 4.5 standard errors
    assert ours_often.reshape(14, 14)[6:8, 6:8].min() > 0.45 > 0.25 > ours_often[0]


@pytest.mark.parametrize(
    ("image_size", "patch_size", "smallest", "budget"), [(96, 8, 12, 55), (32, 4, 5, 24), (28, 4, 4, 18)]
)
def test_beits_blocks_scale_by_the_share_of_patches(
    image_size: int, patch_size: int, smallest: int, budget: int
) -> None:
    spec = official("beit", image_size, patch_size=patch_size)["image"]
    assert spec.mask is not None
    assert spec.mask.min_block == smallest
    counts = drawn(spec, 300).sum(axis=1)
    assert counts.max() == budget
    assert counts.mean() > 0.93 * budget


@pytest.mark.parametrize(
    ("image_size", "patch_size", "floor"),
    [(448, 16, 11), (224, 14, 11), (224, 16, 11), (96, 8, 8), (28, 4, 3)],
)
def test_ijepas_context_and_targets(image_size: int, patch_size: int, floor: int) -> None:
    (spec,) = official("ijepa", image_size, patch_size=patch_size).views
    assert spec.mask is not None
    assert spec.mask.min_context == floor
    mask = drawn(spec, 300)
    assert mask.shape == (300, 5, (image_size // patch_size) ** 2)
    context, targets = ~mask[:, 0], mask[:, 1:]
    assert context.sum(axis=1).min() >= floor
    assert not (context & targets.any(axis=1)).any()
    share = targets.mean(axis=2)
    assert share.mean() == pytest.approx(0.175, abs=0.01)
    if image_size == 224:
        assert share.min() > 0.12
        assert share.max() < 0.23


def test_the_masks_of_a_method_need_a_patch_size() -> None:
    for name in ("mae", "beit", "simmim", "ijepa"):
        with pytest.raises(UserError, match=f"{name} masks patches: give the backbone's patch size"):
            official(name, 224)
    with pytest.raises(UserError, match=r"mae at 30 pixels: size 30 is not a multiple of the mask's 4"):
        official("mae", 30, patch_size=4)


@pytest.mark.parametrize(
    ("name", "variant", "message"),
    [
        ("moko", None, "there is no official recipe `moko`; did you mean moco?"),
        ("../../x", None, "there is no official recipe `../../x`; choose from beit, byol"),
        ("mocov3", "resent", "the official recipe of mocov3 has no variant `resent`; did you mean resnet?"),
        ("simclr", "v1", "the official recipe of simclr has no variant `v1`; choose from none"),
    ],
)
def test_unknown_names(name: str, variant: str | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        official(name, 224, variant=variant)
    assert str(caught.value).startswith(message)


def test_the_first_variant_holds_where_none_is_named() -> None:
    assert variants("moco") == ("v2", "v1")
    assert variants("mae") == ()
    assert official("moco", 224) == official("moco", 224, variant="v2")


def test_a_file_with_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (FOLDER / "rotation.yaml").read_text()
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    for text, message in (
        (good.replace("hflip", "hflp"), r"rotation at 224 pixels: Extra inputs"),
        (good.replace("paper:", "papers:"), r"rotation.yaml: paper: Field required"),
        (good + "variants: {a: []}\n", r"rotation.yaml: views: give either views or variants"),
    ):
        (tmp_path / "rotation.yaml").write_text(text)
        module._parsed.cache_clear()
        with pytest.raises(UserError, match=message):
            module.official("rotation", 224)
    module._parsed.cache_clear()


@pytest.mark.parametrize("name", names())
def test_a_file_says_where_its_values_come_from(name: str) -> None:
    content = read(FOLDER / f"{name}.yaml")
    assert re.search(r"arXiv:\d{4}\.\d{5}", content["paper"])
    assert content["code"].startswith("github.com/")


def test_every_method_has_a_recipe() -> None:
    assert set(methods.names()) <= set(names())


def test_the_files_are_part_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["sslpipe"]
    for name in names():
        assert any(fnmatch(f"recipes/{name}.yaml", pattern) for pattern in patterns)


# ------------------------------------------------------------------------------------ methods that use them


def test_simclrs_jitter_has_the_strength_of_its_settings() -> None:
    def expected(size: int, *strengths: float) -> Recipe:
        b, c, s, h = strengths
        jitter = Jitter(probability=0.8, brightness=b, contrast=c, saturation=s, hue=h)
        view = ViewSpec(
            name="view", size=size, count=2, scale=(0.08, 1.0), interpolation="bicubic", jitter=jitter, grey=0.2,
            blur=0.5,
        )  # fmt: skip
        return Recipe(views=(view,))

    assert methods.recipe("simclr", 224) == expected(224, 0.8, 0.8, 0.8, 0.2)
    assert methods.recipe("simclr", 32, config={"jitter_strength": 0.5}) == expected(32, 0.4, 0.4, 0.4, 0.1)
    assert methods.recipe("simclr", 28, config={"jitter_strength": 0.0}) == expected(28, 0, 0, 0, 0)


def test_byols_views_are_table_6() -> None:
    for size in (224, 28):
        views = (
            ViewSpec(
                name="view1", size=size, scale=(0.08, 1.0), interpolation="bicubic", grey=0.2, blur=1.0, solarize=0.0,
                jitter=Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
            ),
            ViewSpec(
                name="view2", size=size, scale=(0.08, 1.0), interpolation="bicubic", grey=0.2, blur=0.1, solarize=0.2,
                jitter=Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
            ),
        )  # fmt: skip
        assert methods.recipe("byol", size) == Recipe(views=views)


def test_maes_mask_has_the_ratio_of_its_settings() -> None:
    for size, patch, config, ratio in ((224, 16, {}, 0.75), (28, 4, {"mask_ratio": 0.6}, 0.6)):
        view = ViewSpec(
            name="view", size=size, scale=(0.2, 1.0), interpolation="bicubic",
            mask=PatchMask(kind="random", ratio=ratio, patch_size=patch),
        )  # fmt: skip
        assert methods.recipe("mae", size, patch_size=patch, config=config) == Recipe(views=(view,))


def test_a_method_without_a_recipe_of_its_own_takes_the_one_that_has_its_name() -> None:
    plain = type("MoCo", (Method,), {"__module__": "sslpipe.methods.moco"})
    assert plain.recipe(plain.Config(), 32, None) == official("moco", 32)
    first = type("First", (plain,), {"variant": classmethod(lambda cls, config, patch_size: "v1")})
    first.__module__ = "sslpipe.methods.moco"
    assert first.recipe(first.Config(), 32, None) == official("moco", 32, variant="v1")
