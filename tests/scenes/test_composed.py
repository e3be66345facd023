from __future__ import annotations

import numpy as np
import pytest
import torch
from support import ToyReader, encoder, inputs, manifest

from sslpipe.console.errors import UserError
from sslpipe.evals.base.scenes import labelled_scenes
from sslpipe.scenes.composed import Config, compose


class Digits(ToyReader):
    """Light strokes on black."""

    def __init__(self, count: int = 20) -> None:
        super().__init__(count)
        self.pixels = torch.zeros_like(self.pixels)
        side = self.pixels.shape[1]
        self.pixels[:, side // 4 : 3 * side // 4, side // 3 : side // 2] = 255


SETTINGS = Config(size=2, objects=(1, 4), scale=(0.7, 1.3))


@pytest.mark.parametrize("kind", [ToyReader, Digits])
def test_masks_and_boxes_say_the_same(kind: type[ToyReader]) -> None:
    reader = kind()
    found = compose(reader, "train", 30, reader.resolution, SETTINGS, seed=0)
    side = 2 * reader.resolution
    assert found.pixels.shape == (30, side, side, 3)
    assert found.pixels.dtype == torch.uint8
    counts = [len(boxes) for boxes in found.boxes]
    assert {1, 2, 3} <= set(counts) <= {0, 1, 2, 3, 4}
    for mask, boxes, labels in zip(found.masks, found.boxes, found.labels, strict=True):
        assert set(mask.unique().tolist()) - {0} == {label + 1 for label in labels.tolist()}
        inside = torch.zeros_like(mask, dtype=torch.bool)
        for (x1, y1, x2, y2), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            part = mask[y1:y2, x1:x2] == label + 1
            # Each side of the box touches the object.
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()  # noqa: PT018
            inside[y1:y2, x1:x2] = True
        assert not (mask[~inside] != 0).any()


def test_a_scene_depends_on_seed_split_and_number_alone() -> None:
    reader = ToyReader(20)
    first = compose(reader, "train", 4, reader.resolution, SETTINGS, seed=0)
    more = compose(reader, "train", 9, reader.resolution, SETTINGS, seed=0)
    assert torch.equal(first.pixels, more.pixels[:4])
    for other in (
        compose(reader, "test", 4, reader.resolution, SETTINGS, seed=0),
        compose(reader, "train", 4, reader.resolution, SETTINGS, seed=1),
    ):
        assert not torch.equal(first.pixels, other.pixels)


def test_ink_is_cut_out_and_pictures_lie_in_an_ellipse() -> None:
    settings = Config(size=2, objects=(1, 1), scale=(1.0, 1.0))
    digits = Digits()
    drawn = compose(digits, "train", 8, digits.resolution, settings, seed=0)
    for pixels, mask in zip(drawn.pixels, drawn.masks, strict=True):
        assert 0.02 < (mask > 0).double().mean() / 0.25 < 0.25  # the stroke is a tenth of the square
        assert pixels[mask > 0].double().mean() > pixels[mask == 0].double().mean()
    toys = ToyReader(20)
    toys.pixels = toys.pixels.clamp_min(60)
    laid = compose(toys, "train", 8, toys.resolution, settings, seed=0)
    for mask in laid.masks:
        assert (mask > 0).double().mean() / 0.25 == pytest.approx(np.pi / 4, abs=0.1)


def test_scenes_of_grey_images_are_grey() -> None:
    digits, toys = Digits(), ToyReader(20)
    grey = compose(digits, "train", 3, digits.resolution, SETTINGS, seed=0).pixels
    assert (grey == grey[..., :1]).all()
    colour = compose(toys, "train", 3, toys.resolution, SETTINGS, seed=0).pixels
    assert not (colour == colour[..., :1]).all()


def test_overlap_is_limited() -> None:
    toys = ToyReader(20)
    toys.pixels = toys.pixels.clamp_min(60)
    settings = Config(size=2, objects=(4, 4), scale=(0.9, 0.9), overlap=0.0)
    found = compose(toys, "train", 10, toys.resolution, settings, seed=0)
    side = round(0.9 * toys.resolution)
    for boxes in found.boxes:
        for x1, y1, x2, y2 in boxes.tolist():
            assert max(x2 - x1, y2 - y1) >= side - 3  # all of each object is seen


def test_without_labels_there_are_no_scenes() -> None:
    reader = ToyReader(20)
    reader.labels = torch.full_like(reader.labels, -1)
    with pytest.raises(UserError, match="labelled images, and the test split has none"):
        compose(reader, "test", 1, reader.resolution, SETTINGS, seed=0)


@pytest.mark.parametrize(("classes", "told"), [(None, ["0", "1", "2", "3"]), (tuple("abcd"), list("abcd"))])
def test_a_runs_scenes_are_of_both_its_splits_and_name_its_classes(
    classes: tuple[str, ...] | None, told: list[str]
) -> None:
    train, test = ToyReader(20), ToyReader(12)
    given = inputs(
        encoder=encoder(), train=train, test=test, manifest=manifest(classes=classes), sections={"seed": 3}
    )
    config = Config(train=8, test=4)
    found = labelled_scenes(given, "masks", config)
    expected = compose(train, "train", 8, 16, config, 3), compose(test, "test", 4, 16, config, 3)
    for one, other in zip(found[:2], expected, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.masks, other.masks)
    assert found[2] == told
