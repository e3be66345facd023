from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_runs import Page, evaluated, write
from scipy.stats import binom

from sslpipe.report.page import build
from sslpipe.report.results import rows, standard_error
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


def headline(project: Path, metrics: Mapping[str, Any], method: str, count: int) -> str:
    """The page's words for a run with these numbers."""
    for name, numbers in metrics.items():
        evaluated(project, name, numbers)
    write(project / "data/shards/manifest.json", {"splits": {"test": {"count": count}}})
    return Page(build(project, {"pretrain.method": method})).text


def test_headline_tells_the_probe_with_the_fewest_labels(project: Path) -> None:
    metrics = {
        "linear": linear(0.95, 0.9) | {"few_labels": {"100": linear(0.874, 0.452), "400": linear(0.9, 0.6)}},
        "knn": linear(0.9, 0.8),
    }
    said = headline(project, metrics, "SimCLR", 1000)
    assert "SimCLR pretraining lifts a linear probe with 100 labels from 45.2 % to 87.4 % ." in said


def test_headline_says_when_pretraining_hurts(project: Path) -> None:
    said = headline(project, {"knn": linear(0.5, 0.8)}, "MAE", 1000)
    assert "MAE pretraining lowers k-NN from 80.0 % to 50.0 %." in said


@pytest.mark.parametrize(("count", "claims"), [(100, False), (100_000, True)])
def test_headline_claims_no_more_than_the_test_set_can_show(project: Path, count: int, claims: bool) -> None:
    said = headline(project, {"knn": linear(0.82, 0.80)}, "MAE", count)
    assert ("pretraining lifts k-NN" in said) == claims
    assert ("no measurable difference to k-NN: 80.0 % before, 82.0 % after." in said) != claims


@pytest.mark.parametrize("numbers", [{"top1": 0.9}, {"skipped": "off"}])
def test_no_headline_without_a_baseline(project: Path, numbers: Mapping[str, Any]) -> None:
    assert "Nothing to report yet." in headline(project, {"knn": numbers}, "MAE", 100)


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
