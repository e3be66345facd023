"""Sets of torchvision: its own readers on files made here, and stand-ins for what would have to be downloaded."""

from __future__ import annotations

import inspect
import struct
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from PIL import Image as PILImage

from sslpipe.console.errors import UserError
from sslpipe.sharding.sources import Config, open_source, source_digest
from sslpipe.sharding.sources import torchvision as sets


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files."""
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + values.tobytes())


@pytest.fixture
def mnist(project: Path) -> np.ndarray:
    """Twelve training and five test images where torchvision looks for MNIST."""
    raw = project / "data/raw/torchvision/MNIST/MNIST/raw"
    pixels = np.random.default_rng(0).integers(0, 256, (17, 28, 28), dtype=np.uint8)
    for part, rows in (("train", slice(0, 12)), ("t10k", slice(12, 17))):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels[rows])
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(17) % 10).astype(np.uint8)[rows])
    return pixels


def test_torchvision_reads_its_own_files(mnist: np.ndarray) -> None:
    source = open_source(Config(source="torchvision:MNIST"), seed=0)
    train = sorted(source.items("train"), key=lambda item: item.key)
    test = source.items("test")
    assert [item.key for item in test] == [f"MNIST/test/{n:07d}" for n in range(5)]
    assert [item.label for item in train] == [n % 10 for n in range(12)]
    for place, item in enumerate([*train, *test]):
        assert (item.read(10**6) == mnist[place]).all()
    assert source.classes is not None
    assert source.classes[3] == "3 - three"
    assert source.recipe == {"hflip": 0.0}


def test_the_digest_is_that_of_the_files_and_needs_no_torchvision_again(
    mnist: np.ndarray, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source_digest(Config(source="torchvision:MNIST"))
    assert (first["source"], first["count"]) == ("torchvision:MNIST", 4)
    monkeypatch.setattr(sets, "_open", None)
    assert source_digest(Config(source="torchvision:MNIST")) == first
    write_idx(project / "data/raw/torchvision/MNIST/MNIST/raw/t10k-labels-idx1-ubyte", np.zeros(4, np.uint8))
    assert source_digest(Config(source="torchvision:MNIST"))["digest"] != first["digest"]


class Files:
    """Stands for a set of files with three splits, as DTD is."""

    def __init__(self, root: str, split: str = "train", download: bool = False, loader: Any = None) -> None:
        assert download
        self.files, self.loader = [], loader
        self.classes = [("tench", "Tinca tinca"), ("goldfish",)]
        for number in range({"train": 4, "val": 3, "test": 2}[split]):
            self.files.append(Path(root, f"{split}{number}.png"))
            PILImage.fromarray(np.full((4, 6), number, np.uint8)).save(self.files[-1])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return self.loader(self.files[place]), place % 2


def test_files_stay_as_they_are_and_validation_is_trained_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "DTD", Files)
    source = open_source(Config(source="torchvision:DTD", root="sets"), seed=0)
    keys = sorted(item.key for item in source.items("train"))
    assert keys[0] == "DTD/train/train/0000000"
    assert keys[-1] == "DTD/train/val/0000002"
    assert len(keys) == 7
    assert source.classes == ("tench", "goldfish")
    (first, second) = source.items("test")
    assert first.read(10**6) == (project / "sets/DTD/test0.png").read_bytes()
    assert (
        second.read(9) == (project / "sets/DTD/test1.png").read_bytes()[:10]
    )  # one more than the limit: too large


def test_a_set_without_a_test_split_is_cut_class_by_class(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Whole:
        targets = (0, 1) * 10

        def __init__(self, root: str, download: bool = False) -> None:
            pass

        def __len__(self) -> int:
            return 20

        def __getitem__(self, place: int) -> tuple[Any, int]:
            return PILImage.new("RGBA", (5, 5), (place, 1, 2, 255)), self.targets[place]

    monkeypatch.setattr(torchvision.datasets, "EuroSAT", Whole)
    source = open_source(Config(source="torchvision:EuroSAT", test_fraction=0.3), seed=0)
    assert Counter(item.label for item in source.items("test")) == {0: 3, 1: 3}
    pixels = source.items("test")[0].read(0)
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (5, 5, 3)
    assert source.classes == ("0", "1")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (URLError("no route to host"), "no route to host.*try again, or put its files there by hand"),
        (RuntimeError("Dataset not found or corrupted."), "corrupted.*remove what is damaged from"),
        (ModuleNotFoundError("No module named 'h5py'"), "h5py.*install it"),
        (OSError(28, "No space left on device"), "full|space"),
    ],
)
def test_what_goes_wrong_is_said_with_what_to_do(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(root: str, split: str, download: bool = False) -> None:
        raise error

    class Failing:
        __init__ = staticmethod(fails)

    monkeypatch.setattr(torchvision.datasets, "SVHN", Failing)
    with pytest.raises(UserError, match=said):
        source_digest(Config(source="torchvision:SVHN"))
    assert not (project / "data/raw/torchvision/SVHN/.complete").exists()


@pytest.mark.parametrize("name", sets.SETS)
def test_every_set_is_torchvisions_and_takes_what_it_is_asked(name: str) -> None:
    known = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
    for parts in sets.SETS[name]:
        assert all(set(part) <= set(known) for part in parts or ())
