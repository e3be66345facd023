from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from sslpipe.console.errors import UserError
from sslpipe.core.checkpoint import Checkpoints, Saves, from_bytes, to_bytes

STATE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)},
    "optimizer": {"state": {0: {"step": torch.tensor(4.0)}, 1: {}}, "betas": (0.9, 0.999)},
    "rows": [{"loss": 0.1 + 0.2}, None, True, "words", []],
}


def test_state_survives_as_it_is() -> None:
    again = from_bytes(to_bytes(STATE))
    assert torch.equal(again["weights"]["a"], STATE["weights"]["a"])  # type: ignore[index]
    assert again["optimizer"]["state"][0]["step"].item() == 4.0  # number keys stay numbers
    assert again["optimizer"]["betas"] == (0.9, 0.999)
    assert again["rows"] == STATE["rows"]
    assert list(again) == list(STATE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_every_dtype_and_layout_survives(dtype: torch.dtype) -> None:
    tensor = torch.randn(2, 4, 3, 3).to(dtype).to(memory_format=torch.channels_last)
    assert torch.equal(from_bytes(to_bytes({"t": tensor}))["t"], tensor)


def test_tensors_that_share_memory_survive() -> None:
    whole = torch.arange(4.0)
    again = from_bytes(to_bytes({"whole": whole, "half": whole[:2], "same": whole}))
    assert again["half"].tolist() == [0, 1]
    assert torch.equal(again["same"], whole)


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="plain values"):
        to_bytes({"x": object()})


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.load() is None
    for step in (5, 10, 15):
        checkpoints.save(step, {"step": step})
    assert checkpoints.load() == (15, {"step": 15})
    assert len(os.listdir(tmp_path / "run")) == 2
    checkpoints.clear()
    assert checkpoints.load() is None


def test_a_checkpoint_cut_at_any_length_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.zeros(3)})
    checkpoints.save(2, {"x": torch.ones(3)})
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    for length in range(len(content)):
        newest.write_bytes(content[:length])
        step, state = checkpoints.load() or (0, {})
        assert step == 1
        assert torch.equal(state["x"], torch.zeros(3))
    assert "damaged" in capsys.readouterr().err
    newest.write_bytes(content)
    assert (checkpoints.load() or (0,))[0] == 2


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.zeros(3)})
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert checkpoints.load() is None


def test_a_full_disk_keeps_the_old_checkpoint_and_says_what_was_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": 1})

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=r"MiB.*disk is full"):
            checkpoints.save(2, {"x": 2})
    assert checkpoints.load() == (1, {"x": 1})
    assert len(os.listdir(tmp_path)) == 1


def test_a_thread_writes_what_the_state_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, weights, rows, written = Checkpoints(tmp_path), torch.zeros(3), [1], threading.Event()
    real = checkpoints.save

    def later(step: int, state: dict[str, object]) -> None:
        assert written.wait(30)
        real(step, state)

    monkeypatch.setattr(checkpoints, "save", later)
    with Saves(checkpoints) as saves:
        saves.start(7, {"weights": weights, "rows": rows})
        assert saves.since == 0.0, "one is being written"
        weights += 1  # training goes on
        rows.append(2)
        written.set()
    found = checkpoints.load()
    assert found is not None
    assert found[0] == 7
    assert found[1]["weights"].tolist() == [0, 0, 0]
    assert found[1]["rows"] == [1]
    assert saves.seconds > 0


@pytest.mark.parametrize("when", ["the next one", "a look at the time", "the end"])
def test_what_a_thread_cannot_write_is_raised(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)

    def full(*arguments: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(checkpoints, "save", full)

    def go_on() -> None:
        with Saves(checkpoints) as saves:
            saves.start(1, {})
            if when == "the next one":
                saves.start(2, {})
                raise AssertionError("it is too late")
            while when == "a look at the time":
                assert saves.since == 0.0

    with pytest.raises(UserError, match="disk is full"):
        go_on()


def test_an_error_of_training_is_not_hidden_by_one_of_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)

    def full(*arguments: object) -> None:
        raise UserError("the disk is full")

    def go_on() -> None:
        with Saves(checkpoints) as saves:
            saves.start(1, {})
            raise KeyError("training")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(KeyError):
        go_on()
