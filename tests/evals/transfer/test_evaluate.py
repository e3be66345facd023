"""Transfer to another labelled set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.data.loader import open_split
from sslpipe.evals.base.features import Features
from sslpipe.evals.knn import evaluate as neighbours
from sslpipe.evals.linear import evaluate as linear
from sslpipe.evals.transfer import evaluate as transfer
from sslpipe.evals.transfer.evaluate import Config
from sslpipe.sharding import shard as sharding

FORM = sharding.Config(resolution=8, duplicates=False, workers=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten red and ten blue images by class, and a project to work in."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            red, green, blue = colour
            shade = (red, green + 10 * number, blue)
            Image.new("RGB", (8, 8), shade).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def test_numbers_are_those_of_the_protocols_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(60) % 3
    features = torch.randn(60, 6, generator=generator) + label[:, None]
    split = Features(features, features.flip(0), features[:, :2], label, torch.arange(60))
    probe = linear.Config(epochs=2, min_steps=10, rates=(0.1,), few_labels=(9,), draws=2, folds=2)
    knn = neighbours.Config(k=5)
    metrics, predicted = transfer.evaluate(split, split, knn, probe, 1)
    by_probe, expected = linear.evaluate(split, split, probe, 1)
    by_votes, _ = neighbours.evaluate(split, split, knn)
    for prefix in ("", "random_init_", "raw_pixel_"):
        assert metrics[f"{prefix}linear_top1"] == by_probe[f"{prefix}top1"]
        assert metrics[f"{prefix}knn_top1"] == by_votes[f"{prefix}top1"]
    assert metrics["few_labels"] == by_probe["few_labels"]
    assert torch.equal(predicted[""], expected[""])


def test_the_set_is_stored_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(enabled=True, source="folder", root=str(folder), test_fraction=0.5)
    with transfer.shards(config, FORM, 0) as place:
        train, test = (open_split(place, split) for split in ("train", "test"))
        assert (len(train), len(test)) == (10, 10)
        assert sorted(train.labels.tolist()) == [0] * 5 + [1] * 5
    monkeypatch.setattr(sharding, "shard", None)
    with transfer.shards(config, FORM, 0) as again:
        assert again == place


def test_changed_images_are_stored_anew(folder: Path) -> None:
    config = Config(enabled=True, source="folder", root=str(folder))
    with transfer.shards(config, FORM, 0) as place:
        pass
    Image.new("RGB", (8, 8)).save(folder / "red" / "new.png")
    with transfer.shards(config, FORM, 0) as again:
        assert again != place
        assert sum(len(open_split(again, split)) for split in ("train", "test")) == 21


def test_a_set_without_labels_is_refused(folder: Path) -> None:
    config = Config(enabled=True, source="folder", root=str(folder / "red"))
    with pytest.raises(UserError, match="no labels"), transfer.shards(config, FORM, 0):
        pass


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"enabled": True}, "set source"),
        ({"source": "folder"}, "set root"),
        ({"source": "torchvision:CIFAR11"}, "did you mean"),
        ({"enabled": True, "source": "elpv", "test_fraction": 2.0}, "less than 1"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.parse(values)
