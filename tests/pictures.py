"""Folders of small pictures to shard."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def make_picture(seed: int, height: int = 12, width: int = 16) -> Image.Image:
    """A smooth RGB picture, different for each seed."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """`picture(seed, height, width)`: a smooth RGB picture."""
    return make_picture


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """`encoded(image, kind, **options)`: the bytes of an image file."""
    return encode


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as the working folder."""
    place = tmp_path / "project"
    place.mkdir()
    (place / "dvc.yaml").touch()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def lay(project: Path) -> Callable[..., Path]:
    """`lay(name, …, {name: bytes})`: lay files below project/photos, small PNGs where no bytes are given."""

    def lay(*names: str | dict[str, bytes]) -> Path:
        root = project / "photos"
        root.mkdir(exist_ok=True)
        files: dict[str, bytes | None] = {}
        for name in names:
            files.update(name if isinstance(name, dict) else {name: None})
        for number, (name, data) in enumerate(files.items()):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(make_picture(number)) if data is None else data)
        return root

    return lay
