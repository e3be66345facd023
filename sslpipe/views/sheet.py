"""The contact sheet: what a method is shown, beside the images it is made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from sslpipe.data.batch import Batch
from sslpipe.views.engine import View

# Okabe and Ito's colours, which colour-blind readers can tell apart; each view has one.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
_PAPER, _TRAY, _INK, _HIDDEN = "#ffffff", "#efefec", "#44443f", (176, 176, 172)
_GAP, _HEAD, _BLOCK_GAP, _FINE = 6, 26, 28, 4  # pixels; outlines are drawn _FINE times finer


def sheet(batch: Batch, views: Sequence[View], *, images: int | None = None, cell: int = 112) -> Image.Image:
    """Lay out images and their views: each original with the outlines of its crops, then one column a view.

    Args:
        batch: the canvases.
        views: what an engine made of the batch; hidden patches are drawn grey.
        images: how many of the batch to show; all if None.
        cell: side of a picture in pixels.

    Returns:
        An RGB picture, its blocks arranged to be about half as wide again as high.
    """
    shown = len(batch) if images is None else min(images, len(batch))
    columns = 1 + len(views)
    block_width = columns * (cell + _GAP) - _GAP
    blocks = _blocks(shown, block_width, cell)
    rows = -(-shown // blocks) if shown else 0
    width = blocks * (block_width + _BLOCK_GAP) + _BLOCK_GAP
    paper = Image.new("RGB", (width, _HEAD + rows * (cell + _GAP) + _BLOCK_GAP), _PAPER)
    pictures = [_pictures(view, shown, cell) for view in views]
    for n in range(shown):
        block, row = divmod(n, rows)
        left = _BLOCK_GAP + block * (block_width + _BLOCK_GAP)
        top = _HEAD + _GAP + row * (cell + _GAP)
        paper.paste(_original(batch, views, n, cell), (left, top))
        for column, picture in enumerate(pictures, start=1):
            paper.paste(picture[n], (left + column * (cell + _GAP), top))
    _headings(paper, views, cell, blocks, block_width)
    return paper


def _blocks(shown: int, block_width: int, cell: int) -> int:
    """How many blocks side by side bring the sheet nearest to 3 : 2."""

    def distance(blocks: int) -> float:
        rows = -(-shown // blocks)
        return abs(np.log(blocks * (block_width + _BLOCK_GAP) / (_HEAD + rows * (cell + _GAP)) / 1.5))

    return min(range(1, max(shown, 1) + 1), key=distance)


def _pictures(view: View, shown: int, cell: int) -> list[Image.Image]:
    """The first views as pictures, normalisation undone, hidden patches grey."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (view.mean, view.std))
    pixels = view.pixels[:shown].detach().float().cpu() * std + mean
    colour = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    if view.masks is not None:
        mask = view.masks[:shown].cpu()
        mask = mask[:, 0] if mask.ndim == 3 else mask  # what the context does not show
        side = round(mask.shape[1] ** 0.5)
        patch = view.pixels.shape[-1] // side
        hidden = mask.view(-1, side, side).numpy().repeat(patch, axis=1).repeat(patch, axis=2)
        colour = np.where(hidden[..., None], np.array(_HIDDEN, dtype=np.uint8), colour)
    return [_fit(Image.fromarray(picture), cell)[0] for picture in colour]


def _original(batch: Batch, views: Sequence[View], n: int, cell: int) -> Image.Image:
    """An image as it lies on its canvas, with the outline of what each view sees."""
    height, width = (int(v) for v in batch.size[n])
    picture, corner, scale = _fit(Image.fromarray(batch.pixels[n, :height, :width].cpu().numpy()), cell)
    fine = cell * _FINE
    lines = Image.new("RGBA", (fine, fine))
    pen = ImageDraw.Draw(lines)
    for colour, view in _coloured(views):
        side = view.pixels.shape[-1]
        ends = np.array([(0, 0), (side, 0), (side, side), (0, side), (0, 0), (side, 0)]) - 0.5
        affine = view.to_canvas[n].double().cpu().numpy()
        points = (ends @ affine[:, :2].T + affine[:, 2] + 0.5) * scale + corner
        points = points.clip(0.75, cell - 0.75) * _FINE
        pen.line([tuple(point) for point in points], fill=colour, width=round(1.75 * _FINE), joint="curve")
    lines = lines.resize((cell, cell), Image.Resampling.LANCZOS)
    picture.paste(lines, (0, 0), lines)
    return picture


def _fit(picture: Image.Image, cell: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A picture scaled into a cell; its corner and scale there, as (x, y)."""
    factor = cell / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    whole = factor >= 2 and factor == int(factor)
    tray = Image.new("RGB", (cell, cell), _TRAY)
    corner = (cell - size[0]) // 2, (cell - size[1]) // 2
    filtering = Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC
    tray.paste(picture.resize(size, filtering), corner)
    return tray, np.array(corner), np.array(size) / picture.size


def _headings(paper: Image.Image, views: Sequence[View], cell: int, blocks: int, block_width: int) -> None:
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=13)
    names = [view.name for view in views]
    titles = [("original", _INK)]
    for k, (colour, view) in enumerate(_coloured(views)):
        several = names.count(view.name) > 1
        titles.append((f"{view.name} {names[: k + 1].count(view.name)}" if several else view.name, colour))
    for block in range(blocks):
        left = _BLOCK_GAP + block * (block_width + _BLOCK_GAP)
        for column, (title, colour) in enumerate(titles):
            x = left + column * (cell + _GAP)
            while title and pen.textlength(title, font=font) > cell:
                title = title[:-1]
            pen.text((x, _HEAD - 13), title, fill=_INK, font=font, anchor="lm")
            pen.line([(x, _HEAD), (x + cell - 1, _HEAD)], fill=colour, width=2)


def _coloured(views: Sequence[View]) -> list[tuple[str, View]]:
    return [(COLOURS[k % len(COLOURS)], view) for k, view in enumerate(views)]
