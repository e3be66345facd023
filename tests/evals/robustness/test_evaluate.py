from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import ToyReader, inputs
from support import encoder as small
from torch import Tensor

from sslpipe.console.errors import UserError
from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.embed import embed
from sslpipe.evals.base.features import Features
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.robustness import corruptions
from sslpipe.evals.robustness import evaluate as robustness
from sslpipe.evals.robustness.evaluate import Config, evaluate, plots
from sslpipe.evals.robustness.invariance import STRENGTHS
from sslpipe.measures.knn import knn
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import Recipe, ViewSpec

PREPROCESS = Preprocess(size=16, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
RECIPE = Recipe(views=(ViewSpec(size=16, scale=(0.5, 1.0), grey=0.2),))
FEW = Config(enabled=True, images=20, severities=(1, 5), k=3)


class Planted(robustness.Nets):
    """Features that are what a function makes of pixels, beside the pixels themselves."""

    def __init__(self, function: Any) -> None:
        self.function, self.preprocess, self.nets = function, PREPROCESS, {"": None, "pixels_": None}  # type: ignore[dict-item]

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"": self.function(pixels), "pixels_": pixels.flatten(1)}


class Quiet:
    def update(self, amount: int = 1, note: str = "") -> None:
        pass


def measured(function: Any, reader: Any = None) -> dict[str, Any]:
    return robustness.invariances(
        Planted(function), reader or ToyReader(16), torch.arange(16), 0.0, 0, Quiet()
    )


def encoder() -> Any:
    found = small(stages=3)
    found.preprocess = PREPROCESS
    return found


def embedded(reader: Any) -> Features:
    return embed(encoder(), reader, EmbedConfig(device="cpu"), seed=1)


def evaluated(train: Features, test: Any, device: str = "cpu", seed: int = 1) -> Outcome:
    given = inputs(encoder=encoder(), features=(train, train.at(train.index < 0)), test=test, recipe=RECIPE)
    return evaluate(given, FEW.model_copy(update={"device": device}), seed)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return evaluated(embedded(ToyReader(40)), ToyReader(24))


@pytest.fixture(scope="module")
def result(outcome: Outcome) -> Any:
    return outcome.metrics


def test_a_feature_that_ignores_flips_has_invariance_1_to_them_alone() -> None:
    found = measured(lambda x: (x + x.flip(-1)).flatten(1))
    assert found["invariance"]["hflip"] == pytest.approx(1, abs=1e-6)
    assert found["pixels_invariance"]["hflip"] < 0.9
    assert all(
        found["invariance"][name] < 0.999 for name in ("vflip", "quarter_turns", "crop", "blur", "solarize")
    )


def test_a_feature_of_places_alone_ignores_colour() -> None:
    def luma(x: Tensor) -> Tensor:
        x = PREPROCESS.plain(x)
        return (0.2989 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).flatten(1)

    found = measured(luma)["invariance"]
    assert found["grey"] == pytest.approx(1, abs=1e-3)
    assert found["solarize"] < 0.9


def test_a_feature_that_says_nothing_has_no_invariance() -> None:
    found = measured(lambda x: torch.ones(len(x), 3))
    assert found["similarity"]["hflip"] == pytest.approx(1)
    assert set(found["invariance"].values()) == {None}


def test_what_changes_nothing_is_left_out() -> None:
    reader = ToyReader(16)
    reader.pixels = reader.pixels[..., :1].expand(-1, -1, -1, 3).contiguous()
    found = measured(lambda x: x.flatten(1), reader)
    assert found["without_effect"] == ["saturation", "hue", "grey"]
    assert set(found["invariance"]) == set(STRENGTHS) - {"saturation", "hue", "grey"}


def test_clean_accuracy_is_that_of_the_k_nn_on_the_same_images(result: dict[str, Any]) -> None:
    train, test = embedded(ToyReader(40)), embedded(ToyReader(24))
    rows = robustness.sample(24, 20, 1)
    for prefix, kind in (("", "features"), ("random_init_", "random_init_features")):
        score = knn(
            getattr(train, kind),
            train.label,
            getattr(test, kind)[rows],
            test.label[rows],
            k=3,
            temperature=0.07,
        )
        assert result[f"{prefix}top1"] == pytest.approx(score["top1"])


def test_a_corrupted_accuracy_is_that_of_the_corrupted_images(result: dict[str, Any]) -> None:
    network, reader, train = encoder(), ToyReader(24), embedded(ToyReader(40))
    batch = reader.gather(robustness.sample(24, 20, 1))
    pixels = PREPROCESS.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3}).view(batch)
    pixels = corruptions.corrupt(pixels, "contrast", 5, torch.Generator())  # nothing is drawn
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (PREPROCESS.mean, PREPROCESS.std))
    with torch.inference_mode():
        features = network((pixels - mean) / std)
    score = knn(train.features, train.label, features, batch.label, k=3, temperature=0.07)
    assert result["corruptions"]["contrast"]["5"] == pytest.approx(score["top1"])


def test_what_is_reported(outcome: Outcome) -> None:
    result = outcome.metrics
    assert set(result["invariance"]) == set(result["random_init_invariance"]) == set(STRENGTHS)
    assert result["in_recipe"] == ["crop", "hflip", "grey"]
    for prefix in ("", "random_init_"):
        assert set(result[f"{prefix}corruptions"]) == set(corruptions.NAMES)
        values = [v for row in result[f"{prefix}corruptions"].values() for v in row.values()]
        assert len(values) == 2 * len(corruptions.NAMES)
        assert result[f"{prefix}mean_corrupted_top1"] == pytest.approx(sum(values) / len(values))
    assert outcome.protocol["corruption_constants"] == "those of CIFAR-10-C"
    assert outcome.protocol["chosen_on"].startswith("nothing")


def test_the_same_seed_gives_the_same_numbers(outcome: Outcome) -> None:
    assert evaluated(embedded(ToyReader(40)), ToyReader(24)) == outcome


def test_without_labels_there_are_invariances_alone() -> None:
    reader = ToyReader(12)
    reader.labels = torch.full((12,), -1)
    found = evaluated(embedded(reader), reader)
    assert found.metrics["corruptions_skipped"] == "there are no labels"
    assert "top1" not in found.metrics
    assert set(plots(inputs(), FEW, found)) == {"invariance.csv"}


def test_tables_hold_every_number(outcome: Outcome) -> None:
    result, files = outcome.metrics, plots(inputs(), FEW, outcome)
    rows = [line.split(",") for line in files["corruptions.csv"].splitlines()[1:]]
    assert len(rows) == 2 * len(corruptions.NAMES) * 3
    assert ["jpeg", "0", "encoder", f"{result['top1']:.4f}"] in rows
    assert ["jpeg", "5", "random_init", f"{result['random_init_corruptions']['jpeg']['5']:.4f}"] in rows
    rows = [line.split(",") for line in files["invariance.csv"].splitlines()[1:]]
    assert len(rows) == 2 * len(STRENGTHS)
    first = rows[0]
    assert first[:2] == ["crop", "encoder"]
    assert float(first[3]) == pytest.approx(result["invariance"]["crop"], abs=1e-4)
    assert math.isfinite(float(first[2]))


def test_one_image_is_too_few() -> None:
    empty = Features(*(torch.zeros(0, 3) for _ in range(3)), torch.zeros(0).long(), torch.zeros(0).long())
    with pytest.raises(UserError, match=r"robustness\.enabled to false"):
        evaluated(empty, ToyReader(1))


@pytest.mark.parametrize("severities", [(), (0,), (6,), (3, 1), (1, 1)])
def test_severities_are_from_1_to_5(severities: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="severities"):
        Config(severities=severities)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers(result: dict[str, Any]) -> None:
    found = evaluated(embedded(ToyReader(40)), ToyReader(24), device="cuda").metrics
    assert found["invariance"] == pytest.approx(result["invariance"], abs=1e-3)
    assert found["top1"] == pytest.approx(result["top1"])
