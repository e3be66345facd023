"""What every evaluation has to keep to, found by its folder: a new one is tried here without a word."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from evaluations import NAMES, config_of, everything, module

from sslpipe import evals
from sslpipe.core.config import Config
from sslpipe.evals.base.outcome import Outcome, headline
from sslpipe.evals.base.outcome import numbers as numbers_of
from sslpipe.evals.base.repeats import repeated
from sslpipe.settings import Settings

SPLITS = {name: {"count": 8, "labelled": True} for name in ("train", "test")}
every = pytest.mark.parametrize("name", NAMES)


@cache
def outcome(name: str) -> Outcome:
    found: Outcome = module(name).evaluate(everything(), config_of(name), 3)
    return found


def test_there_are_evaluations_and_none_is_called_like_what_they_share() -> None:
    assert len(NAMES) > 5
    assert list(NAMES) == sorted(NAMES)
    assert "base" not in NAMES
    assert set(evals.declarations()) == set(NAMES)
    for name in NAMES:
        assert getattr(evals, name).EVALUATION is evals.declaration(name)
    with pytest.raises(AttributeError, match="no attribute 'guess'"):
        evals.guess  # noqa: B018


@every
def test_it_says_what_it_is(name: str) -> None:
    declared, config = evals.declaration(name), evals.config_of(name)
    assert declared.title
    assert declared.title == declared.title.strip()
    assert declared.about[0].isupper()
    assert declared.about.endswith(".")
    assert declared.headline
    assert set(declared.splits) <= {"train", "test"}
    assert (declared.subject is None) == (declared.rank is None)
    assert issubclass(config, Config)
    assert isinstance(config().enabled, bool)
    assert declared.elsewhere(config()) is None
    assert getattr(Settings({}), name) == config()  # what is left out of params.yaml


def test_titles_orders_and_ranks_are_each_ones_own() -> None:
    declared = evals.declarations()
    for found in (
        [each.title for each in declared.values()],
        [each.order for each in declared.values()],
        [each.rank for each in declared.values() if each.rank is not None],
    ):
        assert len(set(found)) == len(found)
    assert [each.order for each in declared.values()] == sorted(each.order for each in declared.values())


def test_declarations_import_no_torch() -> None:
    program = "import sys\nfrom sslpipe import evals\nevals.declarations()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@every
def test_its_numbers_are_finite_and_can_be_written(name: str) -> None:
    found = outcome(name)
    assert isinstance(found, Outcome)
    assert numbers_of(found.metrics)
    json.dumps(found.metrics, allow_nan=False)
    json.dumps(found.protocol, allow_nan=False)
    assert isinstance(found.protocol["chosen_on"], str)
    assert "protocol" not in found.metrics


@every
def test_each_headline_number_is_there_and_beside_it_the_same_of_random_weights(name: str) -> None:
    declared, found = evals.declaration(name), outcome(name)
    for pattern in declared.headline:
        shown = numbers_of(headline(found.metrics, (pattern,)))
        assert shown, pattern
        for key in shown:
            path, dot, last = key.rpartition(".")
            plain = last.removeprefix("random_init_").removeprefix("raw_pixel_")
            assert f"{path}{dot}random_init_{plain}" in numbers_of(found.metrics)


@every
def test_the_same_seed_gives_the_same_numbers(name: str) -> None:
    again = module(name).evaluate(everything(), config_of(name), 3)
    assert again.metrics == outcome(name).metrics
    assert again.protocol == outcome(name).protocol


@every
def test_what_it_draws_is_bytes_or_text_of_several_seeds_too(name: str) -> None:
    merged = repeated(lambda seed: outcome(name), 2, 0)
    numbers, once = numbers_of(merged.metrics), numbers_of(outcome(name).metrics)
    assert {key: numbers[key] for key in once} == pytest.approx(once)
    json.dumps({**merged.metrics, **merged.protocol}, allow_nan=False)
    plots = getattr(module(name), "plots", None)
    for found in (outcome(name), merged):
        files = plots(everything(), config_of(name), found) if plots else {}
        for file, content in files.items():
            assert content
            assert isinstance(content, bytes if file.endswith(".png") else str)


@every
def test_the_reason_to_skip_it(name: str) -> None:
    declared = evals.declaration(name)

    def reason(**changes: dict[str, Any]) -> str | None:
        # Made without a check: some cannot be enabled without more settings.
        config = evals.config_of(name).model_construct(**{**dict(evals.config_of(name)()), "enabled": True})
        return evals.reason_to_skip(name, config, {**SPLITS, **changes}, None)

    off = evals.config_of(name)(enabled=False)
    assert evals.reason_to_skip(name, off, SPLITS, None) == f"{name}.enabled is false in params.yaml"
    assert evals.reason_to_skip(name, off, {}, None) == f"{name}.enabled is false in params.yaml"
    assert reason() is None
    for split in ("train", "test"):
        none = reason(**{split: {"count": 0, "labelled": False}})
        bare = reason(**{split: {"count": 8, "labelled": False}})
        wanted = split in declared.splits
        assert none == (f"there are no {split} images" if wanted else None)
        assert bare == (f"the {split} images have no labels" if wanted and declared.labels else None)


@every
def test_images_of_its_own_are_reason_enough_to_run(name: str) -> None:
    config = evals.config_of(name).model_construct(**{**dict(evals.config_of(name)()), "enabled": True})
    assert evals.reason_to_skip(name, config, {}, {"digest": "d"}) is None
