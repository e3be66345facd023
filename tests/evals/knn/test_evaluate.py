from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from planted import planted_features
from support import inputs, manifest

from sslpipe.evals.base import neighbours
from sslpipe.evals.base.features import KINDS, Features
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.knn import Config
from sslpipe.evals.knn.evaluate import evaluate, plots
from sslpipe.measures.knn import choose, knn

USES = {"import sslpipe": "sslpipe.evals.knn", "from sslpipe.evals import knn": "knn"}


@pytest.mark.parametrize("line", USES)
def test_the_public_name_is_the_measurement_and_a_package_too(line: str) -> None:
    """In a process of its own, where nothing else has imported the package."""
    program = f"""{line}
import sys
assert "torch" not in sys.modules
import torch
x, y = torch.eye(3), torch.arange(3)
found = {USES[line]}(x, y, x, y, k=2, temperature=0.07)
from sslpipe.evals.knn import Config
from sslpipe.measures.knn import knn as measured
assert found == measured(x, y, x, y, k=2, temperature=0.07), found
assert found["top1"] == 1 and found["k"] == 2
assert Config().k == 20
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def blobs(count: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(5, (count,), generator=generator)
    return centres[labels] + spread * torch.randn(count, 16, generator=generator), labels


def features(count: int, seed: int) -> Features:
    x, y = blobs(count, seed, spread=0.5)
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed + 50))
    return Features(x, noise, x[:, :4], y, torch.arange(count))


def found(train: Features, test: Features, config: Config) -> Outcome:
    return evaluate(inputs(features=(train, test), manifest=manifest()), config, seed=0)


def test_each_kind_of_features_has_its_accuracy() -> None:
    train, test = features(200, 0), features(60, 1)
    outcome = found(train, test, Config(k=5))
    for prefix, kind in KINDS:
        x, q = getattr(train, kind), getattr(test, kind)
        expected = knn(x, train.label, q, test.label, k=5, temperature=0.07)
        assert outcome.metrics[f"{prefix}top1"] == expected["top1"]
        assert (outcome.details[prefix] == test.label).double().mean().item() == expected["top1"]
    assert (
        outcome.metrics["top5"]
        == knn(train.features, train.label, test.features, test.label, k=5, temperature=0.07)["top5"]
    )
    assert outcome.protocol["train_images"] == 200


def test_what_features_tell_is_found_in_full() -> None:
    metrics = found(planted_features(40), planted_features(16), Config(k=5)).metrics
    assert metrics["top1"] == 1.0
    # Pairs of classes have the same raw pixels: all of a pair's images are told the same one of the two.
    assert metrics["raw_pixel_top1"] == 0.5
    assert metrics["random_init_top1"] == 0.25


def test_images_without_a_label_neither_vote_nor_ask() -> None:
    train, test = planted_features(40), planted_features(16)
    dirty = replace(train, features=-train.features, label=torch.full_like(train.label, -1))
    both = Features(*(torch.cat([getattr(each, name) for each in (train, dirty)]) for name in vars(train)))
    asked = replace(test, label=torch.where(torch.arange(16) < 12, test.label, -1))
    outcome = found(both, asked, Config(k=5))
    assert outcome.metrics["top1"] == 1.0
    assert (outcome.protocol["train_images"], outcome.protocol["test_images"]) == (40, 12)


def test_test_images_that_repeat_one_of_train_are_left_out_beside() -> None:
    train, test = planted_features(40), planted_features(6)
    test = replace(test, label=torch.tensor([0, 1, 2, 3, 3, 3]))  # the last two look like classes 0 and 1
    given = inputs(features=(train, test), manifest=manifest(("test", 4), ("test", 0)))
    metrics = evaluate(given, Config(k=5), seed=0).metrics
    assert metrics["top1"] == 4 / 6
    assert metrics["without_duplicates"]["top1"] == 3 / 4
    assert metrics["without_duplicates"]["test_images"] == 4


def test_k_and_temperature_are_chosen_within_train() -> None:
    train, test = features(200, 0), features(60, 1)
    noisy = blobs(200, 0, spread=3.0)
    train = replace(train, features=noisy[0], label=noisy[1])
    settings = Config(k=(1, 5, 40), temperature=(0.05, 1.0))
    k, t = choose(train.features, train.label, settings.grid())
    outcome = found(train, test, settings)
    assert outcome.protocol["features"] == {"k": k, "temperature": t}
    assert "held back" in outcome.protocol["chosen_on"]
    expected = knn(train.features, train.label, test.features, test.label, k=k, temperature=t)
    assert outcome.metrics["top1"] == expected["top1"]


def test_the_test_split_chooses_nothing() -> None:
    train, test = features(200, 0), features(60, 1)
    settings = Config(k=(1, 5, 40), temperature=(0.05, 1.0))
    used = [
        found(train, each, settings).protocol
        for each in (test, replace(test, features=-test.features, label=test.label.roll(1)))
    ]
    assert used[0] == used[1]


def test_the_neighbour_sheet_names_places_in_the_splits() -> None:
    train, test = features(50, 0), features(20, 1)
    train, test = (
        replace(train, index=train.index + 7),
        replace(test, index=test.index + 3),
    )  # the first have no label
    given = inputs(features=(train, test), manifest=manifest())
    files = plots(given, Config(queries=4), Outcome(metrics={}, protocol={}, details={"": test.label}))
    sheet = json.loads(files["neighbours.json"])
    assert [row["query"] for row in sheet] == [3, 9, 15, 22]
    for row in sheet:
        near = train.features[torch.tensor(row["neighbours"]) - 7]
        similarity = torch.cosine_similarity(test.features[row["query"] - 3], near)
        torch.testing.assert_close(similarity, torch.tensor(row["similarity"]), atol=1e-4, rtol=0)
        assert row["similarity"] == sorted(row["similarity"], reverse=True)


def test_plots_name_classes_and_neighbours() -> None:
    train, test = planted_features(40), planted_features(16)
    given = inputs(features=(train, test), manifest=manifest(classes=("a", "b", "c", "d")))
    config = Config(k=5, queries=4)
    files = plots(given, config, evaluate(given, config, seed=0))
    rows = list(csv.reader(io.StringIO(files["confusion.csv"])))
    assert rows == [["actual", "predicted"], *([name, name] for name in 4 * "abcd")]
    queries = torch.tensor([0, 5, 10, 15])
    assert json.loads(files["neighbours.json"]) == neighbours.sheet(train, test, queries, 8)
