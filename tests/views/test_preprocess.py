from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import make_picture
from PIL import Image

from sslpipe.data import open_split
from sslpipe.data.batch import Batch
from sslpipe.sharding import shard as sharding
from sslpipe.sharding import sources
from sslpipe.views import centre
from sslpipe.views.preprocess import Preprocess

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def batch_of(sizes: list[tuple[int, int]], resolution: int = 20) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        pixels=torch.from_numpy(
            rng.integers(0, 256, (len(sizes), resolution, resolution, 3), dtype=np.uint8)
        ),
        size=torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2),
        index=torch.arange(len(sizes)),
        label=torch.zeros(len(sizes), dtype=torch.int64),
    )


def test_central_square() -> None:
    batch = batch_of([(20, 12)])
    view = centre(batch, size=12, **RAW)
    assert torch.equal(view[0], batch.pixels[0, 4:16, :12].permute(2, 0, 1).float() * (1 / 255))
    view = centre(batch, size=6, crop=0.5, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert torch.equal(
        view[0], (batch.pixels[0, 7:13, 3:9].permute(2, 0, 1).float() * (1 / 255) - 0.5) / 0.25
    )


def test_each_image_alone() -> None:
    sizes = [(20, 20), (1, 1), (3, 20), (20, 1), (11, 13)]
    batch = batch_of(sizes)
    together = centre(batch, size=9, **RAW)
    for n in range(len(sizes)):
        row = slice(n, n + 1)
        alone = Batch(
            pixels=batch.pixels[row], size=batch.size[row], index=batch.index[row], label=batch.label[row]
        )
        torch.testing.assert_close(centre(alone, size=9, **RAW), together[row], rtol=0, atol=1e-6)


def test_empty_batch_and_bad_crop() -> None:
    assert centre(batch_of([]), size=8, **RAW).shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match="crop must be"):
        centre(batch_of([(4, 4)]), size=8, crop=1.2, **RAW)


SIDE = 24  # pixels, of the encoder's input and of the shards


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures that are not square, larger than the shards' resolution and smaller, in several formats."""
    folder = tmp_path / "photos"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees clockwise
    for number, (height, width) in enumerate([(40, 60), (90, 50), (200, 300), (24, 16), (10, 13)]):
        picture = make_picture(number, height, width)
        picture.save(folder / f"{number}.png")
        picture.save(folder / f"{number}.jpg", quality=90)
        picture.save(folder / f"{number}turned.jpg", exif=turned)
        picture.convert("L").save(folder / f"{number}grey.jpg")
        picture.quantize(16).save(folder / f"{number}.gif")
    return folder


def test_files_become_what_they_are_in_the_pipeline(photos: Path, tmp_path: Path) -> None:
    source = sources.open_source(sources.Config(source="folder", root=str(photos), test_fraction=0.2), 0)
    sharding.shard(sharding.Config(resolution=SIDE), source, tmp_path / "shards", 0)
    reader = open_split(tmp_path / "shards", "train")
    preprocess = Preprocess(size=SIDE, resolution=SIDE, **RAW)
    expected = preprocess.view(reader.gather(np.arange(len(reader))))
    files = [photos / key for key in reader.keys]
    assert torch.equal(preprocess(files), expected)
    plain = preprocess.model_copy(update={"resolution": None})
    assert (plain(files) - expected).abs().max() > 0.02


def test_larger_images_are_scaled_down_to_the_resolution(photos: Path) -> None:
    preprocess = Preprocess(size=SIDE, resolution=SIDE, **RAW)
    for path in photos.glob("*.png"):  # nothing is lost where a file is stored
        image = Image.open(path)
        array = np.array(image)
        for form in (image, array, torch.from_numpy(array).permute(2, 0, 1), array[None]):
            assert torch.equal(preprocess(form), preprocess(path))
    small = np.array(Image.open(photos / "4.png"))
    assert torch.equal(preprocess(small), preprocess.model_copy(update={"resolution": None})(small))
