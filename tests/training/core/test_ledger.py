from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sslpipe.training.core.guards import NonFiniteError
from sslpipe.training.core.ledger import Ledger

CPU = torch.device("cpu")


def note(ledger: Ledger, step: int, loss: float = 1.0, norm: float = 2.0, **wishes: bool) -> None:
    index = torch.arange(10 * step, 10 * step + 10)
    numbers = {"loss": torch.tensor(loss), "gradient_norm": torch.tensor(norm), "accuracy": 0.1 * step}
    ledger.note(step, 0.5 * step, numbers, index, **wishes)


def test_without_lag_a_step_is_read_at_once(tmp_path: Path) -> None:
    ledger = Ledger(CPU, tmp_path)
    note(ledger, 1, loss=3.25, save=True)
    (row,) = ledger.settled()
    assert (row.step, row.lr, row.stop, row.save) == (1, 0.5, False, True)
    assert row.numbers == {"loss": 3.25, "gradient_norm": 2.0, "accuracy": 0.1}
    assert list(ledger.settled()) == list(ledger.drain()) == []


def test_with_lag_steps_are_read_in_order_so_much_later(tmp_path: Path) -> None:
    ledger, read = Ledger(CPU, tmp_path, lag=3), []
    for step in range(1, 8):
        note(ledger, step, loss=float(step), stop=step == 2)
        read.append([(row.step, row.numbers["loss"], row.stop) for row in ledger.settled()])
    assert read == [[], [], [], [(1, 1.0, False)], [(2, 2.0, True)], [(3, 3.0, False)], [(4, 4.0, False)]]
    assert [row.step for row in ledger.drain()] == [5, 6, 7]


@pytest.mark.parametrize("bad", ["loss", "norm"])
def test_a_bad_step_is_marked_at_once_and_found_late_with_its_own_samples(tmp_path: Path, bad: str) -> None:
    ledger = Ledger(CPU, tmp_path, lag=2)
    marks = []
    for step in range(1, 5):
        note(ledger, step, **({bad: float("inf")} if step == 2 else {}))
        marks.append(float(ledger.bad))
        if step < 4:
            list(ledger.settled())
    assert marks == [0, 1, 1, 1]  # for good: later steps must not train on
    name = {"loss": "loss", "norm": "gradient norm"}[bad]
    with pytest.raises(NonFiniteError, match=rf"the {name} is not finite at step 1 \(samples 20, 21"):
        list(ledger.settled())
    written = json.loads((tmp_path / "non_finite.json").read_text())
    assert written["step"] == 1
    assert written["samples"] == list(range(20, 30))


def test_what_is_saved_has_been_read_before(tmp_path: Path) -> None:
    ledger = Ledger(CPU, tmp_path, lag=4)
    note(ledger, 1, loss=float("nan"))
    assert list(ledger.settled()) == []
    with pytest.raises(NonFiniteError):
        list(ledger.drain())


def test_a_number_that_may_be_infinite_does_not_stop_the_run(tmp_path: Path) -> None:
    ledger = Ledger(CPU, tmp_path)
    ledger.note(1, 0.1, {"loss": 1.0, "gradient_norm": 1.0, "ratio": float("inf")}, torch.arange(2))
    assert not ledger.bad
