"""Every evaluation on a pretended GPU: no mismatch, no race, the numbers of a CPU, and no waits for single steps."""

from __future__ import annotations

from typing import Any

import pytest
from evaluations import NAMES, config_of, everything, module
from pretended import Gpu

from sslpipe.evals.base.outcome import numbers

#: Waits that another epoch adds: one for each fit's caption.
PER_EPOCH = {"attentive": 4, "segment": 8}


#: Those that learn step by step; within detection torchvision's detector waits as it likes.
STEPPED = [name for name in NAMES if hasattr(config_of(name), "epochs") and name != "detect"]


def numbers_on(gpu: Gpu, name: str, backbone: str, **changes: Any) -> dict[str, float]:
    given = everything.__wrapped__(backbone, "cuda")  # not kept: its tensors end with the GPU
    gpu.notes.clear()
    config = config_of(name, "cuda").model_copy(update=changes)
    return numbers(module(name).evaluate(given, config, 3).metrics)


@pytest.fixture(autouse=True)
def measured(name: str) -> None:
    if name == "detect":
        pytest.importorskip("pycocotools", reason="detection is measured by it")


@pytest.mark.parametrize("backbone", ["small_resnet", "small_vit"])
@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation(name: str, backbone: str, gpu: Gpu) -> None:
    wanted = numbers(module(name).evaluate(everything(backbone), config_of(name), 3).metrics)
    found = numbers_on(gpu, name, backbone)
    assert gpu.of("race", "pageable") == []
    assert found == pytest.approx(wanted, rel=0.02, abs=0.02)


@pytest.mark.parametrize("name", STEPPED)
def test_more_epochs_are_no_more_waits(name: str, gpu: Gpu) -> None:
    counts = []
    for epochs in (1, 2):
        numbers_on(gpu, name, "small_resnet", epochs=epochs)
        counts.append(sum(count for note, count in gpu.notes.items() if note.kind == "wait"))
    assert counts[1] - counts[0] <= PER_EPOCH.get(name, 0), gpu.of("wait")
