from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from sslpipe.core.threads import SPIN, ordered_map


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("sslpipe")}


def test_results_keep_their_order() -> None:
    def slow_when_even(number: int) -> int:
        time.sleep(0.002 * (number % 2 == 0))
        return number * number

    assert list(ordered_map(slow_when_even, range(50), threads=4, ahead=8)) == [n * n for n in range(50)]
    assert not ours()


def test_takes_no_more_than_it_may_ahead() -> None:
    taken = []

    def items() -> object:
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(str, items(), threads=2, ahead=3)
    assert next(results) == "0"
    assert len(taken) == 4
    results.close()
    assert not ours()


def test_an_error_comes_in_its_turn() -> None:
    results = ordered_map(lambda number: 6 // (3 - number), range(9), threads=3, ahead=9)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not ours()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, SPIN), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
    ids=["by default", "count given", "policy given"],
)
def test_a_stage_says_how_threads_wait_before_torch_is_loaded(given: dict[str, str], expected: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    code = "import os, sys, stages; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [expected, "False"]
