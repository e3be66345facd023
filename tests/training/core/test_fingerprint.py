from __future__ import annotations

from sslpipe.training.core.fingerprint import NAMED, differences

BEFORE = {"pretrain.method": "simclr", "pretrain.epochs": 2, "methods.simclr.temperature": 0.5, "code": "a"}


def test_what_differs_is_named_with_the_old_and_the_new_value() -> None:
    now = {**BEFORE, "pretrain.epochs": 3, "methods.simclr.temperature": 0.25}
    assert differences(BEFORE, now) == "pretrain.epochs (2 → 3), methods.simclr.temperature (0.5 → 0.25)"
    assert differences(BEFORE, BEFORE) == ""


def test_a_digest_is_not_shown() -> None:
    assert differences(BEFORE, {**BEFORE, "code": "b"}) == "code"


def test_of_another_method_the_settings_are_not_named() -> None:
    now = {"pretrain.method": "byol", "pretrain.epochs": 2, "methods.byol.momentum": 0.9, "code": "b"}
    assert differences(BEFORE, now) == "pretrain.method (simclr → byol)"


def test_what_one_run_has_not_is_named() -> None:
    now = {key: value for key, value in BEFORE.items() if key != "pretrain.epochs"}
    assert differences(BEFORE, now) == "pretrain.epochs (2 → none)"


def test_of_many_the_first_are_named() -> None:
    before, now = ({f"pretrain.key{i}": value for i in range(NAMED + 3)} for value in (0, 1))
    assert differences(before, now).endswith("pretrain.key5 (0 → 1), 3 more")


def test_numbers_are_told_with_the_digits_that_a_reader_needs() -> None:
    before, now = (
        {"views.recipe.view.mean": [0.13168696261887544] * 3},
        {"views.recipe.view.mean": [0.25] * 3},
    )
    assert differences(before, now) == (
        "views.recipe.view.mean ([0.131687, 0.131687, 0.131687] → [0.25, 0.25, 0.25])"
    )
