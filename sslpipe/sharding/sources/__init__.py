"""Where images come from. One file a source, found by its file name.

A file NAME.py has `SOURCE`, which declares the source, and two functions. `digest(config)` says quickly, without
opening an image, what changes when the images may have. `open_source(config, seed)` gives the images. The stage
`source` imports these files at every `dvc repro`, so they import torch, numpy and the like only where images are read.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field, field_validator, model_validator

from sslpipe.console.spelling import nearest
from sslpipe.sharding.settings import OPTIONAL, Declaration, Settings
from sslpipe.sharding.source import SPLITS, Source

__all__ = ["SPLITS", "Config", "Source", "names", "open_source", "source_digest"]


@cache
def names() -> tuple[str, ...]:
    """The names of all sources, in alphabetical order."""
    files = Path(__file__).parent.glob("*.py")
    return tuple(sorted(file.stem for file in files if not file.stem.startswith("_")))


def _module(source: str) -> ModuleType:
    """The file of a source; `source` is as in params.yaml, such as `torchvision:CIFAR10`."""
    return importlib.import_module(f"{__name__}.{source.partition(':')[0]}")


def _declared(source: str) -> Declaration:
    return _module(source).SOURCE


def _pattern(name: str) -> str:
    """How a source is written in params.yaml."""
    return f"{name}:<name>" if _declared(name).names else name


def _choices(name: str) -> list[str]:
    """Everything that `data.source` may be for one source."""
    return [f"{name}:{member}" for member in _declared(name).names] or [name]


class Config(Settings):
    """The section `data` of params.yaml."""

    source: str = Field(
        "mnist5k", description=", ".join(f"{_pattern(name)} ({_declared(name).about})" for name in names())
    )

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        choices = [choice for name in names() for choice in _choices(name)]
        if source not in choices:
            near = nearest(source, choices)
            hint = f", did you mean {near!r}?" if near else ""
            kind, colon, _ = source.partition(":")
            known = _choices(kind) if colon and kind in names() else map(_pattern, names())
            raise ValueError(f"there is no source {source!r}{hint} (known: {', '.join(known)})")
        return source

    @model_validator(mode="after")
    def _fits(self) -> Config:
        declared = _declared(self.source)
        for setting in OPTIONAL:
            if setting in declared.needs and not getattr(self, setting):
                raise ValueError(f"source is {self.source}: set {setting} to where your images are")
            if getattr(self, setting) and not declared.takes(setting):
                readers = [_pattern(name) for name in names() if _declared(name).takes(setting)]
                raise ValueError(
                    f"{setting} is set, but source is {self.source}, which does not read it: leave {setting} out, or "
                    f"set source to one that does ({', '.join(readers)})"
                )
        return self


def source_digest(config: Settings) -> dict[str, Any]:
    """What stage `source` records: {"source", "digest", "count", …}; it changes when the images may have.

    A `UserError` says what is missing, empty, damaged, out of reach or not installed.
    """
    return {"source": config.source, **_module(config.source).digest(config)}


def open_source(config: Settings, seed: int) -> Source:
    """The images of both splits; where the data has no test split, one is drawn by `seed`, class by class.

    A `UserError` is one of `source_digest`, or says that there are too few images.
    """
    return _module(config.source).open_source(config, seed)
