from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ToyReader, small_engine, small_method

from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Step
from sslpipe.training.core import loop
from sslpipe.training.core.config import Config
from sslpipe.training.core.guards import Interrupted, NonFiniteError
from sslpipe.training.core.ledger import Ledger
from sslpipe.training.core.loop import train
from sslpipe.training.core.state import History

OPTIMIZER = OptimizerConfig(lr=3e-3, rule="absolute", warmup_epochs=0.5)
CONFIG = Config(epochs=4, batch_size=16, log_every=3, checkpoint_seconds=1e9)


def run(folder: Path, reader: ToyReader, name: str = "byol", **options: Any) -> tuple[Any, History]:
    method = options.pop("method", None) or small_method(name)
    history = train(
        method, Loader(reader, batch_size=16, seed=0), small_engine(name), options.pop("config", CONFIG), OPTIMIZER,
        seed=0, checkpoints=Checkpoints(folder), **options,
    )  # fmt: skip
    return method, history


def same(a: Any, b: Any) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


class StopAt:
    """A method's step that sends this process a signal at one step."""

    def __init__(self, method: Any, step: int, number: int) -> None:
        self.inner, self.at, self.number = method.step, step, number

    def __call__(self, views: Any, clock: Any) -> Step:
        if clock.step == self.at:
            os.kill(os.getpid(), self.number)
        return self.inner(views, clock)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, toy_reader: ToyReader) -> None:
    first, _ = run(tmp_path / "a", toy_reader)
    second, _ = run(tmp_path / "b", toy_reader)
    assert same(first, second)


@pytest.mark.parametrize("name", ["byol", "mae"])
@pytest.mark.parametrize(("step", "number"), [(0, signal.SIGTERM), (3, signal.SIGINT), (6, signal.SIGUSR1)])
def test_stopped_by_a_signal_it_ends_with_the_same_weights_and_curves(
    tmp_path: Path, toy_reader: ToyReader, name: str, step: int, number: signal.Signals
) -> None:
    whole, expected = run(tmp_path / "whole", toy_reader, name)
    method = small_method(name)
    method.step = StopAt(method, step, number)
    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "cut", toy_reader, name, method=method)
    assert caught.value.code == 128 + number
    resumed: list[int] = []
    again, history = run(
        tmp_path / "cut", toy_reader, name, method=small_method(name, seed=9), on_resume=resumed.append
    )
    assert resumed == [step + 1]  # in the middle of an epoch as well
    assert same(whole, again)
    assert [r["loss"] for r in history.rows] == [r["loss"] for r in expected.rows]


def test_killed_between_checkpoints_it_ends_with_the_same_weights(
    tmp_path: Path, toy_reader: ToyReader
) -> None:
    whole, _ = run(tmp_path / "whole", toy_reader)
    child = os.fork()
    if child == 0:  # dies without a chance to tidy up
        method = small_method("byol")
        method.step = StopAt(method, 5, signal.SIGKILL)
        run(
            tmp_path / "cut",
            toy_reader,
            method=method,
            config=CONFIG.model_copy(update={"checkpoint_seconds": 0.0}),
        )
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (Checkpoints(tmp_path / "cut").load() or (0,))[0] in (4, 5), "the last one may not be whole yet"
    again, _ = run(tmp_path / "cut", toy_reader, method=small_method("byol", seed=9))
    assert same(whole, again)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_number_stops_before_the_update(
    tmp_path: Path, toy_reader: ToyReader, where: str
) -> None:
    method = small_method("simclr")
    inner = method.step
    seen: dict[str, Any] = {}

    def spoilt(views: Any, clock: Any) -> Step:
        outcome = inner(views, clock)
        if clock.step != 3:
            return outcome
        seen["before"] = {name: value.clone() for name, value in method.state_dict().items()}
        if where == "loss":
            return replace(outcome, loss=outcome.loss * float("nan"))
        return replace(
            outcome, loss=(outcome.loss - outcome.loss.detach()) * 1e38 * 1e3
        )  # 0 with infinite gradients

    method.step = spoilt  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=rf"{where}.* at step 3 .*samples") as caught:
        run(tmp_path, toy_reader, "simclr", method=method)
    assert (tmp_path / "non_finite.json").is_file()
    assert "learning rate" in str(caught.value)
    parameters = dict(method.named_parameters())
    assert all(torch.equal(seen["before"][name], parameters[name]) for name in parameters)


def test_the_curves_have_means_over_each_interval_and_a_last_point(
    tmp_path: Path, toy_reader: ToyReader
) -> None:
    rows: list[dict[str, float]] = []
    losses: list[float] = []
    method = small_method("simclr")
    inner = method.step

    def noting(views: Any, clock: Any) -> Step:
        outcome = inner(views, clock)
        losses.append(outcome.loss.item())
        return outcome

    method.step = noting  # type: ignore[method-assign]
    _, history = run(tmp_path, toy_reader, "simclr", method=method, on_log=rows.append)
    assert [row["step"] for row in rows] == [3, 6, 8]
    assert rows == history.rows
    assert rows[1]["loss"] == pytest.approx(sum(losses[3:6]) / 3)
    assert rows[-1]["epoch"] == 4


def test_after_update_runs_once_a_step_and_before_update_sees_gradients(
    tmp_path: Path, toy_reader: ToyReader
) -> None:
    method = small_method("simclr")
    calls: list[str] = []

    def before(clock: Any) -> None:
        assert all(p.grad is not None for p in method.backbone.parameters())
        calls.append("before")

    method.before_update = before  # type: ignore[method-assign]
    method.after_update = lambda clock: calls.append("after")  # type: ignore[method-assign]
    run(tmp_path, toy_reader, "simclr", method=method)
    assert calls == ["before", "after"] * 8


def test_clipping_bounds_the_update(tmp_path: Path, toy_reader: ToyReader) -> None:
    method = small_method("simclr")
    start = {name: value.clone() for name, value in method.named_parameters()}
    plain = OptimizerConfig(
        name="sgd", lr=1.0, rule="absolute", momentum=0, weight_decay=0, warmup_epochs=0, clip=0.01
    )
    train(
        method, Loader(toy_reader, batch_size=16, seed=0), small_engine("simclr"),
        Config(epochs=1, batch_size=16), plain, seed=0, checkpoints=Checkpoints(tmp_path),
    )  # fmt: skip
    moved = torch.stack([(p - start[n]).norm() for n, p in method.named_parameters()]).norm()
    assert 0 < moved <= 0.01 * 2 + 1e-6


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host reads three steps late, as it does on a GPU."""
    monkeypatch.setattr(loop, "Ledger", partial(Ledger, lag=3))


def test_reading_late_changes_neither_weights_nor_curves(
    tmp_path: Path, toy_reader: ToyReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, expected = run(tmp_path / "a", toy_reader)
    monkeypatch.setattr(loop, "Ledger", partial(Ledger, lag=3))
    second, history = run(tmp_path / "b", toy_reader)
    assert same(first, second)
    assert history.rows == expected.rows


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_read_late_a_non_finite_step_has_updated_nothing(
    tmp_path: Path, toy_reader: ToyReader, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = small_method("simclr")
    inner = method.step
    seen: dict[str, Any] = {}

    def spoilt(views: Any, clock: Any) -> Step:
        outcome = inner(views, clock)
        seen["last"] = clock.step
        if clock.step != 2:
            return outcome
        seen["before"] = {name: value.clone() for name, value in method.named_parameters()}
        seen["samples"] = views[0].index.tolist()
        return replace(outcome, loss=outcome.loss * float("nan"))

    method.step = spoilt  # type: ignore[method-assign]
    monkeypatch.setattr(sys.modules[__name__], "OPTIMIZER", OPTIMIZER.model_copy(update={"name": optimizer}))
    with pytest.raises(NonFiniteError, match=r"loss.* at step 2 "):
        run(tmp_path, toy_reader, "simclr", method=method)
    assert seen["last"] == 5  # three steps went by before it was noticed
    assert json.loads((tmp_path / "non_finite.json").read_text())["samples"] == seen["samples"]
    assert all(torch.equal(seen["before"][name], value) for name, value in method.named_parameters())


@pytest.mark.usefixtures("late")
def test_read_late_a_signal_still_saves_what_is_done(tmp_path: Path, toy_reader: ToyReader) -> None:
    whole, expected = run(tmp_path / "whole", toy_reader)
    method = small_method("byol")
    method.step = StopAt(method, 1, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", toy_reader, method=method)
    assert (Checkpoints(tmp_path / "cut").load() or (0,))[0] == 5
    again, history = run(tmp_path / "cut", toy_reader, method=small_method("byol", seed=9))
    assert same(whole, again)
    assert history.rows == expected.rows
