from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sslpipe.core import scratch
from sslpipe.evals.base.features import Features
from sslpipe.evals.base.trust import digests, repeated, without_duplicates
from sslpipe.evals.linear import evaluate as linear
from sslpipe.shards.manifest import Duplicates, Manifest, Origin, Rejects, Splits, Statistics, shards_digest


def manifest(*pairs: tuple[str, int]) -> Manifest:
    """Of six test images, those pairs repeat a training image."""
    split = {"labelled": False, "class_counts": None, "index": scratch.digest("index")}
    shard = {"sha256": scratch.digest("shard"), "bytes": 10240}
    splits = Splits.parse(
        {
            name: {
                **split,
                "count": count,
                "shards": [{**shard, "path": f"{name}/{name}-000000.tar", "count": count}],
            }
            for name, count in (("train", 9), ("test", 6))
        }
    )
    listed = [
        {
            "split": name,
            "place": place,
            "key": "a",
            "of": 0,
            "of_key": "b",
            "difference": 0.0,
            "exact": True,
        }
        for name, place in pairs
    ]
    counts = {f"{name}_{kind}": 0 for name in ("train", "test") for kind in ("exact", "near")}
    return Manifest(
        source=Origin(name="folder", digest=scratch.digest("source")),
        resolution=28,
        seed=0,
        classes=None,
        splits=splits,
        statistics=Statistics(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)),
        recipe={},
        rejects=Rejects(count=0, by_reason={}, listed=()),
        duplicates=Duplicates.parse({**counts, "unseen": 0, "listed": listed}) if pairs else None,
        digest=shards_digest(splits),
    )


def images(index: list[int]) -> Features:
    none = torch.zeros(len(index), 1)
    return Features(none, none, none, torch.tensor([0, 1, 0, 1, 0])[: len(index)], torch.tensor(index))


def test_scores_without_the_images_that_repeat_one_of_train() -> None:
    # Place 3 has no label, so five of six images are tested; places 1 and 5 are repeats, as is 2 in train.
    found = manifest(("test", 1), ("test", 5), ("train", 2))
    assert repeated(found).tolist() == [1, 5]
    predicted = {"": torch.tensor([0, 0, 0, 0, 0]), "random_init_": torch.tensor([1, 1, 1, 1, 0])}
    assert without_duplicates(found, images([0, 1, 2, 4, 5]), predicted) == {
        "without_duplicates": {
            "top1": pytest.approx(2 / 3),  # places 0, 2 and 4 have the classes 0, 0 and 1
            "random_init_top1": pytest.approx(1 / 3),
            "test_images": 3,
        }
    }


@pytest.mark.parametrize("pairs", [(), (("train", 1),), tuple(("test", n) for n in range(6))])
def test_nothing_is_said_where_none_or_all_are_repeats(pairs: Any) -> None:
    found = without_duplicates(manifest(*pairs), images([0, 1, 2]), {"": torch.tensor([0, 0, 0])})
    assert found == {}


def test_digests_change_with_what_was_measured_and_not_with_the_device(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder.json"
    encoder.write_text(json.dumps({"weights_sha256": "w" * 64}))
    found, settings = manifest(), linear.Config()
    first = digests(found.digest, settings, encoder)
    assert first["data"] == found.digest
    assert first["encoder"] == "w" * 64
    assert digests(found.digest, settings.model_copy(update={"device": "cpu"}), encoder) == first
    assert (
        digests(found.digest, settings.model_copy(update={"epochs": 3}), encoder)["settings"]
        != first["settings"]
    )
