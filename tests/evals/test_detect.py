from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from support import ToyReader

from sslpipe.console.errors import UserError
from sslpipe.evals.detect import evaluate as detect
from sslpipe.evals.detect.evaluate import Config, Maps, average_precision, evaluate
from sslpipe.networks import backbone
from sslpipe.scenes import composed as scenes
from sslpipe.scenes.composed import Scenes

PREPROCESS = {"size": 16, "crop": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}
QUICK = Config(scenes=scenes.Config(train=16, test=8), epochs=1, device="cpu")


def network(name: str) -> Any:
    options: dict[str, Any] = (
        {"width": 8} if name == "small_resnet" else {"width": 16, "depth": 1, "heads": 2}
    )
    torch.manual_seed(0)
    return backbone(name, image_size=16, **options).eval()


def composed(count: int, split: str) -> Scenes:
    return scenes.compose(ToyReader(40), split, count, 16, QUICK.scenes, seed=0)


def test_average_precision_of_hand_made_boxes() -> None:
    box = torch.tensor([[10.0, 10.0, 20.0, 20.0]])
    none = torch.zeros(1, 1, 1, dtype=torch.int64)
    truth = Scenes(none, none, [box, box], [torch.tensor([0]), torch.tensor([0])])
    half = torch.tensor([[10.0, 10.0, 20.0, 17.0]])  # overlaps by .7
    scores = torch.tensor([0.9])
    found = [(box, torch.tensor([0]), scores), (half, torch.tensor([0]), scores / 2)]
    result = average_precision(found, truth)
    assert result["ap50"] == pytest.approx(1)
    # At overlaps of .5 to .7 both are found; at .75 to .95 the first alone: half the recall at full precision.
    recalls_of_101 = 51 / 101
    assert result["map"] == pytest.approx((5 + 5 * recalls_of_101) / 10, abs=1e-3)
    other = [(box, torch.tensor([1]), scores), (box, torch.tensor([1]), scores)]
    assert average_precision(other, truth)["ap50"] == 0


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_the_pyramid_gives_maps_of_one_width_the_largest_first(name: str) -> None:
    maps = Maps(network(name), 32, 3, frozen=True)
    found = maps(torch.randn(2, 3, 32, 32))
    sides = [m.shape[2] for m in found.values()]
    assert sides == sorted(sides, reverse=True)
    assert len(sides) == maps.count > 1
    assert {m.shape[1] for m in found.values()} == {detect.CHANNELS}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_as_it_is_and_another_learns(frozen: bool) -> None:
    encoder = network("small_resnet")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    maps = Maps(encoder, 32, 3, frozen)
    model = detect.detector(maps, 4, 16, 32)
    with detect.progress("test", 2, "steps") as bar:
        detect.fit(model, composed(16, "train"), PREPROCESS, QUICK, 0, bar)
    same = {name for name, value in encoder.state_dict().items() if torch.equal(before[name], value)}
    assert (same == set(before)) is frozen


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str) -> None:
    encoder = network(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    metrics, shown = evaluate(encoder, PREPROCESS, composed(16, "train"), composed(8, "test"), 4, QUICK, 0)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    for key in ("ap50", "map", "random_init_ap50", "random_init_map"):
        assert -1 <= metrics[key] <= 1
    assert len(shown) == 6
    assert metrics["protocol"]["train_scenes"] == 16


def test_it_learns_to_find_bright_squares() -> None:
    """Squares of two shades on black, by an untrained encoder: found far above chance after some epochs."""
    generator = torch.Generator().manual_seed(0)
    pixels, boxes, labels = torch.zeros(64, 32, 32, 3, dtype=torch.uint8), [], []
    for n in range(64):
        x, y = torch.randint(2, 18, (2,), generator=generator).tolist()
        label = n % 2
        pixels[n, y : y + 12, x : x + 12] = 255 if label else 120
        boxes.append(torch.tensor([[x, y, x + 12, y + 12]], dtype=torch.float32))
        labels.append(torch.tensor([label]))
    made = Scenes(pixels, torch.zeros(64, 32, 32, dtype=torch.int64), boxes, labels)
    maps = Maps(network("small_resnet"), 32, 3, frozen=False)
    torch.manual_seed(0)
    model = detect.detector(maps, 2, 16, 32)
    settings = QUICK.model_copy(update={"epochs": 12, "freeze": False})
    with detect.progress("test", 96, "steps") as bar:
        detect.fit(model, made, PREPROCESS, settings, 0, bar)
    assert average_precision(detect.predict(model, made, PREPROCESS), made)["ap50"] > 0.5


def test_what_is_missing_is_named_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match=r"detect needs pycocotools: run `pip install 'sslpipe\[detect\]'`"):
        evaluate(network("small_resnet"), PREPROCESS, composed(8, "train"), composed(2, "test"), 4, QUICK, 0)
