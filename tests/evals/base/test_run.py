"""From what a run left to what there is to write."""

from __future__ import annotations

from typing import Any

import pytest
from planted import planted_features
from support import inputs, manifest

from sslpipe.evals import knn, linear
from sslpipe.evals.base import run as runs
from sslpipe.evals.base.run import run
from sslpipe.evals.base.trust import digests

PROBE = linear.Config(epochs=2, min_steps=20, lrs=(0.1,), few_labels=(8,), draws=2, folds=2)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The manifest of a run whose features are planted."""
    found = manifest(("test", 5), train=40, test=16)
    given = inputs(
        features=(planted_features(40), planted_features(16)), manifest=found, encoder_digest="of the weights"
    )
    monkeypatch.setattr(runs, "Inputs", lambda section: given)
    return found


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_learns_is_repeated_and_numbers_say_what_they_rest_on(seeds: int, listed: Any) -> None:
    found, plots = run("linear", PROBE, lambda section: None, 0, seeds)
    assert found.metrics["top1"] == 1.0
    assert ("top1_std" in found.metrics) == ("seeds" in found.protocol) == (seeds > 1)
    assert found.protocol["digests"] == digests(listed.digest, "of the weights", PROBE, seeds)
    assert set(plots) == {"label_efficiency.csv", "confusion.csv"}


def test_what_learns_nothing_is_not_repeated(listed: Any) -> None:
    found, _ = run("knn", knn.Config(k=3), lambda section: None, 0, 5)
    assert "seeds" not in found.protocol
    assert "top1_std" not in found.metrics
    assert found.protocol["digests"] == digests(listed.digest, "of the weights", knn.Config(k=3), 1)


def test_what_is_read_elsewhere_is_the_data_that_numbers_rest_on(listed: Any) -> None:
    found, _ = run("knn", knn.Config(k=3), lambda section: None, 0, 1, {"digest": "of another set"})
    assert found.protocol["digests"]["data"] == "of another set"
