from __future__ import annotations

import numpy as np
import pytest
import torch

from sslpipe.data.batch import Batch
from sslpipe.views import centre

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
