"""Evaluations of an encoder, each beside the same protocol on random weights. One folder an evaluation.

A folder NAME is found by its name. NAME/__init__.py declares it, without torch: `EVALUATION`, and `Config`, the section
NAME of params.yaml. NAME/evaluate.py has `evaluate(inputs, config, seed) -> Outcome`; where there is something to draw
`plots(inputs, config, outcome)`, the files of plots/NAME; and where it does not take every encoder
`check(encoder, config)`, which `sslpipe check` asks, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sslpipe.core.config import Config
from sslpipe.evals.base.declaration import Evaluation
from sslpipe.evals.base.outcome import fits


def __getattr__(name: str) -> Any:
    """The package of an evaluation, imported when it is first asked for: `sslpipe.evals.knn`."""
    if name in names():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def names() -> tuple[str, ...]:
    """The names of all evaluations, in alphabetical order; imports none of them."""
    return tuple(sorted(file.parent.name for file in Path(__file__).parent.glob("*/evaluate.py")))


@cache
def declarations() -> dict[str, Evaluation]:
    """What all evaluations say of themselves, by name, in the order of the report."""
    found = {name: declaration(name) for name in names()}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def declaration(name: str) -> Evaluation:
    """What an evaluation says of itself."""
    found: Evaluation = importlib.import_module(f"{__name__}.{name}").EVALUATION
    return found


def config_of(name: str) -> type[Config]:
    """The Config of an evaluation."""
    found: type[Config] = importlib.import_module(f"{__name__}.{name}").Config
    return found


def reason_to_skip(
    name: str, config: Any, splits: Mapping[str, Any], elsewhere: Mapping[str, Any] | None
) -> str | None:
    """Why an evaluation has nothing to do, one sentence; None where it has.

    `splits` are those of the shards' manifest, `elsewhere` is what `Evaluation.elsewhere` gave.
    """
    declared = declaration(name)
    if not config.enabled:
        return f"{name}.enabled is false in params.yaml"
    if elsewhere is not None:
        return None  # it has images of its own
    for split in declared.splits:
        if not splits.get(split, {}).get("count"):
            return f"there are no {split} images"
        if declared.labels and not splits[split]["labelled"]:
            return f"the {split} images have no labels"
    return None


def check(name: str, encoder: Any, config: Any) -> None:
    """Raise the UserError that the evaluation would end with, where it does not take this encoder."""
    module = importlib.import_module(f"{__name__}.{name}.evaluate")
    if hasattr(module, "check"):
        module.check(encoder, config)


def headlines(names_of_numbers: Iterable[str]) -> list[str]:
    """Those among names such as `knn.top1` that are headline numbers of the encoder itself, not of a baseline."""
    wanted = {
        f"{name}.{pattern}"
        for name, declared in declarations().items()
        for pattern in declared.headline
        if not pattern.rpartition(".")[2].startswith(("random_init_", "raw_pixel_"))
    }
    return [name for name in names_of_numbers if any(fits(name, pattern) for pattern in wanted)]
