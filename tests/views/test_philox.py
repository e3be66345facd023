from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sslpipe.views.philox import below, philox, uniform, words


# kat_vectors of Random123, the library of Philox's authors: philox4x32, 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter: list[int], key: tuple[int, int], expected: list[int]) -> None:
    assert philox(np.array(counter, dtype=np.uint64), key).tolist() == expected


def test_many_counters_at_once_are_each_alone() -> None:
    counters = np.random.default_rng(0).integers(0, 1 << 32, (50, 4), dtype=np.uint64)
    together = philox(counters, (1, 2))
    assert all(
        (philox(counter, (1, 2)) == row).all() for counter, row in zip(counters, together, strict=True)
    )


def draw(index: np.ndarray, **change: int) -> np.ndarray:
    return words(index, **({"seed": 5, "epoch": 2, "view": 1, "first": 0, "count": 3} | change))


def test_words_belong_to_their_name() -> None:
    index = np.array([4, 7, 9])
    base = draw(index)
    assert base.shape == (3, 12)
    assert (draw(index[::-1])[::-1] == base).all()
    assert (draw(index[1:2]) == base[1:2]).all()
    assert (draw(index, first=1, count=2) == base[:, 4:]).all()
    # Every part of the name matters, its high bits too.
    changes = [{"seed": 6}, {"seed": 5 + (1 << 32)}, {"epoch": 3}, {"view": 2}, {"view": 17}, {"first": 3}]
    others = [draw(index, **change) for change in changes] + [draw(index + 1), draw(index + (1 << 32))]
    assert len({other.tobytes() for other in [base, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    "change", [{"seed": -1}, {"seed": 1 << 64}, {"epoch": -1}, {"view": 1 << 12}, {"first": 1 << 20}]
)
def test_out_of_range(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        draw(np.arange(2), **change)


def test_numbers_are_uniform() -> None:
    word = draw(np.arange(5000))
    u = uniform(word)
    assert u.min() >= 0
    assert u.max() < 1
    for column in range(word.shape[1]):
        assert stats.kstest(u[:, column], "uniform").pvalue > 1e-3
    # Neighbouring words, and neighbouring samples, have nothing to do with one another.
    assert np.abs(np.corrcoef(u.T) - np.eye(12)).max() < 0.06
    assert abs(np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1]) < 0.06


def test_below() -> None:
    word = draw(np.arange(6000)).ravel()
    drawn = below(word, 24)
    assert stats.chisquare(np.bincount(drawn, minlength=24)).pvalue > 1e-3
    assert below(np.array([0, 0xFFFFFFFF], dtype=np.uint64), 7).tolist() == [0, 6]
    assert below(np.array([0xFFFFFFFF] * 2, dtype=np.uint64), np.array([1, 1 << 32])).tolist() == [
        0,
        0xFFFFFFFF,
    ]
