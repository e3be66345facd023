from __future__ import annotations

from sslpipe.core.config import flatten, nest, numbers


def test_dotted_keys_and_mappings_in_mappings_are_each_others_inverse() -> None:
    nested = {"a": 1, "b": {"c": {"d": "word", "e": [1, 2]}, "f": None}}
    assert flatten(nested) == {"a": 1, "b.c.d": "word", "b.c.e": [1, 2], "b.f": None}
    assert nest(flatten(nested)) == nested
    assert nest({}) == {}


def test_numbers_are_finite_and_no_truth_values() -> None:
    nested = {"a": 1, "b": {"c": 0.5, "d": "word", "e": True, "f": float("nan"), "g": [2.0], "h": None}}
    assert numbers(nested) == {"a": 1, "b.c": 0.5}
