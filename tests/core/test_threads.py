from __future__ import annotations

import threading
import time

import pytest

from sslpipe.core.threads import ordered_map


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
