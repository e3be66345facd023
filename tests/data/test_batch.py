from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import sslpipe.data
from sslpipe.data import Batch


def parts(n: int = 3, side: int = 8) -> dict[str, torch.Tensor]:
    return {
        "pixels": torch.zeros(n, side, side, 3, dtype=torch.uint8),
        "size": torch.full((n, 2), side, dtype=torch.int32),
        "index": torch.arange(n),
        "label": torch.full((n,), -1),
    }


def test_pixels_and_labels_go_to_a_device() -> None:
    batch = Batch(**parts())
    assert len(batch) == 3
    moved = batch.to("meta")
    for name, part in parts().items():
        found = getattr(moved, name)
        assert found.device.type == ("meta" if name in ("pixels", "label") else "cpu")
        assert found.dtype == part.dtype
    assert len(Batch(**parts(0))) == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("pixels", torch.zeros(3, 8, 8, 3)),
        ("pixels", torch.zeros(3, 3, 8, 8, dtype=torch.uint8)),
        ("pixels", torch.zeros(3, 8, 8, dtype=torch.uint8)),
        ("size", torch.zeros(3, 2)),
        ("size", torch.zeros(2, 2, dtype=torch.int32)),
        ("index", torch.zeros(3, dtype=torch.int32)),
        ("label", torch.zeros(3, 1, dtype=torch.int64)),
    ],
)
def test_wrong_shapes_and_types_are_refused(name: str, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=name):
        Batch(**{**parts(), name: wrong})


def test_settings_need_no_torch() -> None:
    code = "import sys; from sslpipe.data import config; raise SystemExit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names() -> None:
    assert all(hasattr(sslpipe.data, name) for name in sslpipe.data.__all__)
    with pytest.raises(AttributeError, match="Batches"):
        _ = sslpipe.data.Batches
