"""A sheet of the images that come twice, for the eye to judge; nothing here imports torch."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from sslpipe.shards.files import Pictures
from sslpipe.shards.manifest import Duplicate, Manifest

_PAIRS, _ACROSS = 24, 4  # shown, and side by side
_SIDE, _GAP, _LINE = 128, 8, 14  # pixels


def duplicates_sheet(folder: Path, manifest: Manifest) -> bytes:
    """A PNG of the closest pairs, the copies in test first; a line of text if there are none or none were sought."""
    found = manifest.duplicates
    if found is None or not found.listed:
        return _png(_words("shard.duplicates is off" if found is None else "no image comes twice"))
    pairs = found.listed[:_PAIRS]
    cell = (2 * _SIDE + 2 * _GAP, _SIDE + _LINE + _GAP)
    across = min(_ACROSS, len(pairs))
    sheet = Image.new("RGB", (across * cell[0], -(-len(pairs) // across) * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (pair, (copy, original)) in enumerate(
        zip(pairs, _pictures(folder, manifest, pairs), strict=True)
    ):
        x, y = number % across * cell[0], number // across * cell[1]
        sheet.paste(copy, (x, y + _LINE))
        sheet.paste(original, (x + _SIDE + 2, y + _LINE))
        what = "exact" if pair.exact else f"differs by {pair.difference:.1%}"
        draw.text((x, y), f"{pair.split} {pair.place} = train {pair.of}, {what}", fill="black")
    return _png(sheet)


def _pictures(
    folder: Path, manifest: Manifest, pairs: tuple[Duplicate, ...]
) -> list[tuple[Image.Image, Image.Image]]:
    stored = Pictures(folder, manifest.splits, manifest.resolution)

    def picture(split: str, place: int) -> Image.Image:
        image = stored.get(split, place).convert("RGB")
        scale = _SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)

    return [(picture(pair.split, pair.place), picture("train", pair.of)) for pair in pairs]


def _words(text: str) -> Image.Image:
    image = Image.new("RGB", (320, 24), "white")
    ImageDraw.Draw(image).text((8, 6), text, fill="black")
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
