"""The contact sheet: what a method is shown, beside the images it is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sslpipe.data.batch import Batch
from sslpipe.views.view import View

# Okabe and Ito's colours, which colour-blind readers can tell apart, and three more; each crop has one.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f", "#f0e442", "#882255",
)  # fmt: skip
_PAPER, _TRAY, _INK, _HIDDEN = "#ffffff", "#efefec", "#44443f", (176, 176, 172)
_GAP, _TITLE, _MARGIN, _BAR, _FINE = 6, 20, 28, 2, 4  # pixels; outlines are drawn _FINE times finer
_ABREAST = 4  # more pictures than these stand in two lines, beside an original twice as large


@dataclass(frozen=True)
class _Column:
    """The pictures of one view, one for each image."""

    title: str
    colour: str
    pictures: list[Image.Image]


class _Layout:
    """Where things are, in pixels: images in blocks side by side, in each block one below another."""

    def __init__(self, shown: int, columns: int, cell: int, blocks: int) -> None:
        self.cell, self.blocks = cell, blocks  # side of a picture of a view, and how many blocks there are
        self.rows = -(-shown // blocks)  # images a block
        self.lines = 1 if columns <= _ABREAST else 2  # that the pictures of one image stand in
        self.across = -(-columns // self.lines)  # pictures a line
        self.original = self.lines * (cell + _GAP) - _GAP  # side of an original
        gap = _GAP if self.lines == 1 else 3 * _GAP
        self.row = self.original + gap  # height of an image, with the gap below
        self.block = self.original + self.across * (cell + _GAP)  # width of a block
        self.head = self.lines * _TITLE + 2 * _GAP  # height of the titles
        width = blocks * (self.block + _MARGIN) + _MARGIN
        self.size = width, self.head + self.rows * self.row + _MARGIN - _GAP  # of the sheet, width and height

    def left(self, block: int, column: int | None = None) -> int:
        """Where a block's originals begin, or the pictures of a column."""
        start = _MARGIN + block * (self.block + _MARGIN)
        return start if column is None else start + self.original + _GAP + column * (self.cell + _GAP)

    def top(self, row: int, line: int = 0) -> int:
        """Where an image's line of pictures begins."""
        return self.head + row * self.row + line * (self.cell + _GAP)


def sheet(batch: Batch, views: Sequence[View], *, images: int | None = None, cell: int = 112) -> Image.Image:
    """Lay out images and their views: each original with the outlines of its crops, then its views.

    An outline has the colour of the bar above its view; views of the same crop share one. Hidden patches are grey.
    Where there are targets (I-JEPA), one picture shows the context and one the targets. Many views stand in two
    lines. Pictures are `cell` pixels a side, the sheet of `images` images (all if None) about half as wide again as
    high.
    """
    shown = len(batch) if images is None else min(images, len(batch))
    corners = [_corners(view, shown) for view in views]
    colours = _colours(corners)
    columns = _columns(views, colours, shown, cell)
    layout = _layout(shown, len(columns), cell)
    paper = Image.new("RGB", layout.size, _PAPER)
    pen = ImageDraw.Draw(paper)
    for n in range(shown):
        block, row = divmod(n, layout.rows)
        outlines = {colour: points[n] for colour, points in zip(colours, corners, strict=True)}
        height, width = (int(value) for value in batch.size[n])
        canvas = batch.pixels[n, :height, :width].cpu().numpy()
        paper.paste(_original(canvas, outlines, layout.original), (layout.left(block), layout.top(row)))
        for k, column in enumerate(columns):
            line, place = divmod(k, layout.across)
            left, top = layout.left(block, place), layout.top(row, line)
            paper.paste(column.pictures[n], (left, top))
            if layout.lines > 1:
                _bar(pen, left, top - _BAR - 1, cell, column.colour)
    for block in range(layout.blocks):
        _titles(pen, columns, layout, block)
    return paper


def _layout(shown: int, columns: int, cell: int) -> _Layout:
    """The arrangement nearest to 3 : 2."""
    layouts = [_Layout(shown, columns, cell, blocks) for blocks in range(1, max(shown, 1) + 1)]
    return min(layouts, key=lambda layout: abs(np.log(layout.size[0] / layout.size[1] / 1.5)))


def _corners(view: View, shown: int) -> NDArray[np.float64]:
    """[shown, 4, 2], the view's corners on the canvas, in pixels from its edge."""
    side = view.pixels.shape[-1]
    ends = np.array([(0, 0), (side, 0), (side, side), (0, side)]) - 0.5
    affine = view.to_canvas[:shown].double().cpu().numpy()
    return ends @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2] + 0.5


def _colours(corners: Sequence[NDArray[np.float64]]) -> list[str]:
    """A colour for each view, the same one for the same crop."""
    colours: list[str] = []
    for k, points in enumerate(corners):
        same = [j for j in range(k) if len(points) and np.allclose(corners[j], points, atol=0.1)]
        fresh = COLOURS[len(set(colours)) % len(COLOURS)]
        colours.append(colours[same[0]] if same else fresh)
    return colours


def _columns(views: Sequence[View], colours: Sequence[str], shown: int, cell: int) -> list[_Column]:
    names = [view.name for view in views]
    columns = []
    for k, (view, colour) in enumerate(zip(views, colours, strict=True)):
        several = names.count(view.name) > 1
        title = f"{view.name} {names[: k + 1].count(view.name)}" if several else view.name
        pixels = _pixels(view, shown)
        if view.masks is None:
            columns.append(_Column(title, colour, [_fit(picture, cell)[0] for picture in pixels]))
            continue
        masks = view.masks[:shown].cpu().numpy()
        if masks.ndim == 2:
            columns.append(_Column(title, colour, _masked(pixels, masks, cell)))
        else:
            columns.append(_Column(f"{title} context", colour, _masked(pixels, masks[:, 0], cell)))
            targets = _masked(pixels, np.logical_not(masks[:, 1:].any(axis=1)), cell)
            for picture, blocks in zip(targets, masks[:, 1:], strict=True):
                _outline_targets(picture, blocks)
            columns.append(_Column(f"{title} targets", colour, targets))
    return columns


def _pixels(view: View, shown: int) -> NDArray[np.uint8]:
    """[shown, S, S, 3], normalisation undone."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (view.mean, view.std))
    pixels = view.pixels[:shown].detach().float().cpu() * std + mean
    return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _masked(pixels: NDArray[np.uint8], hidden: NDArray[np.bool_], cell: int) -> list[Image.Image]:
    """Pictures of [n, S, S, 3] with the patches of [n, P] grey."""
    side = round(hidden.shape[1] ** 0.5)
    patch = pixels.shape[1] // side
    grid = hidden.reshape(-1, side, side).repeat(patch, axis=1).repeat(patch, axis=2)
    masked = np.where(grid[..., None], np.array(_HIDDEN, dtype=np.uint8), pixels)
    return [_fit(picture, cell)[0] for picture in masked]


def _outline_targets(picture: Image.Image, blocks: NDArray[np.bool_]) -> None:
    """Frame each block of [T, P]: where they overlap, the grey around them does not tell them apart."""
    side = round(blocks.shape[1] ** 0.5)
    frames = {}
    for colour, block in zip(COLOURS[1:], blocks.reshape(-1, side, side), strict=False):
        rows, columns = np.flatnonzero(block.any(axis=1)), np.flatnonzero(block.any(axis=0))
        if len(rows):
            top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
            corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
            frames[colour] = corners * (picture.width / side)
    _draw(picture, frames)


def _original(canvas: NDArray[np.uint8], outlines: dict[str, NDArray[np.float64]], side: int) -> Image.Image:
    """An image with the outline of what each view sees."""
    picture, corner, scale = _fit(canvas, side)
    _draw(picture, {colour: points * scale + corner for colour, points in outlines.items()})
    return picture


def _draw(picture: Image.Image, outlines: dict[str, NDArray[np.float64]]) -> None:
    """Draw closed lines through points (x, y), smoothly, within the picture."""
    lines = Image.new("RGBA", (picture.width * _FINE, picture.height * _FINE))
    pen = ImageDraw.Draw(lines)
    for colour, points in outlines.items():
        closed = np.concatenate((points, points[:2])).clip(0.75, picture.width - 0.75) * _FINE
        pen.line([tuple(point) for point in closed], fill=colour, width=round(1.75 * _FINE), joint="curve")
    lines = lines.resize(picture.size, Image.Resampling.LANCZOS)
    picture.paste(lines, (0, 0), lines)


def _fit(pixels: NDArray[np.uint8], cell: int) -> tuple[Image.Image, NDArray[np.int64], NDArray[np.float64]]:
    """Pixels [H, W, 3] as a picture scaled into a cell; its corner and scale there, as (x, y)."""
    picture = Image.fromarray(pixels)
    factor = cell / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    whole = factor >= 2 and factor == int(factor)
    tray = Image.new("RGB", (cell, cell), _TRAY)
    corner = (cell - size[0]) // 2, (cell - size[1]) // 2
    filtering = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
    tray.paste(picture.resize(size, filtering), corner)
    return tray, np.array(corner), np.array(size) / picture.size


def _titles(pen: ImageDraw.ImageDraw, columns: Sequence[_Column], layout: _Layout, block: int) -> None:
    """Names above a block, in as many lines as its pictures stand in, and bars below the last."""
    last, bar = (layout.lines - 1) * _TITLE + _TITLE // 2 + 3, layout.head - _BAR - 1
    _title(pen, "original", layout.left(block), last, layout.original)
    _bar(pen, layout.left(block), bar, layout.original, _INK)
    for k, column in enumerate(columns):
        line, place = divmod(k, layout.across)
        left, middle = layout.left(block, place), line * _TITLE + _TITLE // 2 + 3
        if layout.lines == 1:
            _title(pen, column.title, left, middle, layout.cell)
            _bar(pen, left, bar, layout.cell, column.colour)
        else:  # a bar stands above each picture: here the colour goes before the name
            pen.rectangle((left, middle - 4, left + 8, middle + 4), fill=column.colour)
            _title(pen, column.title, left + 14, middle, layout.cell - 14)


def _title(pen: ImageDraw.ImageDraw, title: str, left: int, middle: int, width: int) -> None:
    font = ImageFont.load_default(size=13)
    while title and pen.textlength(title, font=font) > width:
        title = title[:-1]
    pen.text((left, middle), title, fill=_INK, font=font, anchor="lm")


def _bar(pen: ImageDraw.ImageDraw, left: int, top: int, width: int, colour: str) -> None:
    pen.rectangle((left, top, left + width - 1, top + _BAR - 1), fill=colour)
