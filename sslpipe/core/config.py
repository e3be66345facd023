"""The base of every `Config`: typed, frozen, keyword-only, unknown keys refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Settings of one owner. Subclass it beside the code that reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    #: Settings that cannot change a result, such as how many processes work at it.
    harmless: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate values as YAML or JSON holds them: strict about types, and yet a list will do for a tuple.

        A field whose default is itself a `Config` may be given in part: the rest keeps that default.

        Raises:
            pydantic.ValidationError: an unknown key, a wrong type or a value out of range.
        """
        completed = dict(values)
        for name, field in cls.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, Config) and isinstance(values.get(name), Mapping):
                completed[name] = merge(default.model_dump(mode="json"), values[name])
        return cls.model_validate_json(json.dumps(completed, default=str), strict=True)

    def content(self) -> dict[str, Any]:
        """The settings that a result depends on, as plain values; of what is switched off, only that it is."""
        values = self.model_dump(mode="json", exclude=set(self.harmless))
        return {"enabled": False} if values.get("enabled") is False else values


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` on top, mappings merged key by key at every depth."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values with dotted keys as mappings in mappings: what `flatten` flattens."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def numbers(nested: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among nested values by dotted key; words, lists and truth values are left out."""
    return {
        key: value
        for key, value in flatten(nested).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
