"""Folders of annotated images, as Pascal VOC's and COCO's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import encoder, inputs

from sslpipe.console.errors import UserError
from sslpipe.evals.base.scenes import labelled_scenes
from sslpipe.evals.detect import evaluate as detect
from sslpipe.evals.segment import evaluate as segment
from sslpipe.scenes import annotated, layouts
from sslpipe.scenes.annotated import Need
from sslpipe.scenes.composed import IGNORED, Config, Scenes

# Of each image: width and height, and its rectangles x, y, w, h with a class and whether they need not be found.
IMAGES = {
    "wide": ((40, 20), [((0, 0, 20, 20), "dog", 0), ((30, 5, 10, 10), "cat", 0)]),
    "tall": ((10, 20), [((2, 4, 6, 8), "cat", 1)]),
    "third": ((20, 20), [((5, 5, 10, 10), "dog", 0)]),
}
NAMES = ["cat", "dog"]
SIDE = 16  # of the encoder; scenes have 32


def picture(path: Path, size: tuple[int, int], rectangles: Any) -> None:
    image = np.full((size[1], size[0], 3), 20, np.uint8)
    for (x, y, w, h), name, _ in rectangles:
        image[y : y + h, x : x + w] = (200, 60 * NAMES.index(name), 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=98)


def voc(root: Path, *, masks: bool = True) -> Path:
    for name, (size, rectangles) in IMAGES.items():
        picture(root / "JPEGImages" / f"{name}.jpg", size, rectangles)
        objects, mask = "", np.zeros((size[1], size[0]), np.uint8)
        for (x, y, w, h), kind, difficult in rectangles:
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
            objects += f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
            mask[y : y + h, x : x + w] = IGNORED if difficult else NAMES.index(kind) + 1
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
        if masks:
            (root / "SegmentationClass").mkdir(exist_ok=True)
            paletted = Image.fromarray(mask).convert("P")
            paletted.putdata(mask.ravel())
            paletted.save(root / "SegmentationClass" / f"{name}.png")
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind).mkdir(parents=True)
        (root / "ImageSets" / kind / "train.txt").write_text("wide\ntall -1\n")
        (root / "ImageSets" / kind / "val.txt").write_text("third\n\n")
    return root


def coco(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for split, names in (("train2017", ["wide", "tall"]), ("val2017", ["third"])):
        images, marks = [], []
        for number, name in enumerate(names, start=7):
            (width, height), rectangles = IMAGES[name]
            picture(root / split / f"{name}.jpg", (width, height), rectangles)
            images.append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})
            for (x, y, w, h), kind, crowd in rectangles:
                outline: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                if crowd:  # as runs down the columns, which begin with zeros
                    inside = np.zeros((height, width), np.uint8)
                    inside[y : y + h, x : x + w] = 1
                    flat = inside.T.ravel()
                    ends = np.flatnonzero(np.diff(flat)) + 1
                    outline = {
                        "size": [height, width],
                        "counts": np.diff([0, *ends, len(flat)]).tolist(),
                    }
                marks.append(
                    {
                        "id": len(marks) + 1,
                        "image_id": number,
                        "category_id": {"dog": 90, "cat": 17}[kind],
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": crowd,
                        "segmentation": outline,
                    }
                )
        categories = [{"id": 90, "name": "dog"}, {"id": 17, "name": "cat"}]
        content = {"images": images, "annotations": marks, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


LAYOUTS = pytest.mark.parametrize("make", [voc, coco])


def opened(root: Path, need: Need, **settings: Any) -> tuple[Scenes, Scenes, list[str]]:
    config = Config(root=str(root), size=2, **settings)
    return annotated.scenes(need, str(root), SIDE, config, 0)


def row(scenes: Scenes, width: int, height: int) -> int:
    """The scene whose picture fills so much of its square."""
    filled = (scenes.pixels > 0).any(3)  # [N, S, S]
    sizes = [(int(each.any(0).sum()), int(each.any(1).sum())) for each in filled]
    return sizes.index((width, height))


@LAYOUTS
def test_boxes_are_where_they_are_marked(make: Any, tmp_path: Path) -> None:
    train, test, names = opened(make(tmp_path), "boxes")
    assert names == NAMES
    assert (len(train), len(test)) == (2, 1)
    assert train.crowd is not None
    wide = row(train, 32, 16)  # 40 × 20, scaled by .8
    assert train.boxes[wide].tolist() == [
        pytest.approx([0, 0, 16, 16]),
        pytest.approx([24, 4, 32, 12]),
    ]
    assert train.labels[wide].tolist() == [1, 0]
    assert train.crowd[wide].tolist() == [0, 0]
    tall = row(train, 16, 32)  # 10 × 20, scaled by 1.6
    assert train.boxes[tall].tolist() == [pytest.approx([3.2, 6.4, 12.8, 19.2])]
    assert train.crowd[tall].tolist() == [1]
    assert test.boxes[0].tolist() == [pytest.approx([8, 8, 24, 24])]
    inside = test.pixels[0, 10:22, 10:22].float().mean((0, 1))
    assert torch.allclose(inside, torch.tensor([200.0, 60, 40]), atol=6)  # the dog's colour


@LAYOUTS
def test_masks_are_where_they_are_marked(make: Any, tmp_path: Path) -> None:
    train, test, names = opened(make(tmp_path), "masks")
    assert names == NAMES
    expected = torch.zeros(32, 32, dtype=torch.int64)
    expected[8:24, 8:24] = 2
    assert torch.equal(test.masks[0], expected)
    wide = train.masks[row(train, 32, 16)]
    assert (wide[:16, :16] == 2).all()
    assert (wide[4:12, 24:] == 1).all()
    assert (wide[16:] == IGNORED).all()  # beside the picture
    tall = train.masks[row(train, 16, 32)]
    assert tall[:, :16].unique().tolist() == [0, IGNORED]


@LAYOUTS
def test_as_many_as_asked_for(make: Any, tmp_path: Path) -> None:
    config = Config.model_construct(**{**Config(size=2).model_dump(), "train": 1})
    train, _, _ = annotated.scenes("boxes", str(make(tmp_path)), SIDE, config, 0)
    assert len(train) == 1


def test_masks_alone_number_their_classes(tmp_path: Path) -> None:
    root = voc(tmp_path)
    for file in (root / "Annotations").iterdir():
        file.unlink()
    assert opened(root, "masks")[2] == ["1", "2"]


def test_masks_of_classes_that_no_annotation_names_are_refused(tmp_path: Path) -> None:
    root = voc(tmp_path)
    mask = Image.fromarray(np.full((20, 20), 3, np.uint8))
    mask.save(root / "SegmentationClass/third.png")
    with pytest.raises(UserError, match=r"masks hold the value 3, but .* name 2 classes: cat, dog"):
        opened(root, "masks")


def test_the_digest_follows_the_annotations(tmp_path: Path) -> None:
    root = voc(tmp_path)
    config = segment.Config(scenes=Config(root=str(root)))
    before = layouts.elsewhere(config)
    assert before
    assert (before["folder"], before["layout"]) == (str(root), "voc")
    assert layouts.elsewhere(config) == before
    (root / "ImageSets/Main/val.txt").write_text("third\ntall\n")
    assert layouts.elsewhere(config) != before


def _spoil(root: Path, what: str) -> None:
    if what == "image":
        (root / "JPEGImages/third.jpg").unlink()
    elif what == "broken":
        (root / "JPEGImages/third.jpg").write_bytes(b"no picture")
    elif what == "xml":
        (root / "Annotations/third.xml").write_text("<annotation><object>")
    elif what == "corner":
        text = (root / "Annotations/third.xml").read_text()
        (root / "Annotations/third.xml").write_text(text.replace("<xmin>6</xmin>", "<xmin>six</xmin>"))
    elif what == "list":
        (root / "ImageSets/Main/val.txt").unlink()
    elif what == "empty":
        (root / "ImageSets/Main/val.txt").write_text("\n")
    elif what == "outside":
        (root / "ImageSets/Main/val.txt").write_text("../../third\n")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("image", "is missing, which the annotations name"),
        ("broken", "cannot be used"),
        ("xml", "cannot be read as an annotation"),
        ("corner", "cannot be read as an annotation"),
        ("list", "lists the images of the val set"),
        ("empty", "lists no image"),
        ("outside", "not a name of an image"),
    ],
)
def test_a_spoilt_voc_folder_is_refused(what: str, said: str, tmp_path: Path) -> None:
    _spoil(voc(tmp_path), what)
    with pytest.raises(UserError, match=said):
        opened(tmp_path, "boxes")


@pytest.mark.parametrize("size", [(20, 19), None])
def test_a_mask_that_is_none_is_refused(size: tuple[int, int] | None, tmp_path: Path) -> None:
    path = voc(tmp_path) / "SegmentationClass/third.png"
    Image.new("P" if size else "RGB", size or (20, 20)).save(path)
    with pytest.raises(UserError, match="no mask of its image"):
        opened(tmp_path, "masks")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("images", [{"id": 7, "file_name": "../../secret.jpg", "width": 20, "height": 20}], "leads out"),
        ("images", None, "cannot be read as COCO's"),
        ("categories", [{"id": 1, "name": "cow"}], "cannot be read|other categories"),
    ],
)
def test_a_spoilt_coco_folder_is_refused(key: str, value: Any, said: str, tmp_path: Path) -> None:
    path = coco(tmp_path) / "annotations/instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=said):
        opened(tmp_path, "boxes")


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set it to such a folder"):
        opened(tmp_path, "boxes")


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_both_evaluations_take_them(name: str, tmp_path: Path) -> None:
    network = encoder(name, SIDE)
    train, test, names = opened(voc(tmp_path), "masks")
    quick = segment.Config(epochs=1, lrs=(0.01,), k=3, device="cpu")
    many = Scenes(
        train.pixels.repeat(4, 1, 1, 1), train.masks.repeat(4, 1, 1), 4 * train.boxes, 4 * train.labels
    )
    given = inputs(encoder=network, made={"masks": (many, test, names), "boxes": opened(tmp_path, "boxes")})
    found = segment.evaluate(given, quick, 0)
    assert 0 <= found.metrics["miou"] <= 1
    assert found.details[1].shape == test.masks.shape
    assert found.protocol["class_names"] == NAMES
    found = detect.evaluate(given, detect.Config(epochs=1, device="cpu"), 0)
    assert 0 <= found.metrics["ap50"] <= 1


def test_scenes_are_opened_once_and_by_the_runs_seed(tmp_path: Path) -> None:
    voc(tmp_path)
    given = inputs(encoder=encoder("small_resnet", SIDE), sections={"seed": 0})
    config = Config(root=str(tmp_path), size=2)
    first = labelled_scenes(given, "boxes", config)
    for one, other in zip(first[:2], opened(tmp_path, "boxes")[:2], strict=True):
        assert torch.equal(one.pixels, other.pixels)
    assert labelled_scenes(given, "boxes", config) is first


def test_crowds_need_not_be_found() -> None:
    box, labels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([0, 0])
    none = torch.zeros(1, 0, 0, dtype=torch.int64)
    found = [(box[:1], labels[:1], torch.tensor([0.9]))]
    missed = detect.average_precision(found, Scenes(none, none, [box], [labels]))
    passed = detect.average_precision(found, Scenes(none, none, [box], [labels], [torch.tensor([0, 1])]))
    assert missed["ap50"] == pytest.approx(0.5, abs=0.01)
    assert passed["ap50"] == pytest.approx(1.0)
