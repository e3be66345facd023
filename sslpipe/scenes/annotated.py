"""Annotated images as scenes: folders laid out as Pascal VOC's or COCO's, instead of composed ones."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from sslpipe.console.errors import UserError
from sslpipe.console.progress import progress
from sslpipe.scenes import layouts
from sslpipe.scenes.composed import IGNORED, Config, Scenes
from sslpipe.shards.images import BadImage, decode, limits

Need = Literal["masks", "boxes"]
MOST_PIXELS = 100_000_000  # of an image
_SET = {"masks": "Segmentation", "boxes": "Main"}  # in VOC's ImageSets
_SPLITS = {"train": "train", "test": "val"}


@dataclass(frozen=True)
class _Annotated:
    """One image, as its file says: boxes float [n, 4], classes, and which do not count."""

    image: Path
    boxes: list[list[float]]
    labels: list[int]
    crowd: list[int]
    mask: Callable[[tuple[int, int]], np.ndarray]  # of (height, width): uint8, as `Scenes.masks`


def scenes(need: Need, root: str, side: int, settings: Config, seed: int) -> tuple[Scenes, Scenes, list[str]]:
    """Scenes to learn from and to be tested on, and the names of the classes.

    `side` is of what the encoder sees, in pixels; `seed` decides which images are taken.

    Raises:
        UserError: the folder is not laid out as VOC or COCO, or something in it cannot be read.
    """
    folder = Path(root).expanduser()
    splits, names = {"coco": _coco, "voc": _voc}[layouts.layout(root)](folder, need)
    if len(names) >= IGNORED:
        raise UserError(
            f"scenes.root {folder}: {len(names)} classes are more than the {IGNORED - 1} that masks can tell"
        )
    counts = {"train": settings.train, "test": settings.test}
    found = {}
    for split, each in splits.items():
        if not each:
            raise UserError(f"scenes.root {folder}: its {_SPLITS[split]} set lists no image with {need}")
        taken = np.random.default_rng(seed).permutation(len(each))[: counts[split]]
        found[split] = _read([each[index] for index in sorted(taken)], side * settings.size, need)
        known = found[split].masks[found[split].masks != IGNORED]
        if len(known) and int(known.max()) > len(names):
            raise UserError(
                f"scenes.root {folder}: masks hold the value {int(known.max())}, but the annotations of the listed "
                f"images name {len(names)} classes: {', '.join(names)}"
            )
    return found["train"], found["test"], names


def _voc(root: Path, need: Need) -> tuple[dict[str, list[_Annotated]], list[str]]:
    listed = {split: _voc_list(root, need, name) for split, name in _SPLITS.items()}
    objects = {name: _voc_objects(root, name) for names in listed.values() for name in names}
    classes = sorted({each[0] for found in objects.values() for each in found})
    numbers = {name: number for number, name in enumerate(classes)}
    masks = {name: root / "SegmentationClass" / f"{name}.png" for name in objects}

    def annotated(name: str) -> _Annotated:
        found = objects[name]
        return _Annotated(
            image=root / "JPEGImages" / f"{name}.jpg",
            boxes=[box for _, box, _ in found],
            labels=[numbers[each] for each, _, _ in found],
            crowd=[int(difficult) for _, _, difficult in found],
            mask=functools.partial(_voc_mask, masks[name]),
        )

    splits = {split: [annotated(name) for name in names] for split, names in listed.items()}
    if need == "masks" and not classes:  # masks number their classes themselves
        top = max(map(_voc_top, masks.values()))
        classes = [str(number) for number in range(1, top + 1)]
    return splits, classes


def _voc_list(root: Path, need: Need, name: str) -> list[str]:
    path = root / "ImageSets" / _SET[need] / f"{name}.txt"
    try:
        names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it lists the images of the {name} set, a name a line") from None
    for each in names:
        if Path(each).name != each:
            raise UserError(f"{path}: {each!r} is not a name of an image in JPEGImages")
    return names


def _voc_objects(root: Path, name: str) -> list[tuple[str, list[float], bool]]:
    """Class, box and whether it is difficult; VOC's corners count from 1 and are inside the box."""
    path = root / "Annotations" / f"{name}.xml"
    if not path.is_file():
        return []
    try:
        found = []
        for each in ElementTree.parse(path).getroot().iter("object"):
            left, top, *end = (
                float(each.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            difficult = each.findtext("difficult", "0").strip() == "1"
            found.append((each.findtext("name", "").strip(), [left - 1, top - 1, *end], difficult))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an annotation of VOC: {error}") from None
    return found


def _voc_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            if opened.mode not in ("P", "L") or opened.size[::-1] != size:
                raise UserError(
                    f"{path} is no mask of its image: an 8-bit PNG of its size, whose values are classes"
                )
            return np.asarray(opened).copy()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _voc_top(path: Path) -> int:
    with Image.open(path, formats=("PNG",)) as opened:
        values = np.unique(np.asarray(opened))
    return int(max(values[values != IGNORED], default=0))


def _coco(root: Path, need: Need) -> tuple[dict[str, list[_Annotated]], list[str]]:
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise UserError(
            f"{root} is laid out as COCO: run `pip install 'sslpipe[detect]'` to read it"
        ) from None
    splits, classes = {}, list[str]()
    for split, name in _SPLITS.items():
        path = next(iter(sorted((root / "annotations").glob(f"instances_{name}*.json"))), None)
        if path is None:
            raise UserError(f"{root / 'annotations'} has no instances_{name}*.json")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found = COCO(str(path))
            kinds = sorted(found.getCatIds())
            images = _coco_images(root, path.stem.removeprefix("instances_"))
            splits[split] = [_coco_one(found, images, number, kinds) for number in sorted(found.getImgIds())]
            names = [str(each["name"]) for each in found.loadCats(kinds)]
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise UserError(f"{path} cannot be read as COCO's instances: {error!r}") from None
        if classes and names != classes:
            raise UserError(f"{path} has other categories than the training set's")
        classes = names
    return splits, classes


def _coco_images(root: Path, name: str) -> Path:
    folders = (root / name, root / "images" / name, root / "images")
    found = next((each for each in folders if each.is_dir()), None)
    if found is None:
        raise UserError(f"{root} has the annotations of {name}, but no folder {name} or images/{name}")
    return found


def _coco_one(coco: Any, images: Path, number: int, kinds: Sequence[int]) -> _Annotated:
    file = str(coco.loadImgs([number])[0]["file_name"])
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise UserError(f"{images}: {file!r} leads out of the folder of images")
    marks = [each for each in coco.loadAnns(coco.getAnnIds([number])) if min(each["bbox"][2:]) > 0]
    labels = {kind: label for label, kind in enumerate(kinds)}

    def mask(size: tuple[int, int]) -> np.ndarray:
        found = np.zeros(size, np.uint8)
        for each in sorted(marks, key=lambda mark: -mark["area"]):  # what is small lies on top
            with warnings.catch_warnings():  # pycocotools gives NumPy 2 arrays in the way of NumPy 1
                warnings.simplefilter("ignore", DeprecationWarning)
                inside = coco.annToMask(each).astype(bool)
            if inside.shape != size:
                raise UserError(f"{images / file} is not of the size that its annotations name")
            found[inside] = IGNORED if each.get("iscrowd") else labels[each["category_id"]] + 1
        return found

    return _Annotated(
        image=images / file,
        boxes=[[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in marks)],
        labels=[labels[each["category_id"]] for each in marks],
        crowd=[int(bool(each.get("iscrowd"))) for each in marks],
        mask=mask,
    )


def _read(listed: Sequence[_Annotated], side: int, need: Need) -> Scenes:
    """Images and what is marked in them on squares: the longer side fills the square, the rest does not count."""
    count = len(listed)
    pixels = torch.zeros(count, side, side, 3, dtype=torch.uint8)
    masks = torch.full((count, side, side) if need == "masks" else (count, 0, 0), IGNORED, dtype=torch.uint8)
    boxes, labels, crowd = [], [], []
    with limits(MOST_PIXELS), progress("scenes", count, "images") as bar:
        for number, each in enumerate(listed):
            image = _image(each.image)
            scale = side / max(image.size)
            width, height = (max(1, round(scale * length)) for length in image.size)
            small = image.resize((width, height), Image.Resampling.BICUBIC)
            pixels[number, :height, :width] = torch.from_numpy(np.array(small))
            if need == "masks":
                mask = Image.fromarray(each.mask(image.size[::-1]))
                small = mask.resize((width, height), Image.Resampling.NEAREST)
                masks[number, :height, :width] = torch.from_numpy(np.array(small))
            found = torch.tensor(each.boxes, dtype=torch.float32).view(-1, 4) * scale
            found = found.clamp_min(0).minimum(torch.tensor([width, height, width, height]))
            kept = ((found[:, 2:] - found[:, :2]) > 0.5).all(1)  # nothing is left of what is smaller
            boxes.append(found[kept])
            labels.append(torch.tensor(each.labels, dtype=torch.int64)[kept])
            crowd.append(torch.tensor(each.crowd, dtype=torch.int64)[kept])
            bar.update(1)
    return Scenes(pixels, masks.long(), boxes, labels, crowd)


def _image(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes(), max_pixels=MOST_PIXELS).convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path} is missing, which the annotations name") from None
    except BadImage as error:
        raise UserError(f"{path} cannot be used: {error}") from None
