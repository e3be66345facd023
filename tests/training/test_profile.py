from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method

from sslpipe.data.loader import Loader
from sslpipe.training.core.config import Config
from sslpipe.training.profile import PHASES, Profile, advise, picture, profile, table

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PHASE = {"decode": 1.0, "upload": 0.0, "views": 9.0, "forward": 30.0, "backward": 55.0, "optimiser": 5.0}
FOUND = Profile(PHASE, step=100.0, waiting=9.5, images=64, steps=20, device="a CPU")
PLAIN = Config(precision="fp32", compile="always")


@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 2}, {"accumulate": 2, "gradient_cache": True}],
    ids=["plain", "parts", "cache"],
)
def test_every_phase_is_measured_and_steps_are_those_of_training(changes: dict[str, Any]) -> None:
    method, reader = small_method("simclr"), ToyReader(count=40)
    before = [p.clone() for p in method.parameters()]
    config = Config(batch_size=16, epochs=2, **changes)
    found = profile(
        method, Loader(reader, batch_size=16, seed=0), small_engine("simclr"), config, steps=3, seed=0
    )
    assert list(found.phases) == list(PHASES)
    assert all(found.phases[name] > 0 for name in ("views", "forward", "backward", "optimiser"))
    assert found.step > found.waiting > 0
    assert (found.images, found.steps) == (16, 3)
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


def test_what_a_method_drops_is_seeded_as_in_training(toy_reader: ToyReader) -> None:
    found = []
    for number in range(2):
        method: Any = small_method("simclr")
        method.projector.append(torch.nn.Dropout(0.5))
        torch.manual_seed(number)
        loader, config = Loader(toy_reader, batch_size=16, seed=0), Config(batch_size=16, epochs=2)
        profile(method, loader, small_engine("simclr"), config, steps=1, seed=0)
        found.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    assert torch.equal(*found)


def test_the_table_has_shares_rate_and_waiting() -> None:
    text = table(FOUND)
    assert "forward       30.0   30 %" in text
    assert "100.0 ms, 640 images/s" in text
    assert "waiting for views 9.5 ms" in text


def test_the_picture_is_a_bar_as_wide_as_the_times() -> None:
    svg = ET.fromstring(picture(FOUND))
    bars = [r for r in svg.iter("{http://www.w3.org/2000/svg}rect") if r.get("y") == "30"]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths == pytest.approx([7.4 * value for value in PHASE.values()], abs=0.06)


@pytest.mark.parametrize(
    ("changes", "config", "device", "streaming", "said"),
    [
        ({}, PLAIN, CPU, False, "nothing else stands out"),
        ({"waiting": 40.0}, PLAIN, CPU, True, "waits for images 31 %.*loader.reader"),
        ({"waiting": 40.0}, PLAIN, CPU, False, "waits for images 31 %.*more cores"),
        (
            {"waiting": 40.0},
            PLAIN.model_copy(update={"precision": "bf16"}),
            GPU,
            True,
            "waits for images 40 %",
        ),
        ({}, PLAIN, GPU, False, "precision bf16"),
        ({}, Config(precision="bf16"), GPU, False, "pretrain.compile"),
        ({"phases": PHASE | {"views": 60.0}}, PLAIN, CPU, False, "views take 40 %"),
        ({"phases": PHASE | {"optimiser": 25.0}}, PLAIN, CPU, False, "optimiser takes 21 %"),
        ({}, PLAIN.model_copy(update={"accumulate": 4}), CPU, False, "in 4 parts"),
    ],
)
def test_advice(
    changes: dict[str, Any], config: Config, device: torch.device, streaming: bool, said: str
) -> None:
    advice = advise(replace(FOUND, **changes), config, device, streaming)
    (line,) = advice
    assert re.search(said, line)
