from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from support import ToyReader, inputs
from support import encoder as small

from sslpipe import methods
from sslpipe.console.errors import UserError
from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.embed import embed, random_twin
from sslpipe.evals.base.features import Features
from sslpipe.evals.base.outcome import Outcome
from sslpipe.evals.diagnostics import evaluate as diagnostics
from sslpipe.evals.diagnostics.evaluate import Config, evaluate
from sslpipe.measures import geometry as measures
from sslpipe.measures.geometry import effective_rank
from sslpipe.views import ViewEngine
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import Jitter, PatchMask, Recipe, ViewSpec, resolve

PREPROCESS = Preprocess(size=16, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
RECIPE = Recipe(
    views=(ViewSpec(name="first", size=12, scale=(0.5, 1.0), mask=PatchMask(patch_size=4), jitter=Jitter()),)
)
FEW = Config(images=10, views=3, k=4, device="cpu")


def encoder() -> Any:
    found = small(stages=3)
    found.preprocess = PREPROCESS
    return found


def embedded(reader: ToyReader) -> Features:
    return embed(encoder(), reader, EmbedConfig(device="cpu"), seed=1)


def measured(
    train: Features, test: Features, batch_size: int = 64, recipe: Recipe = RECIPE, **changes: Any
) -> Outcome:
    given = inputs(
        encoder=encoder(),
        train=ToyReader(32),
        recipe=recipe,
        features=(train, test),
        sections={"embed": EmbedConfig(batch_size=batch_size)},
    )
    return evaluate(given, FEW.model_copy(update=changes), seed=1)


def test_each_number_is_that_of_its_formula() -> None:
    train, test = embedded(ToyReader(32)), embedded(ToyReader(12))
    found = measured(train, test)
    metrics, spectra = found.metrics, found.details
    for prefix, kind in (
        ("", "features"),
        ("random_init_", "random_init_features"),
        ("raw_pixel_", "raw_pixel_features"),
    ):
        x = getattr(train, kind)
        assert metrics[f"{prefix}rankme"] == pytest.approx(effective_rank(x).item())
        assert metrics[f"{prefix}uniformity"] == pytest.approx(measures.uniformity(x))
        assert metrics[f"{prefix}dimensions"] == x.shape[1]
        assert metrics[f"{prefix}nn_purity"] == pytest.approx(
            measures.purity(x, train.label, getattr(test, kind), test.label, 4)
        )
    torch.testing.assert_close(spectra["encoder"], measures.eigenspectrum(train.features))
    assert set(spectra) == {"encoder", "random_init", "raw_pixel"}
    assert found.protocol["images"] == 10
    json.dumps({**metrics, "protocol": found.protocol}, allow_nan=False)


def test_views_are_of_the_first_spec_at_the_encoders_size() -> None:
    reader, places = ToyReader(32), diagnostics.sample(32, 10, 1)
    spec = RECIPE.views[0].model_copy(
        update={"size": 16, "count": 3, "mask": None, "mean": PREPROCESS.mean, "std": PREPROCESS.std}
    )
    views = ViewEngine(Recipe(views=(spec,)), seed=1)(reader.gather(places), 0)
    network = encoder()
    with torch.inference_mode():
        expected = {
            prefix: torch.stack([net(view.pixels) for view in views], dim=1)  # [10, 3, D]
            for prefix, net in (("", network), ("random_init_", random_twin(network, 1)))
        }
    metrics = measured(embedded(reader), embedded(ToyReader(12)), batch_size=7).metrics
    for prefix, x in expected.items():
        assert metrics[f"{prefix}lidar"] == pytest.approx(measures.lidar(x), rel=1e-3)
        assert metrics[f"{prefix}alignment"] == pytest.approx(measures.alignment(x[:, 0], x[:, 1]), rel=1e-3)


@pytest.mark.parametrize("name", methods.names())
def test_views_of_every_method_can_be_drawn(name: str) -> None:
    settings = FEW.model_copy(update={"images": 4, "views": 2})
    recipe = resolve(methods.recipe(name, 16, patch_size=4), user={"grey": 0.0})
    nets = {"": encoder()}
    found = diagnostics.embedded_views(
        nets, ToyReader(8), recipe, settings, EmbedConfig(batch_size=8), seed=0
    )
    assert found[""].shape == (4, 2, encoder().dim)
    # But for the images that it makes grey, nothing of jigsaw's view is drawn: its crop is the whole image.
    assert diagnostics._vary(found[""]) == (name != "jigsaw")


def test_views_that_are_all_the_same_say_nothing() -> None:
    still = Recipe(views=(ViewSpec(size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0),))
    train = embedded(ToyReader(32))
    found = measured(train, train, recipe=still)
    assert not [name for name in found.metrics if "lidar" in name or "alignment" in name]
    assert found.protocol["view"].startswith("left out")
    assert "rankme" in found.metrics


def test_without_labels_only_purity_is_left_out() -> None:
    reader = ToyReader(32)
    reader.labels = torch.full((32,), -1)
    metrics = measured(embedded(reader), embedded(reader)).metrics
    assert not [name for name in metrics if "purity" in name]
    assert {"rankme", "lidar", "alignment", "uniformity", "feature_std", "dead_dimensions"} <= set(metrics)


def test_without_test_images_only_purity_is_left_out() -> None:
    train = embedded(ToyReader(32))
    none = Features(**{name: tensor[:0] for name, tensor in vars(train).items()})
    metrics = measured(train, none).metrics
    assert not [name for name in metrics if "purity" in name]
    assert "rankme" in metrics


def test_more_neighbours_than_images_are_all_of_them() -> None:
    train, test = embedded(ToyReader(8)), embedded(ToyReader(12))
    assert measured(train, test, k=100).metrics["nn_purity"] == pytest.approx(0.25)  # four classes, evenly


def test_collapsed_features_have_numbers_that_say_so() -> None:
    row, _ = diagnostics.of_images(torch.ones(30, 16), torch.device("cpu"), 0)
    assert row["rankme"] == pytest.approx(1, abs=1e-3)
    assert row["dead_dimensions"] == 16
    assert row["uniformity"] == pytest.approx(0, abs=1e-9)
    assert row["feature_std"] == pytest.approx(0, abs=1e-6)
    assert "alpha_req" not in row


def test_features_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(UserError, match="not finite"):
        diagnostics.of_images(torch.tensor([[1.0, float("nan")]]), torch.device("cpu"), 0)


def test_one_image_is_too_few() -> None:
    one = embedded(ToyReader(1))
    with pytest.raises(UserError, match=r"diagnostics\.enabled to false"):
        measured(one, one)


def test_the_spectrum_as_a_table() -> None:
    spectra = {"encoder": torch.tensor([0.75, 0.25]), "random_init": torch.ones(1001)}
    files = diagnostics.plots(inputs(), FEW, Outcome(metrics={}, protocol={}, details=spectra))
    lines = files["eigenspectrum.csv"].splitlines()
    assert lines[:3] == ["rank,series,share", "1,encoder,7.5000e-01", "2,encoder,2.5000e-01"]
    assert len(lines) == 1 + 2 + 1000


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers() -> None:
    train = embedded(ToyReader(32))
    on_cpu, on_gpu = (measured(train, train, device=device).metrics for device in ("cpu", "cuda"))
    assert set(on_cpu) == set(on_gpu)
    for name, value in on_cpu.items():
        assert on_gpu[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name
