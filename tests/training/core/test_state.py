"""Where a run stands is what its checkpoints hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method

from sslpipe.core.checkpoint import Checkpoints
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.training.core.config import Config
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.state import RunState
from sslpipe.training.core.step import TrainingStep

OPTIMIZER = OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0)


def state_of(folder: Path, points: list[dict[str, float]], seed: int = 0, **changes: float) -> RunState:
    config = Config(epochs=2, batch_size=16, log_every=2).model_copy(update=changes)
    method = small_method("simclr", seed=seed).train()
    training_step = TrainingStep(method, config, OPTIMIZER, steps_per_epoch=2, seed=0)
    return RunState(
        training_step, Ledger(torch.device("cpu"), folder, lag=9), Checkpoints(folder), points.append
    )


def advance(state: RunState, reader: ToyReader, steps: int) -> None:
    """Take steps that the host does not read."""
    views = small_engine("simclr")(reader.gather(range(16)), 0)
    for _ in range(steps):
        gradient = state.training_step.gradient(state.step, views)
        state.ledger.note(state.step + 1, gradient.lr, gradient.numbers, torch.arange(16))
        state.training_step.update(gradient, state.ledger.mask)
        state.step += 1


def test_a_checkpoint_holds_steps_that_had_not_been_read_and_is_gone_on_from(
    tmp_path: Path, toy_reader: ToyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    points: list[dict[str, float]] = []
    state = state_of(tmp_path, points)
    assert not state.resume()
    assert state.history.caption == ""
    advance(state, toy_reader, 3)
    assert state.log(state.ledger.settled()) is None
    state.save(wait=True)
    assert [point["step"] for point in points] == [2]
    assert len(state.history.pending) == 1

    again = state_of(tmp_path, [], seed=1)
    assert again.resume()
    assert "continuing from the checkpoint at step 3\n" in capsys.readouterr().out
    assert again.step == 3
    assert again.history == state.history
    assert again.history.caption == f"loss {points[0]['loss']:.4f}"
    for one in (state, again):
        advance(one, toy_reader, 1)
    pairs = zip(
        state.training_step.method.state_dict().values(),
        again.training_step.method.state_dict().values(),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_last_step_closes_the_curves(tmp_path: Path, toy_reader: ToyReader) -> None:
    points: list[dict[str, float]] = []
    state = state_of(tmp_path, points, log_every=3)
    advance(state, toy_reader, 4)
    row = state.log(state.ledger.drain())
    assert row is not None
    assert row.step == 4
    assert [(point["step"], point["epoch"]) for point in points] == [(3, 1.5), (4, 2.0)]


@pytest.mark.parametrize(("seconds", "due"), [(0.0, True), (1e9, False)])
def test_a_checkpoint_is_due_when_the_last_is_old_enough(tmp_path: Path, seconds: float, due: bool) -> None:
    assert state_of(tmp_path, [], checkpoint_seconds=seconds).is_due is due


def test_checkpoints_take_at_most_a_fiftieth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("sslpipe.core.checkpoint.time.monotonic", lambda: now[0])
    state = state_of(tmp_path, [], checkpoint_seconds=20)

    def slowly(step: int, content: dict[str, Any]) -> None:
        now[0] += 10

    monkeypatch.setattr(state.checkpoints, "save", slowly)
    now[0] = 20
    assert state.is_due
    state.save(wait=True)  # ends at 30
    now[0] = 30 + 489
    assert not state.is_due, "ten seconds want 490 of training, from their end"
    now[0] = 30 + 490
    assert state.is_due


def test_only_the_first_process_asks_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(tmp_path, [], checkpoint_seconds=0)
    monkeypatch.setattr("sslpipe.core.distributed.rank", lambda: 1)
    assert not state.is_due
