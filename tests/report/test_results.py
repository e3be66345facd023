from __future__ import annotations

import pytest
from scipy.stats import binom

from sslpipe.report.results import headline, rows, standard_error
from sslpipe.report.words import integer, is_number, percent, points

NARROW = "\u202f"


def linear(encoder: float, random: float, pixels: float | None = None) -> dict[str, float]:
    scores = {"top1": encoder, "random_init_top1": random}
    return scores if pixels is None else scores | {"raw_pixel_top1": pixels}


def test_what_is_off_by_default_is_not_spoken_of_when_skipped() -> None:
    skipped = {"skipped": "attentive.enabled is false in params.yaml"}
    assert rows({"attentive": skipped}) == []
    assert [row.title for row in rows({"attentive": {"top1": 0.5}, "finetune": skipped})] == [
        "Attentive probe",
        "Fine-tuning",
    ]


def test_rows_in_order_with_fewer_labels_last() -> None:
    metrics = {
        "finetune": {"top1": 0.9, "random_init_top1": 0.7, "labels": 100},
        "linear": linear(0.95, 0.8, 0.9) | {"few_labels": {"100": linear(0.8, 0.4), "400": linear(0.9, 0.6)}},
        "knn": {"skipped": "no labels"},
    }
    found = rows(metrics)
    assert [(row.stage, row.labels) for row in found] == [
        ("knn", None), ("linear", None), ("linear", 400), ("linear", 100), ("finetune", 100),
    ]  # fmt: skip
    assert found[0].skipped == "no labels"
    assert found[3].gain == pytest.approx(0.4)
    assert found[4].top1 == {"encoder": 0.9, "random_init": 0.7}


def test_rows_without_numbers_are_left_out() -> None:
    assert rows({}) == []
    assert (
        rows({"knn": {"protocol": {}}, "linear": {"top1": float("nan")}, "finetune": {"top1": "high"}}) == []
    )


def test_finetuning_on_all_labels() -> None:
    row = rows({"finetune": linear(0.9, 0.8) | {"labels": 4000, "protocol": {"labels": "all"}}})[0]
    assert row.condition == "all labels"


def test_headline_tells_the_probe_with_the_fewest_labels() -> None:
    metrics = {
        "linear": linear(0.95, 0.9) | {"few_labels": {"100": linear(0.874, 0.452), "400": linear(0.9, 0.6)}},
        "knn": linear(0.9, 0.8),
    }
    said = headline(rows(metrics), "SimCLR", 1000)
    assert (
        said
        == f"SimCLR pretraining lifts a linear probe with 100 labels from 45.2{NARROW}% to 87.4{NARROW}%."
    )


def test_headline_says_when_pretraining_hurts() -> None:
    said = headline(rows({"knn": linear(0.5, 0.8)}), "MAE", 1000)
    assert said == f"MAE pretraining lowers k-NN from 80.0{NARROW}% to 50.0{NARROW}%."


@pytest.mark.parametrize(("count", "claims"), [(100, False), (100_000, True)])
def test_headline_claims_no_more_than_the_test_set_can_show(count: int, claims: bool) -> None:
    said = headline(rows({"knn": linear(0.82, 0.80)}), "MAE", count)
    assert said is not None
    assert ("lifts" in said) == claims
    assert ("no measurable difference" in said) != claims


def test_no_headline_without_a_baseline() -> None:
    assert headline(rows({"knn": {"top1": 0.9}}), "MAE", 100) is None
    assert headline(rows({"knn": {"skipped": "off"}}), "MAE", 100) is None


@pytest.mark.parametrize("count", [10, 1000])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_standard_error_is_the_binomial_one(count: int, fraction: float) -> None:
    assert standard_error(fraction, count) == pytest.approx(binom.std(count, fraction) / count)


def test_numbers_as_text() -> None:
    assert percent(0.12345) == f"12.3{NARROW}%"
    assert points(0.0213) == "+2.1"
    assert points(-0.0213) == "\u22122.1"
    assert points(-0.0001) == "0.0"
    assert integer(1234567) == f"1{NARROW}234{NARROW}567"


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf")])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)
