from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from support import ToyReader, encoder, inputs, preprocess
from torch import Tensor, nn

from sslpipe.console.errors import UserError
from sslpipe.evals.detect import evaluate as detect
from sslpipe.evals.detect.evaluate import Config, Maps, average_precision, evaluate
from sslpipe.scenes import composed as scenes
from sslpipe.scenes.composed import Scenes

PREPROCESS = preprocess()
NAMES = ["a", "b", "c", "d"]
QUICK = Config(scenes=scenes.Config(train=16, test=8), epochs=1, device="cpu")


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
    maps = Maps(encoder(name), 32, 3, frozen=True)
    found = maps(torch.randn(2, 3, 32, 32))
    sides = [m.shape[2] for m in found.values()]
    assert sides == sorted(sides, reverse=True)
    assert len(sides) == maps.count > 1
    assert {m.shape[1] for m in found.values()} == {detect.CHANNELS}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_as_it_is_and_another_learns(frozen: bool) -> None:
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = Maps(network, 32, 3, frozen)
    model = detect.detector(maps, 4, 16, 32)
    with detect.progress("test", 2, "steps") as bar:
        detect.fit(model, composed(16, "train"), PREPROCESS, QUICK, 0, bar)
    same = {name for name, value in network.state_dict().items() if torch.equal(before[name], value)}
    assert (same == set(before)) is frozen


@pytest.mark.parametrize("name", ["small_resnet", "small_vit"])
def test_evaluate_sets_the_encoder_beside_random_weights(name: str) -> None:
    network = encoder(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scenes = composed(16, "train"), composed(8, "test"), NAMES
    found = evaluate(inputs(encoder=network, made={"boxes": scenes}), QUICK, 0)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    for key in ("ap50", "map", "random_init_ap50", "random_init_map"):
        assert -1 <= found.metrics[key] <= 1
    test, shown = found.details
    assert test is scenes[1]
    assert len(shown) == 6
    assert found.protocol["train_scenes"] == 16
    assert found.protocol["class_names"] == NAMES


def squares(count: int) -> Scenes:
    """Scenes of one square each on black, of two shades; a crowd beside each third one, and nothing in the last."""
    generator = torch.Generator().manual_seed(0)
    pixels, boxes, labels, crowd = torch.zeros(count, 32, 32, 3, dtype=torch.uint8), [], [], []
    for n in range(count):
        x, y = torch.randint(2, 18, (2,), generator=generator).tolist()
        pixels[n, y : y + 12, x : x + 12] = 255 if n % 2 else 120
        pixels[n, 0, 0] = n  # tells the scene
        box = [[x, y, x + 12, y + 12], [20, 20, 30, 30]][: 1 + (n % 3 == 0)]
        boxes.append(torch.tensor(box, dtype=torch.float32))
        labels.append(torch.full((len(box),), n % 2))
        crowd.append(torch.tensor([0, 1])[: len(box)])
    boxes[-1], labels[-1], crowd[-1] = torch.zeros(0, 4), labels[-1][:0], crowd[-1][:0]
    return Scenes(pixels, torch.zeros(count, 32, 32, dtype=torch.int64), boxes, labels, crowd)


class Knowing(nn.Module):
    """A detector that keeps what it is trained on, and finds every object of the scenes it knows."""

    def __init__(self, scenes: Scenes) -> None:
        super().__init__()
        self.scenes, self.unused = scenes, nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, dict[str, Tensor]]] = []

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        numbers = [round(float((image[0, 0, 0] * 0.25 + 0.5) * 255)) for image in images]
        for number, image in zip(numbers, images, strict=True):
            expected = (self.scenes.pixels[number].permute(2, 0, 1) / 255 - 0.5) / 0.25
            torch.testing.assert_close(image, expected)
        if targets is not None:
            self.seen += zip(numbers, targets, strict=True)
            return {"loss": 0 * self.unused}
        clear = [crowd == 0 for crowd in self.scenes.crowd or []]
        return [
            {
                "boxes": self.scenes.boxes[n][clear[n]],
                "labels": self.scenes.labels[n][clear[n]] + 1,
                "scores": torch.ones(int(clear[n].sum())),
            }
            for n in numbers
        ]


def test_a_detector_is_told_what_is_in_each_scene_and_asked_the_same() -> None:
    made = squares(10)
    model = Knowing(made)
    with detect.progress("test", 4, "steps") as bar:
        detect.fit(model, made, PREPROCESS, QUICK.model_copy(update={"epochs": 2}), 0, bar)
    numbers = [number for number, _ in model.seen]
    assert sorted(numbers[:9]) == sorted(numbers[9:]) == list(range(9))  # the last has no object
    assert numbers[:9] != numbers[9:]
    for number, target in model.seen:
        assert torch.equal(target["boxes"], made.boxes[number][:1])  # without the crowd
        assert target["labels"].tolist() == [1 + number % 2]  # 0 is the background
    assert average_precision(detect.predict(model, made, PREPROCESS), made) == {"ap50": 1.0, "map": 1.0}


def test_two_squares_are_learned_by_heart() -> None:
    pixels = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    pixels[0, 4:16, 6:18], pixels[1, 14:26, 3:15] = 255, 120
    boxes = [torch.tensor([[6.0, 4, 18, 16]]), torch.tensor([[3.0, 14, 15, 26]])]
    none = torch.zeros(2, 32, 32, dtype=torch.int64)
    made = Scenes(pixels, none, boxes, [torch.tensor([1]), torch.tensor([0])])
    maps = Maps(encoder(), 32, 3, frozen=False)
    torch.manual_seed(0)
    model = detect.detector(maps, 2, 16, 32)
    settings = QUICK.model_copy(update={"epochs": 80, "freeze": False})
    with detect.progress("test", 80, "steps") as bar:
        detect.fit(model, made, PREPROCESS, settings, 0, bar)
    assert average_precision(detect.predict(model, made, PREPROCESS), made)["ap50"] == 1.0


def test_what_is_missing_is_named_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UserError, match=r"detect needs pycocotools: run `pip install 'sslpipe\[detect\]'`"):
        evaluate(inputs(encoder=encoder()), QUICK, 0)
