"""Transfer to another labelled set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support import encoder, inputs, manifest

from sslpipe.console.errors import UserError
from sslpipe.data.loader import open_split
from sslpipe.data.subset import labelled
from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.embed import embed
from sslpipe.evals.base.features import Features
from sslpipe.evals.knn import evaluate as neighbours
from sslpipe.evals.linear import evaluate as linear
from sslpipe.evals.transfer import evaluate as transfer
from sslpipe.evals.transfer.evaluate import Config
from sslpipe.sharding.config import Config as ShardConfig

FORM = ShardConfig(resolution=8, duplicates=False, workers=1)


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
    probe = linear.Config(epochs=2, min_steps=10, lrs=(0.1,), few_labels=(9,), draws=2, folds=2)
    knn = neighbours.Config(k=5)
    listed = manifest(classes=("a", "b", "c"))
    given = inputs(sections={"knn": knn, "linear": probe}, made={"transfer": (split, split, listed)})
    found = transfer.evaluate(given, Config(), 1)
    by_probe, by_votes = linear.scores(split, split, probe, 1), neighbours.scores(split, split, knn)
    for prefix in ("", "random_init_", "raw_pixel_"):
        assert found.metrics[f"{prefix}linear_top1"] == by_probe.metrics[f"{prefix}top1"]
        assert found.metrics[f"{prefix}knn_top1"] == by_votes.metrics[f"{prefix}top1"]
    assert found.metrics["few_labels"] == by_probe.metrics["few_labels"]
    assert found.protocol["linear"] == by_probe.protocol
    assert found.protocol["knn"] == by_votes.protocol
    assert (found.protocol["source"], found.protocol["classes"]) == ("folder", 3)
    labels, predicted, names = found.details
    assert torch.equal(labels, label)
    assert torch.equal(predicted, by_probe.details[""])
    assert names == ("a", "b", "c")
    assert transfer.plots(given, Config(), found)["confusion.csv"].startswith("actual,predicted\na,")


def test_the_other_set_is_embedded_once_for_all_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(enabled=True, source="folder", root=str(folder), test_fraction=0.5)
    probe = linear.Config(epochs=2, min_steps=10, lrs=(0.1,), few_labels=(), folds=2)
    network, embedding = encoder(image_size=8), EmbedConfig(device="cpu")
    given = inputs(
        encoder=network,
        sections={
            "shard": FORM,
            "embed": embedding,
            "linear": probe,
            "knn": neighbours.Config(k=3),
            "seed": 0,
        },
    )
    first = transfer.evaluate(given, config, 0)
    monkeypatch.setattr(transfer, "embed", None)
    transfer.evaluate(given, config, 1)
    with transfer.shards(config, FORM, 0) as place:
        train, test = (
            embed(network, labelled(open_split(place, split)), embedding, 0) for split in ("train", "test")
        )
    assert first.metrics["knn_top1"] == neighbours.scores(train, test, neighbours.Config(k=3)).metrics["top1"]
    assert (first.protocol["train_images"], first.protocol["test_images"]) == (10, 10)


def test_the_set_is_stored_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(enabled=True, source="folder", root=str(folder), test_fraction=0.5)
    with transfer.shards(config, FORM, 0) as place:
        train, test = (open_split(place, split) for split in ("train", "test"))
        assert (len(train), len(test)) == (10, 10)
        assert sorted(train.labels.tolist()) == [0] * 5 + [1] * 5
    monkeypatch.setattr(transfer, "shard", None)
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
