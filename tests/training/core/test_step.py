"""The step that is trained by, timed and compared with: what it goes through, and that timing changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method

from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Method
from sslpipe.training.core.config import Config
from sslpipe.training.core.loop import train
from sslpipe.training.core.phases import untimed
from sslpipe.training.core.step import TrainingStep

OPTIMIZER = OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0.5, clip=1.0)
CONFIG = Config(epochs=2, batch_size=16, checkpoint_seconds=1e9)
STEPS = 2  # an epoch of the toy images


def with_dropout() -> Method:
    method: Any = small_method("simclr")
    method.projector.append(torch.nn.Dropout(0.5))
    return method  # type: ignore[no-any-return]


def stepped(method: Method, reader: ToyReader, config: Config = CONFIG, phase: Any = untimed) -> Method:
    """All steps of a training, without its loop."""
    method.train()
    engine, loader = small_engine("simclr"), Loader(reader, batch_size=16, seed=0)
    training_step = TrainingStep(method, config, OPTIMIZER, steps_per_epoch=STEPS, seed=0)
    for step in range(training_step.total):
        epoch, first = divmod(step, STEPS)
        batch = next(iter(loader.epoch(epoch, start=first)))
        training_step.update(training_step.gradient(step, engine(batch, epoch), phase), phase=phase)
    return method


def same(a: Method, b: Method) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_the_loop_takes_this_step_dropout_included(tmp_path: Path, toy_reader: ToyReader) -> None:
    looped = with_dropout()
    loader = Loader(toy_reader, batch_size=16, seed=0)
    train(
        looped, loader, small_engine("simclr"), CONFIG, OPTIMIZER, seed=0, checkpoints=Checkpoints(tmp_path)
    )
    torch.manual_seed(123)  # each step seeds what it drops
    assert same(looped, stepped(with_dropout(), toy_reader))


@pytest.mark.parametrize(
    ("changes", "gradient"),
    [
        ({}, ["forward", "backward"]),
        ({"accumulate": 2}, ["forward", "backward"] * 2),
        # Both parts without a graph, the loss of all, then both parts again.
        (
            {"accumulate": 2, "gradient_cache": True},
            ["forward", "forward", *["forward", "backward"] * 3],
        ),
    ],
    ids=["plain", "parts", "cache"],
)
def test_phases_come_in_order_and_timing_them_changes_nothing(
    toy_reader: ToyReader, changes: dict[str, Any], gradient: list[str]
) -> None:
    entered: list[str] = []
    inside: list[str] = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        assert not inside, "phases do not overlap"
        inside.append(name)
        entered.append(name)
        yield
        inside.pop()

    config = CONFIG.model_copy(update=changes)
    timed = stepped(with_dropout(), toy_reader, config, phase)
    assert entered == [*gradient, "optimiser", "optimiser"] * 4
    assert same(timed, stepped(with_dropout(), toy_reader, config))


def test_the_numbers_are_those_of_the_weights_before_the_update(toy_reader: ToyReader) -> None:
    method = small_method("simclr").train()
    before = {name: value.clone() for name, value in method.named_parameters()}
    training_step = TrainingStep(method, CONFIG, OPTIMIZER, steps_per_epoch=STEPS, seed=0)
    views = small_engine("simclr")(toy_reader.gather(range(16)), 0)
    gradient = training_step.gradient(0, views)
    assert all(torch.equal(before[name], value) for name, value in method.named_parameters())
    assert list(gradient.numbers) == ["loss", "gradient_norm", "positive_similarity"]
    assert gradient.numbers["gradient_norm"] is gradient.norm
    assert gradient.lr == training_step.optimizer.param_groups[0]["lr"]
    training_step.update(gradient)
    assert not all(torch.equal(before[name], value) for name, value in method.named_parameters())
