from __future__ import annotations

import math

from sslpipe.evals.base.outcome import headline, numbers

METRICS = {
    "top1": 0.9,
    "random_init_top1": 0.5,
    "raw_pixel_top1": 0.4,
    "top1_std": 0.01,
    "top5": 1.0,
    "labels": 100,
    "few_labels": {
        "100": {"top1": 0.6, "random_init_top1": 0.3, "top1_std": 0.02},
        "10": {"top1": 0.4, "deeper": {"top1": 0.1}},
    },
    "random_init_corruptions": {"jpeg": {"3": 0.2}},
    "corruptions": {"jpeg": {"3": 0.7}, "fog": {"3": 0.6}},
    "iou": [0.1, None],
    "converged": True,
    "skipped": "there are no labels",
    "nothing": {},
    "none": None,
    "empty": math.nan,
}


def test_numbers_are_the_finite_ones_by_dotted_name() -> None:
    found = numbers(METRICS)
    assert found["few_labels.100.random_init_top1"] == 0.3
    assert found["labels"] == 100
    left_out = {"iou", "converged", "skipped", "nothing", "none", "empty"}
    assert not left_out & set(found)
    assert len(found) == 6 + 5 + 3


def test_a_name_counts_for_itself_and_for_nothing_deeper() -> None:
    assert headline(METRICS, ("top1",)) == {"top1": 0.9}
    assert headline(METRICS, ("top1", "random_init_top1")) == {"top1": 0.9, "random_init_top1": 0.5}


def test_a_star_stands_for_one_part() -> None:
    assert headline(METRICS, ("few_labels.*.top1",)) == {
        "few_labels": {"100": {"top1": 0.6}, "10": {"top1": 0.4}}
    }
    assert headline(METRICS, ("*.jpeg.*",)) == {
        "corruptions": {"jpeg": {"3": 0.7}},
        "random_init_corruptions": {"jpeg": {"3": 0.2}},
    }


def test_what_is_not_there_is_not_in_the_headline() -> None:
    assert headline(METRICS, ("map", "empty", "iou", "nothing")) == {}
