from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from sslpipe.console.errors import UserError
from sslpipe.measures.config import Labels
from sslpipe.measures.subsets import count_of, draw, folds


def test_a_draw_is_stratified_distinct_and_seeded() -> None:
    labels = torch.arange(1000) % 10
    rows = draw(labels, 100, seed=0)
    assert labels[rows].bincount().tolist() == [10] * 10
    assert len(rows.unique()) == 100
    assert torch.equal(rows, draw(labels, 100, seed=0))
    assert not torch.equal(rows.sort().values, draw(labels, 100, seed=1).sort().values)


def test_rare_classes_are_drawn_whole_and_the_rest_filled_up() -> None:
    labels = torch.cat([torch.zeros(50), torch.ones(3), torch.full((50,), 2)]).long()
    assert labels[draw(labels, 30, seed=0)].bincount().tolist() in ([14, 3, 13], [13, 3, 14])


def test_all_labels_are_a_permutation() -> None:
    labels = torch.arange(20) % 3
    for count in (None, 20, 50):
        assert draw(labels, count, seed=0).sort().values.tolist() == list(range(20))


def test_every_class_is_spread_over_all_folds() -> None:
    labels = torch.arange(100) % 4
    fold = folds(labels, 5, seed=0)
    for label in range(4):
        assert fold[labels == label].bincount(minlength=5).tolist() == [5] * 5


@pytest.mark.parametrize(
    ("wanted", "count"), [(7, 7), ("10%", 4), ("1 %", 1), ("2.5%", 1), ("100%", 40), ("3 per class", 12)]
)
def test_labels_may_be_a_number_a_share_or_so_many_for_each_class(wanted: int | str, count: int) -> None:
    assert count_of(wanted, torch.arange(40) % 4) == count
    assert TypeAdapter(Labels).validate_python(wanted) == wanted


@pytest.mark.parametrize("wanted", ["ten", "0%", "101%", "-1%", "0 per class", "5 a class"])
def test_other_words_are_refused(wanted: str) -> None:
    with pytest.raises(UserError, match="share such as"):
        count_of(wanted, torch.arange(40))
    with pytest.raises(ValidationError):
        TypeAdapter(Labels).validate_python(wanted)
