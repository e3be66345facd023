"""Everything but data that a stage's result depends on: its settings with all defaults, its code, data elsewhere."""

from __future__ import annotations

from typing import Any

from sslpipe import evals
from sslpipe.core.pipeline import Stage, code_digests, stages
from sslpipe.settings import Settings
from sslpipe.sharding.sources import source_digest


def resolve(settings: Settings, stage: Stage) -> dict[str, Any]:
    """What data/resolved/NAME.json holds of a stage; of an evaluation that is off, only that it is.

    Raises:
        UserError: a setting is wrong, or data that an evaluation reads from elsewhere is not there.
    """
    elsewhere = source_digest(settings.data) if stage.name == "shard" else None
    if stage.name in evals.names():
        config = getattr(settings, stage.name)
        if not config.enabled:
            return {"settings": {stage.name: config.content()}}
        elsewhere = evals.declaration(stage.name).elsewhere(config)
    return {
        "settings": {name: settings.part(name) for name in stage.settings},
        "code": code_digests(stage, settings.pretrain.method),
        **({} if elsewhere is None else {"elsewhere": elsewhere}),
    }


def resolve_all(settings: Settings) -> dict[str, dict[str, Any]]:
    """The same of all stages but `source`, by name."""
    return {name: resolve(settings, stage) for name, stage in stages().items() if name != "source"}
