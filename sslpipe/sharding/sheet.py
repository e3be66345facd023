"""A sheet of the images that come twice, for the eye to judge; nothing here imports torch."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from sslpipe.shards.files import Pictures
from sslpipe.shards.manifest import Manifest

_PAIRS, _ACROSS = 24, 4  # shown, and side by side
_SIDE, _GAP, _LINE = 128, 8, 14  # pixels


def duplicates_sheet(folder: Path, manifest: Manifest) -> bytes:
    """A PNG of the closest pairs, the copies in test first; a line of text if there are none or none were sought."""
    found = manifest.duplicates
    if found is None or not found.listed:
        sheet = Image.new("RGB", (320, 24), "white")
        text = "shard.duplicates is off" if found is None else "no image comes twice"
        ImageDraw.Draw(sheet).text((8, 6), text, fill="black")
        return _png(sheet)
    pairs = found.listed[:_PAIRS]
    cell = (2 * _SIDE + 2 * _GAP, _SIDE + _LINE + _GAP)
    across = min(_ACROSS, len(pairs))
    sheet = Image.new("RGB", (across * cell[0], -(-len(pairs) // across) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    stored = Pictures(folder, manifest.splits, manifest.resolution)
    for number, pair in enumerate(pairs):
        x, y = number % across * cell[0], number // across * cell[1]
        sheet.paste(_fitted(stored.get(pair.split, pair.place)), (x, y + _LINE))
        sheet.paste(_fitted(stored.get("train", pair.of)), (x + _SIDE + 2, y + _LINE))
        what = "exact" if pair.exact else f"differs by {pair.difference:.1%}"
        draw.text((x, y), f"{pair.split} {pair.place} = train {pair.of}, {what}", fill="black")
    return _png(sheet)


def _fitted(picture: Image.Image) -> Image.Image:
    image = picture.convert("RGB")
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
