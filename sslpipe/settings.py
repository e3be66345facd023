"""params.yaml as typed, validated settings, gathered from the owners' Configs.

Nothing else reads params.yaml. A section is validated when it is first asked for. Nothing here imports torch, but where
settings of a method are asked for, which lie in the method's own file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import ValidationError

from sslpipe import evals, methods
from sslpipe.console.errors import UserError
from sslpipe.console.spelling import nearest
from sslpipe.core.config import Config, flatten, merge
from sslpipe.core.yaml import read
from sslpipe.data.config import Config as LoaderConfig
from sslpipe.evals.base.config import EmbedConfig, EvaluateConfig
from sslpipe.methods.base.config import MethodConfig
from sslpipe.report.config import Config as ReportConfig
from sslpipe.sharding.config import Config as ShardConfig
from sslpipe.sharding.sources import Config as SourceConfig
from sslpipe.tracking.config import Config as TrackingConfig
from sslpipe.training.core.config import Config as PretrainConfig
from sslpipe.training.core.config import Setup
from sslpipe.views.config import Config as ViewsConfig

Kind = TypeVar("Kind", bound=Config)


class SettingsError(UserError):
    """params.yaml cannot be used as it is; the text says which key and what to write."""


class Settings:
    """The sections of a params.yaml, an attribute each, those of evaluations, too; `raw` is the file as read."""

    data: SourceConfig
    shard: ShardConfig
    loader: LoaderConfig
    views: ViewsConfig
    pretrain: PretrainConfig
    embed: EmbedConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    tracking: TrackingConfig

    def __init__(self, raw: Mapping[str, Any], path: Path = Path("params.yaml")) -> None:
        self.raw, self.path = raw, path
        for key in raw:
            if key not in SECTIONS:
                raise SettingsError(unknown_key(str(path), str(key), SECTIONS))

    @cached_property
    def seed(self) -> int:
        """The seed everything random is drawn from."""
        seed = self.raw.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise self._wrong(f"seed: should be a whole number from 0 to 2^63 - 1, not {seed!r}")
        return seed

    @cached_property
    def method(self) -> MethodConfig:
        """Settings of the chosen method."""
        return self.method_config(self.pretrain.method)

    @property
    def setup(self) -> Setup:
        """The settings that a training depends on."""
        return Setup(self.pretrain, self.method, self.seed, self.views, self.loader)

    def __getattr__(self, name: str) -> Any:
        """A section, validated when it is first asked for."""
        kind = kind_of(name)
        if kind is None:
            raise AttributeError(f"there is no section {name}")
        found = self._validate(name, self._mapping(name), kind)
        if isinstance(found, PretrainConfig) and found.method not in methods.names():
            raise self._wrong(unknown_value("pretrain.method", found.method, methods.names()))
        self.__dict__[name] = found
        return found

    def method_config(self, name: str) -> MethodConfig:
        """Settings of any method: the paper's, or those for small data (`pretrain.defaults`), `methods.NAME` on top."""
        method, own = methods.find(name), self._mapping("methods", name)
        base = method.small if self.pretrain.defaults == "small" else {}
        return self._validate(f"methods.{name}", merge(base, own), method.Config)

    def part(self, name: str) -> Any:
        """What dvc.yaml calls by a name under `meta.settings`, as plain values: a section or a single key of one.

        `method` is what the user says of the chosen method; its defaults are part of its code.
        """
        if name == "seed":
            return self.seed
        if name == "method":
            chosen = self.pretrain.method
            own = self._mapping("methods", chosen)
            return {"name": chosen, "defaults": self.pretrain.defaults, "settings": own}
        section, _, key = name.partition(".")
        values = getattr(self, section).content()
        return values[key] if key else values

    def flat(self) -> dict[str, Any]:
        """What makes this experiment: resolved settings by dotted key, without `tracking` and methods not chosen.

        Evaluations that are off show only that.
        """
        found = self.sections("tracking")
        for section, values in found.items():
            if values.get("enabled") is False:
                found[section] = {"enabled": False}
        chosen = self.pretrain.method
        return flatten({"seed": self.seed, **found, "methods": {chosen: self._mapping("methods", chosen)}})

    def sections(self, *left_out: str) -> dict[str, dict[str, Any]]:
        """Each section that has a Config, as plain values."""
        names = [name for name in (*OWNERS, *evals.names()) if name not in left_out]
        return {name: getattr(self, name).model_dump(mode="json") for name in names}

    def validate(self, sections: Iterable[str] | None = None) -> Settings:
        """Validate these sections now, or all; raises a SettingsError on the first thing that is wrong."""
        for section in SECTIONS if sections is None else sections:
            if section != "methods":
                getattr(self, section)
                continue
            for name in self._mapping("methods"):
                if name not in methods.names():
                    raise self._wrong(unknown_key("methods", name, methods.names()))
                self.method_config(name)
        return self

    def _mapping(self, *path: str) -> Mapping[str, Any]:
        """A section of the file, or one below it; empty where it is left out."""
        value: Any = self.raw
        for depth, key in enumerate(path, 1):
            value = {} if value.get(key) is None else value[key]
            if not isinstance(value, Mapping):
                raise self._wrong(f"{'.'.join(path[:depth])}: should be a section with keys, not {value!r}")
        return value

    def _validate(self, section: str, values: Mapping[str, Any], kind: type[Kind]) -> Kind:
        try:
            return kind.parse(values)
        except ValidationError as error:
            raise self._wrong(_explain(section, error, kind)) from None

    def _wrong(self, sentence: str) -> SettingsError:
        return SettingsError(f"{self.path}: {sentence}")


#: The Configs of all sections but those of evaluations.
OWNERS: dict[str, type[Config]] = get_type_hints(Settings)
SECTIONS = ("seed", *OWNERS, "methods", *evals.names())


def kind_of(section: str) -> type[Config] | None:
    """The Config of a section; none for `seed` and `methods`, and where there is no such section."""
    return OWNERS.get(section) or (evals.config_of(section) if section in evals.names() else None)


def defaults(kind: type[Config]) -> dict[str, Any]:
    """The default of each key of a Config; `PydanticUndefined` for one that is required."""
    fields = kind.model_fields.items()
    return {key: field.get_default(call_default_factory=True, validated_data={}) for key, field in fields}


def load(path: str | Path = "params.yaml", *, sections: Iterable[str] = SECTIONS) -> Settings:
    """Read params.yaml and validate these sections now; the others are validated when they are first asked for.

    Raises:
        SettingsError: the file or a value in it cannot be used; the text is all a user needs.
    """
    try:
        return Settings(read(path), Path(path)).validate(sections)
    except SettingsError:
        raise
    except UserError as error:
        raise SettingsError(str(error)) from None


def unknown_key(where: str, key: str, known: Iterable[str]) -> str:
    """One sentence on a key that does not exist."""
    known = sorted(known)
    guess = nearest(key, known, cutoff=0.5)
    hint = f"did you mean `{guess}`?" if guess else f"known keys: {', '.join(known)}"
    return f"{where}: unknown key `{key}`; {hint}"


def unknown_value(where: str, value: str, known: Iterable[str]) -> str:
    """One sentence on a name that is not among the allowed ones."""
    known = list(known)
    guess = nearest(value, known, cutoff=0.5)
    hint = f"did you mean `{guess}`? " if guess else ""
    return f"{where}: unknown value `{value}`; {hint}choose from {', '.join(known)}"


def _explain(section: str, error: ValidationError, config: type[Config]) -> str:
    first = error.errors(include_url=False)[0]
    location, known = _walk(config, [str(part) for part in first["loc"]])
    if first["type"] == "extra_forbidden":
        return unknown_key(".".join([section, *location[:-1]]), location[-1], known)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message[0].lower() + message[1:]
    given = first.get("input")
    names_it = first["type"] == "value_error" or isinstance(given, Mapping)  # those name the value themselves
    shown = "" if names_it else f", not {json.dumps(given, default=str)}"
    return f"{'.'.join([section, *location])}: {message}{shown}"


def _walk(config: type[Config], location: list[str]) -> tuple[list[str], list[str]]:
    """An error's location without pydantic's own words in it, and the keys known where it ends."""
    current: type[Config] | None = config
    path: list[str] = []
    known: list[str] = []
    for part in location:
        if current is None:  # an item of a list or a member of a union
            return path, known
        path.append(part)
        known = list(current.model_fields)
        field = current.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, Config)), None)
    return path, known
