"""An evaluation from what a run left to numbers and plots."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sslpipe import evals
from sslpipe.core.config import Config
from sslpipe.evals.base import repeats, trust
from sslpipe.evals.base.inputs import Inputs
from sslpipe.evals.base.outcome import Outcome


def run(
    name: str,
    config: Config,
    section: Callable[[str], Any],
    seed: int,
    seeds: int,
    elsewhere: Mapping[str, Any] | None = None,
) -> tuple[Outcome, dict[str, str | bytes]]:
    """Evaluate the encoder in the working folder: what was found, and the files of plots/NAME.

    `section` gives a section of the settings by its name. An evaluation that learns something is repeated with so many
    `seeds`. `elsewhere` is what `Evaluation.elsewhere` gave. The protocol says by digests what the numbers rest on.
    """
    module = importlib.import_module(f"sslpipe.evals.{name}.evaluate")
    inputs = Inputs(section=section)
    seeds = seeds if evals.declaration(name).repeats else 1
    found = repeats.repeated(lambda one: module.evaluate(inputs, config, one), seeds, seed)
    data = inputs.manifest.digest if elsewhere is None else str(elsewhere["digest"])
    digests = trust.digests(data, inputs.encoder_digest, config, seeds)
    plots = module.plots(inputs, config, found) if hasattr(module, "plots") else {}
    return replace(found, protocol={**found.protocol, "digests": digests}), plots
