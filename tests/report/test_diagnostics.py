"""The sections on diagnostics and robustness."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import PARAMS, evaluated, write, write_csv

from sslpipe.report import plots
from sslpipe.report.page import build

DIAGNOSTICS = {
    "rankme": 57.31, "random_init_rankme": 12.0, "raw_pixel_rankme": 101.25, "lidar": 33.02, "random_init_lidar": 8.5,
    "alpha_req": 1.12, "uniformity": -2.5, "nn_purity": 0.913, "dead_dimensions": 3, "dimensions": 128,
    "protocol": {"k": 20},
}  # fmt: skip
ROBUSTNESS = {
    "top1": 0.9, "random_init_top1": 0.6, "mean_corrupted_top1": 0.75, "random_init_mean_corrupted_top1": 0.41,
    "invariance": {"hflip": 0.95, "blur": 0.2, "hue": None}, "random_init_invariance": {"hflip": 0.5, "blur": -0.1},
    "corruptions": {"shot_noise": {"1": 0.85, "5": 0.6}},
    "random_init_corruptions": {"shot_noise": {"1": 0.5, "5": 0.3}},
    "in_recipe": ["hflip"], "without_effect": ["grey"],
}  # fmt: skip


def page(directory: Path) -> str:
    return build(directory, PARAMS).read_text(encoding="utf-8")


def part(text: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', text, re.S)
    return found[0] if found else ""


def test_the_numbers_stand_beside_their_baselines(finished: Path) -> None:
    assert part(page(finished), "diagnostics") == ""
    evaluated(finished, "diagnostics", DIAGNOSTICS)
    rows = [
        ["1", "encoder", "0.5"],
        ["2", "encoder", "0.05"],
        ["1", "random_init", "0.9"],
        ["2", "random_init", "0"],
    ]
    write_csv(finished / "plots/diagnostics/eigenspectrum.csv", ["rank", "series", "share"], rows)
    text = part(page(finished), "diagnostics")
    for words in (
        "<td>57.3</td><td>12.0</td><td>101.2</td>",
        "<td>91.3\u202f%</td>",
        "\u22122.50",
        "<td>3</td>",
        "1.12",
    ):
        assert words in text
    assert "Alignment" not in text
    assert text.count("<svg") == 2  # one for a desktop, one for a phone
    assert "Raw pixels" not in text.split("<h3>")[1]


def test_a_spectrum_that_cannot_be_read_is_named_and_the_numbers_are_shown(finished: Path) -> None:
    evaluated(finished, "diagnostics", DIAGNOSTICS)
    write(finished / "plots/diagnostics/eigenspectrum.csv", "rank,share\n1,x\n")
    text = page(finished)
    assert "plots/diagnostics/eigenspectrum.csv could not be read" in text
    assert "57.3" in part(text, "diagnostics")


@pytest.mark.parametrize(
    "value", [{"skipped": "diagnostics.enabled is false"}, {"rankme": "high"}, {"lidar": None}]
)
def test_nothing_measured_is_no_section(finished: Path, value: Any) -> None:
    evaluated(finished, "diagnostics", value)
    evaluated(finished, "robustness", value)
    text = page(finished)
    assert part(text, "diagnostics") == part(text, "robustness") == ""


def test_operations_and_corruptions_have_a_chart_each(finished: Path) -> None:
    evaluated(finished, "robustness", ROBUSTNESS)
    text = part(page(finished), "robustness")
    assert text.index(">mirrored<") < text.index(">blur<")  # most ignored first
    assert 'font-weight="700">mirrored' in text
    assert 'font-weight="700">blur' not in text
    assert "no colour" in text
    assert ">hue<" not in text
    assert "Accuracy against severity: shot noise" in text
    assert "90.0\u202f% on clean images, 75.0\u202f% on corrupted ones" in text


def test_operations_alone_where_there_are_no_labels(finished: Path) -> None:
    bare = {key: ROBUSTNESS[key] for key in ("invariance", "random_init_invariance", "in_recipe")}
    evaluated(finished, "robustness", bare | {"corruptions_skipped": "there are no labels"})
    text = part(page(finished), "robustness")
    assert ">mirrored<" in text
    assert "Under corruption" not in text


def test_dots_lie_where_their_values_are() -> None:
    axis = plots.Axis(low=0, high=1, ticks=[(0, "0"), (1, "1")])
    drawn = plots.dots([("ab", False, {"random": 0.0, "encoder": 1.0})], axis, width=300, title="t")
    places = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    ticks = [float(x) for x in re.findall(r'class="grid" x1="([\d.]+)"', drawn)]
    np.testing.assert_allclose(places, ticks)
    assert 0 < places[0] < places[1] < 300
