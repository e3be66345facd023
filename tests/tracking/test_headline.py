from __future__ import annotations

import json

import pytest

from sslpipe.tracking.headline import flat, headline, results_table


def test_headline_takes_the_numbers_and_not_the_protocol(tmp_path):
    content = {
        "top1": 0.5,
        "few_labels": {"100": {"top1": 0.25}},
        "protocol": {"k": 5},
        "done": True,
        "why": "x",
    }
    (tmp_path / "linear.json").write_text(json.dumps(content)[:-1] + ', "bad": NaN}')
    assert headline("linear", None, tmp_path) == {
        "linear.top1": 0.5,
        "linear.few_labels.100.top1": 0.25,
    }
    assert headline("missing", None, tmp_path) == {}


@pytest.mark.parametrize("content", [{"top1": 0.5}, {"knn": {"top1": 0.5}}])
def test_headline_says_the_stage_once(tmp_path, content):
    (tmp_path / "knn.json").write_text(json.dumps(content))
    assert headline("knn", None, tmp_path) == {"knn.top1": 0.5}


def test_headline_keeps_a_part_that_is_called_as_its_stage(tmp_path):
    (tmp_path / "knn.json").write_text('{"knn": {"top1": 0.5}, "map": 0.25}')
    assert headline("knn", None, tmp_path) == {"knn.knn.top1": 0.5, "knn.map": 0.25}


def test_headline_prefers_the_numbers_of_the_record(tmp_path):
    (tmp_path / "knn.json").write_text('{"knn": {"top1": 0.5}}')
    result = {"metrics": {"top1": 0.5, "by_k": {"5": {"top1": 0.25}}, "low": "nan"}, "protocol": {"k": 5}}
    assert headline("knn", result, tmp_path) == {"knn.top1": 0.5, "knn.by_k.5.top1": 0.25}
    assert headline("knn", {"metrics": {}, "skipped": "no labels"}, tmp_path) == {}


def test_flat_numbers_are_finite_and_no_truth_values():
    assert flat({"a": {"b": 1, "c": True, "d": float("inf"), "e": [1.0]}, "f": 2.5}) == {"a.b": 1.0, "f": 2.5}


def test_results_table_puts_baselines_beside_the_encoder():
    numbers = {
        "knn.top1": 0.9,
        "knn.random_init_top1": 0.5,
        "linear.few_labels.100.top1": 0.8,
        "pretrain.loss": 1.0,
    }
    table = results_table(numbers)
    assert "| knn | 0.9000 | 0.5000 | – |" in table
    assert "| linear, labels: 100 | 0.8000 | – | – |" in table
    assert "loss" not in table
    assert results_table({"pretrain.loss": 1.0}) == ""
