"""Everything but data that a stage's result depends on: its settings with all defaults, its code, data elsewhere."""

from __future__ import annotations

from typing import Any

from sslpipe import evals
from sslpipe.core.pipeline import Stage, code_digests
from sslpipe.settings import Settings


def resolve(settings: Settings, stage: Stage) -> dict[str, Any]:
    """What data/resolved/NAME.json holds of a stage; of an evaluation that is off, only that it is.

    Raises:
        UserError: a setting is wrong, or data that an evaluation reads from elsewhere is not there.
    """
    elsewhere = None
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
