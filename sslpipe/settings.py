"""params.yaml as typed, validated settings, gathered from the owners' Configs.

Nothing else reads params.yaml. A section is validated, and its owner imported, when it is first asked for, so a
stage that needs no torch does not import it.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from sslpipe.console.errors import UserError
from sslpipe.core.config import Config, flatten
from sslpipe.core.yaml import read

if TYPE_CHECKING:
    from sslpipe.data.loader import Config as LoaderConfig
    from sslpipe.evals.attentive.evaluate import Config as AttentiveConfig
    from sslpipe.evals.base.embed import Config as EmbedConfig
    from sslpipe.evals.base.repeats import Config as EvaluateConfig
    from sslpipe.evals.detect.evaluate import Config as DetectConfig
    from sslpipe.evals.diagnostics.evaluate import Config as DiagnosticsConfig
    from sslpipe.evals.finetune.evaluate import Config as FinetuneConfig
    from sslpipe.evals.knn.evaluate import Config as KnnConfig
    from sslpipe.evals.linear.evaluate import Config as LinearConfig
    from sslpipe.evals.online.evaluate import Config as OnlineConfig
    from sslpipe.evals.retrieval.evaluate import Config as RetrievalConfig
    from sslpipe.evals.robustness.evaluate import Config as RobustnessConfig
    from sslpipe.evals.segment.evaluate import Config as SegmentConfig
    from sslpipe.evals.transfer.evaluate import Config as TransferConfig
    from sslpipe.methods.base.config import MethodConfig
    from sslpipe.report import Config as ReportConfig
    from sslpipe.sharding.shard import Config as ShardConfig
    from sslpipe.sharding.sources import Config as SourceConfig
    from sslpipe.tracking.record import Config as TrackingConfig
    from sslpipe.training.core.config import Config as PretrainConfig
    from sslpipe.views.config import Config as ViewsConfig

OWNERS = {
    "data": "sslpipe.sharding.sources",
    "shard": "sslpipe.sharding.config",
    "loader": "sslpipe.data.config",
    "views": "sslpipe.views.config",
    "pretrain": "sslpipe.training.core.config",
    "embed": "sslpipe.evals.base.config",
    "evaluate": "sslpipe.evals.base.repeats",
    "knn": "sslpipe.evals.knn",
    "retrieval": "sslpipe.evals.retrieval",
    "linear": "sslpipe.evals.linear",
    "finetune": "sslpipe.evals.finetune",
    "diagnostics": "sslpipe.evals.diagnostics",
    "robustness": "sslpipe.evals.robustness",
    "attentive": "sslpipe.evals.attentive",
    "online": "sslpipe.evals.online",
    "segment": "sslpipe.evals.segment",
    "detect": "sslpipe.evals.detect",
    "transfer": "sslpipe.evals.transfer",
    "report": "sslpipe.report",
    "tracking": "sslpipe.tracking.record",
}
SECTIONS = ("seed", *OWNERS, "methods")
#: Stages that a params.yaml without a word on them leaves out; as their Configs say.
OFF = ("attentive", "online", "robustness", "segment", "detect", "transfer")

C = TypeVar("C", bound=Config)


class SettingsError(UserError):
    """params.yaml cannot be used as it is; the text says which key and what to write."""


class Settings:
    """The validated sections of one params.yaml, each an attribute.

    Attributes:
        raw: the file as read, for what needs the words of the user.
        path: where it was read.
    """

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
            raise SettingsError(
                f"{self.path}: seed: should be a whole number from 0 to 2^63 - 1, not {seed!r}"
            )
        return seed

    @cached_property
    def data(self) -> SourceConfig:
        """Where images come from."""
        return self._section("data")

    @cached_property
    def shard(self) -> ShardConfig:
        """How images are stored."""
        return self._section("shard")

    @cached_property
    def loader(self) -> LoaderConfig:
        """How stored images are read."""
        return self._section("loader")

    @cached_property
    def views(self) -> ViewsConfig:
        """How views are made."""
        return self._section("views")

    @cached_property
    def pretrain(self) -> PretrainConfig:
        """How the encoder is trained."""
        from sslpipe.methods import names

        config: PretrainConfig = self._section("pretrain")
        if config.method not in names():
            raise SettingsError(unknown_value(f"{self.path}: pretrain.method", config.method, names()))
        return config

    @cached_property
    def method(self) -> MethodConfig:
        """Settings of the chosen method: the paper's defaults with `methods.<name>` on top."""
        return self.method_config(self.pretrain.method)

    @cached_property
    def embed(self) -> EmbedConfig:
        """How features are computed."""
        return self._section("embed")

    @cached_property
    def evaluate(self) -> EvaluateConfig:
        """How often evaluations are repeated."""
        return self._section("evaluate")

    @cached_property
    def transfer(self) -> TransferConfig:
        """The evaluation on another labelled set."""
        return self._section("transfer")

    @cached_property
    def knn(self) -> KnnConfig:
        """The k-NN evaluation."""
        return self._section("knn")

    @cached_property
    def retrieval(self) -> RetrievalConfig:
        """Retrieval by features."""
        return self._section("retrieval")

    @cached_property
    def linear(self) -> LinearConfig:
        """The linear probe."""
        return self._section("linear")

    @cached_property
    def finetune(self) -> FinetuneConfig:
        """Fine-tuning."""
        return self._section("finetune")

    @cached_property
    def diagnostics(self) -> DiagnosticsConfig:
        """Light numbers about the features."""
        return self._section("diagnostics")

    @cached_property
    def robustness(self) -> RobustnessConfig:
        """What features ignore, and what corruptions cost."""
        return self._section("robustness")

    @cached_property
    def online(self) -> OnlineConfig:
        """The linear probe on augmented views."""
        return self._section("online")

    @cached_property
    def attentive(self) -> AttentiveConfig:
        """The attentive probe."""
        return self._section("attentive")

    @cached_property
    def segment(self) -> SegmentConfig:
        """Transfer to segmentation."""
        return self._section("segment")

    @cached_property
    def detect(self) -> DetectConfig:
        """Transfer to detection."""
        return self._section("detect")

    @cached_property
    def report(self) -> ReportConfig:
        """The report page."""
        return self._section("report")

    @cached_property
    def tracking(self) -> TrackingConfig:
        """Where runs are recorded."""
        return self._section("tracking")

    def method_config(self, name: str) -> MethodConfig:
        """Settings of any method."""
        from sslpipe.methods import find

        return self._validate(f"methods.{name}", self._mapping("methods").get(name) or {}, find(name).Config)

    def enabled(self, stage: str) -> bool:
        """Whether `<stage>.enabled` is on, read without importing the section's owner."""
        enabled = self._mapping(stage).get("enabled", stage not in OFF)
        if not isinstance(enabled, bool):
            raise SettingsError(f"{self.path}: {stage}.enabled: should be true or false, not {enabled!r}")
        return enabled

    def scenes_root(self, stage: str) -> str | None:
        """The folder of annotated images that an evaluation is to read instead of composed scenes, if it is on.

        Looks at the file's own words, so that torch is not imported for it.
        """
        scenes = self._mapping(stage).get("scenes")
        root = scenes.get("root") if isinstance(scenes, Mapping) and self.enabled(stage) else None
        return None if root is None else str(root)

    def flat(self) -> dict[str, Any]:
        """What makes this experiment: dotted keys, without `tracking` and without methods that were not chosen."""
        sections = {key: value for key, value in self.raw.items() if key not in ("tracking", "methods")}
        chosen = str(self._mapping("pretrain").get("method"))
        method = self._mapping("methods").get(chosen) or {}
        return flatten({**sections, "methods": {chosen: method}} if method else sections)

    def validate(self, sections: Iterable[str] = SECTIONS) -> Settings:
        """Validate these sections now.

        Raises:
            SettingsError: the first thing that is wrong.
        """
        for section in sections:
            if section == "methods":
                self._check_methods()
            else:
                getattr(self, section)
        return self

    def _check_methods(self) -> None:
        from sslpipe.methods import names

        for name in self._mapping("methods"):
            if name not in names():
                raise SettingsError(unknown_key(f"{self.path}: methods", name, names()))
            self.method_config(name)

    def _mapping(self, section: str) -> Mapping[str, Any]:
        value = self.raw.get(section)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise SettingsError(f"{self.path}: {section}: should be a section with keys, not {value!r}")
        return value

    def _section(self, name: str) -> Any:
        return self._validate(name, self._mapping(name), importlib.import_module(OWNERS[name]).Config)

    def _validate(self, section: str, values: Any, config: type[C]) -> C:
        if not isinstance(values, Mapping):
            raise SettingsError(f"{self.path}: {section}: should be a section with keys, not {values!r}")
        try:
            return config.parse(values)
        except ValidationError as error:
            raise SettingsError(f"{self.path}: {_explain(section, error, config)}") from None


def load(path: str | Path = "params.yaml", *, sections: Iterable[str] = SECTIONS) -> Settings:
    """Read and validate params.yaml.

    Args:
        path: the file.
        sections: the sections to validate now; the others are validated when they are first asked for.

    Raises:
        SettingsError: the file or a value in it cannot be used; the text is all a user needs.
    """
    try:
        return Settings(read(path), Path(path)).validate(sections)
    except SettingsError:
        raise
    except UserError as error:
        raise SettingsError(str(error)) from None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest in spelling, if one is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def unknown_key(where: str, key: str, known: Iterable[str]) -> str:
    """One sentence on a key that does not exist."""
    known = sorted(known)
    guess = nearest(key, known)
    hint = f"did you mean `{guess}`?" if guess else f"known keys: {', '.join(known)}"
    return f"{where}: unknown key `{key}`; {hint}"


def unknown_value(where: str, value: str, known: Iterable[str]) -> str:
    """One sentence on a name that is not among the allowed ones."""
    known = list(known)
    guess = nearest(value, known)
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
    own_words = first["type"] == "value_error" or isinstance(
        given, Mapping
    )  # those name the value themselves
    shown = "" if own_words else f", not {json.dumps(given, default=str)}"
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
