"""The monitor's looks between epochs: what they see, that nothing notices them, and that they stop a collapsed run."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import SIZE, ToyReader, small_engine, small_method

from sslpipe import methods
from sslpipe.core.checkpoint import Checkpoints
from sslpipe.data.loader import Loader
from sslpipe.evals import knn
from sslpipe.measures.geometry import effective_rank, spread
from sslpipe.methods.base.config import OptimizerConfig
from sslpipe.methods.base.method import Clock, Method, Step
from sslpipe.training.core import monitor as monitoring
from sslpipe.training.core.config import Config
from sslpipe.training.core.guards import Interrupted
from sslpipe.training.core.loop import train
from sslpipe.training.core.monitor import SAMPLE, CollapseError, Monitor, judged, sample
from sslpipe.training.core.state import History
from sslpipe.views.preprocess import Preprocess
from sslpipe.views.recipe import IMAGENET_MEAN, IMAGENET_STD

PREPROCESS = Preprocess(size=SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
OPTIMIZER = OptimizerConfig(lr=1e-2, rule="absolute", warmup_epochs=0.5)
STILL = OptimizerConfig(lr=1e-20, rule="absolute", weight_decay=0.0)  # the weights stay what they are


def config(**changes: Any) -> Config:
    return Config(epochs=4, batch_size=16, log_every=3, checkpoint_seconds=1e9).model_copy(update=changes)


def run(
    folder: Path,
    reader: ToyReader,
    name: str,
    settings: Config,
    method: Method | None = None,
    optimizer: OptimizerConfig = OPTIMIZER,
    **options: Any,
) -> tuple[Method, History]:
    method = method or small_method(name)
    monitor = Monitor(
        method, reader, PREPROCESS, settings, seed=0, on_log=options.pop("on_log", lambda row: None)
    )
    history = train(
        method, Loader(reader, batch_size=16, seed=0), small_engine(name), settings, optimizer,
        seed=0, checkpoints=Checkpoints(folder), on_epoch=monitor.on_epoch, **options,
    )  # fmt: skip
    return method, history


def collapsing(epoch: int) -> Method:
    """A method of which all projections become equal at the end of an epoch."""
    method: Any = small_method("simclr", projector_norm=None)

    def after_update(clock: Clock) -> None:
        if clock.epoch == epoch:
            with torch.no_grad():
                method.projector[-1].weight.zero_()
                method.projector[-1].bias.fill_(1.0)

    method.after_update = after_update
    return method  # type: ignore[no-any-return]


@pytest.fixture(params=methods.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def state(method: Method) -> dict[str, Any]:
    modes = {name: module.training for name, module in method.named_modules()}
    wanted = {key: parameter.requires_grad for key, parameter in method.named_parameters()}
    kept = {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in method.state_dict().items()
    }
    return {"modes": modes, "wanted": wanted, "random": torch.get_rng_state(), **kept}


def test_a_look_changes_nothing(name: str, toy_reader: ToyReader) -> None:
    method = small_method(name).train()
    method.backbone.eval()  # not what `train()` would restore
    before = state(method)
    row = Monitor(method, toy_reader, PREPROCESS, config(), seed=0).look()
    after = state(method)
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key], key
    assert all(parameter.grad is None for parameter in method.parameters())
    assert all(math.isfinite(value) for value in row.values())
    assert {"knn_top1", "rankme", "feature_std"} <= row.keys()


def test_what_a_method_draws_in_a_look_is_not_noticed(toy_reader: ToyReader) -> None:
    method = small_method("simclr")
    method.monitor = lambda batches: {"luck": torch.rand(())}  # type: ignore[method-assign]
    before = torch.get_rng_state()
    Monitor(method, toy_reader, PREPROCESS, config(), seed=0).look()
    assert torch.equal(before, torch.get_rng_state())


def test_a_look_is_in_full_precision_under_autocast(toy_reader: ToyReader) -> None:
    monitor = Monitor(small_method("byol"), toy_reader, PREPROCESS, config(), seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = monitor.look()
    assert found == monitor.look()


def test_it_sees_the_encoders_features_of_a_sample(toy_reader: ToyReader) -> None:
    method = small_method("byol").train()
    with torch.no_grad():  # the target is no longer equal
        for parameter in method.target.parameters():  # type: ignore[union-attr, operator]
            parameter.mul_(1.5).add_(0.1)
    monitor = Monitor(method, toy_reader, PREPROCESS, config(), seed=0)
    row = monitor.look()
    with torch.no_grad():
        method.eval()
        x = PREPROCESS.view(toy_reader.gather(monitor.indices))
        h = method.encoder(x)
        z, z_prime = method.projector(h), method.target(x)  # type: ignore[operator]
    assert row["rankme"] == pytest.approx(effective_rank(h).item(), rel=1e-4)
    assert row["feature_std"] == pytest.approx(spread(h).item(), rel=1e-4)
    assert row["projection_std"] == pytest.approx(spread(z).item(), rel=1e-4)
    assert row["teacher_gap"] > 0.01
    assert row["teacher_gap"] == pytest.approx(1 - F.cosine_similarity(z, z_prime).mean().item(), abs=1e-6)


def test_the_sample_is_drawn_once_by_the_seed() -> None:
    few, many = sample(50, 0), sample(5000, 0)
    assert few.tolist() == list(range(50))
    assert len(many) == SAMPLE == len(many.unique())
    assert many.max() > 4000  # all over the split
    assert torch.equal(many, sample(5000, 0))
    assert not torch.equal(many, sample(5000, 1))


def test_one_half_is_told_by_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3  # neighbours in the split are of other classes
    features = F.one_hot(labels, 3).float() + 0.6 * torch.randn(60, 3, generator=generator)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    bank, queries = order[:30], order[30:]
    expected = knn(features[bank], labels[bank], features[queries], labels[queries], k=20, temperature=0.07)
    assert judged(features, labels)["knn_top1"] == expected["top1"]
    assert 0.5 < expected["top1"] < 1


def test_images_without_labels_are_left_out_of_the_k_nn() -> None:
    features, labels = torch.eye(4).repeat(5, 1), torch.arange(4).repeat(5)
    assert judged(features, labels)["knn_top1"] == 1
    labels[8:] = 9  # wrong, but not known
    assert (
        judged(features, labels.where(labels < 9, -1))["knn_top1"]
        == judged(features[:8], labels[:8])["knn_top1"]
    )
    assert "knn_top1" not in judged(features, torch.full((20,), -1))
    assert "knn_top1" not in judged(features, torch.arange(20).where(torch.arange(20) == 0, -1))


def test_features_that_are_not_finite_are_nan() -> None:
    row = judged(torch.full((8, 4), torch.inf), torch.zeros(8, dtype=torch.int64))
    assert math.isnan(row["rankme"])
    assert math.isnan(row["feature_std"])


@pytest.mark.parametrize("name", ["byol", "swav"])
def test_monitored_or_not_the_weights_are_the_same(name: str, tmp_path: Path, toy_reader: ToyReader) -> None:
    watched, history = run(tmp_path / "a", toy_reader, name, config(monitor_epochs=1))
    alone, unwatched = run(tmp_path / "b", toy_reader, name, config(monitor_epochs=0))
    assert [row["epoch"] for row in history.looks] == [0, 1, 2, 3, 4]
    assert unwatched.looks == []
    for key, value in watched.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(alone.state_dict()[key])), key
    assert history.rows == unwatched.rows


def test_it_looks_as_often_as_asked_and_at_the_end(tmp_path: Path, toy_reader: ToyReader) -> None:
    rows: list[dict[str, float]] = []
    _, history = run(tmp_path, toy_reader, "simclr", config(monitor_epochs=3), on_log=rows.append)
    assert [(row["epoch"], row["step"]) for row in history.looks] == [(0, 0), (3, 6), (4, 8)]
    assert rows == history.looks


class StopAt:
    """A method's step that stops this process's training at one step, as a signal does."""

    def __init__(self, method: Any, step: int) -> None:
        self.inner, self.at = method.step, step

    def __call__(self, views: Any, clock: Any) -> Step:
        if clock.step == self.at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return self.inner(views, clock)


@pytest.mark.parametrize("step", [2, 3])  # within the second epoch, and as its last one
def test_stopped_and_continued_it_has_seen_the_same(step: int, tmp_path: Path, toy_reader: ToyReader) -> None:
    settings = config(monitor_epochs=2)
    _, whole = run(tmp_path / "whole", toy_reader, "byol", settings)
    method = small_method("byol")
    method.step = StopAt(method, step)  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", toy_reader, "byol", settings, method=method)
    _, continued = run(tmp_path / "cut", toy_reader, "byol", settings, method=small_method("byol", seed=9))
    assert continued.looks == whole.looks
    assert continued.rows == whole.rows


def test_a_collapsed_run_is_named_and_a_healthy_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, settings = ToyReader(64), config(monitor_epochs=3, epochs=6)
    run(tmp_path / "a", reader, "simclr", settings, optimizer=STILL)
    assert "collapse" not in capsys.readouterr().out
    run(tmp_path / "b", reader, "simclr", settings, method=collapsing(4), optimizer=STILL)
    said = [line for line in capsys.readouterr().out.splitlines() if "collapse" in line]
    assert len(said) == 1
    assert said[0].startswith("pretrain: collapse at epoch 6, all projections point the same way")
    assert "temperature" in said[0]


def test_where_asked_it_stops_a_collapsed_run_with_a_checkpoint(tmp_path: Path) -> None:
    reader, settings = ToyReader(64), config(monitor_epochs=6, epochs=9, stop_on_collapse=True)
    with pytest.raises(
        CollapseError, match=r"stopped at epoch 6, all projections .*stop_on_collapse to false"
    ):
        run(tmp_path, reader, "simclr", settings, method=collapsing(4), optimizer=STILL)
    step, saved = Checkpoints(tmp_path).load() or (0, {})
    assert step == 24
    assert [row["epoch"] for row in saved["history"]["looks"]] == [0, 6]
    steps: list[int] = []
    with pytest.raises(CollapseError, match="epoch 6"):  # and does not go on when it is run again
        run(tmp_path, reader, "simclr", settings, method=counting(collapsing(4), steps), optimizer=STILL)
    assert steps == []
    again = settings.model_copy(update={"stop_on_collapse": False})
    method = counting(collapsing(4), steps)
    _, history = run(tmp_path, reader, "simclr", again, method=method, optimizer=STILL)
    assert steps == list(range(24, 36))
    assert [row["epoch"] for row in history.looks] == [0, 6, 9]


def counting(method: Method, steps: list[int]) -> Method:
    inner: Callable[..., Step] = method.step

    def step(views: Any, clock: Any) -> Step:
        steps.append(clock.step)
        return inner(views, clock)

    method.step = step  # type: ignore[method-assign]
    return method


def test_the_last_look_is_what_the_metrics_hold(toy_reader: ToyReader) -> None:
    monitor = Monitor(small_method("simclr"), toy_reader, PREPROCESS, config(), seed=0)
    random = {"step": 0, "epoch": 0, "rankme": 9.0, "feature_std": 0.3, "projection_std": 0.2}
    assert monitor.last([]) == {}
    assert monitor.last([random]) == {
        "rankme": 9.0,
        "feature_std": 0.3,
        "projection_std": 0.2,
        "collapsed": 0.0,
    }
    collapsed = random | {"epoch": 4, "projection_std": 0.01}
    assert monitor.last([random, collapsed])["collapsed"] == 1.0
    lost = {"step": 8, "epoch": 4, "rankme": math.nan, "feature_std": math.nan}
    assert monitor.last([random, lost]) == {"collapsed": 1.0}


def test_of_several_processes_the_first_one_looks_and_all_stop(
    tmp_path: Path, toy_reader: ToyReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = Monitor(small_method("simclr"), toy_reader, PREPROCESS, config(stop_on_collapse=True), seed=0)
    monkeypatch.setattr(monitoring, "rank", lambda: 1)
    monkeypatch.setattr(monitoring, "mean", lambda flag: (flag + 0.0) / 2)  # the first one saw nothing
    saved: list[bool] = []
    state: Any = SimpleNamespace(
        training_step=SimpleNamespace(trained=monitor.method), step=0, history=History(),
        save=lambda: saved.append(True),
    )  # fmt: skip
    monitor.on_epoch(state, 0)
    assert state.history.looks == saved == []
    monkeypatch.setattr(monitoring, "mean", lambda flag: (flag + 1.0) / 2)  # the first one saw a collapse
    with pytest.raises(CollapseError):
        monitor.on_epoch(state, 0)
    assert saved == [True]
