"""An evaluation from what a run left to numbers and plots."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sslpipe import evals
from sslpipe.core.config import Config
from sslpipe.evals.base import outcome, repeats, trust
from sslpipe.evals.base.inputs import Inputs


@dataclass(frozen=True)
class Result:
    """What there is to write.

    Attributes:
        metrics: all numbers, nested.
        protocol: how they were measured, with digests of what they rest on.
        plots: files of plots/NAME.
    """

    metrics: dict[str, Any]
    protocol: dict[str, Any]
    plots: dict[str, str | bytes]

    def headline(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The numbers that `Evaluation.headline` names."""
        return outcome.headline(self.metrics, names)


def run(name: str, config: Config, section: Callable[[str], Any], seed: int, seeds: int) -> Result:
    """Evaluate the encoder in the working folder.

    Args:
        name: of the evaluation.
        config: its settings.
        section: gives a section of the settings by its name.
        seed: of the run.
        seeds: how often an evaluation that learns something is repeated.
    """
    module = importlib.import_module(f"sslpipe.evals.{name}.evaluate")
    inputs, declared = Inputs(section=section), evals.declaration(name)
    seeds = seeds if declared.repeats else 1
    found = repeats.repeated(lambda one: module.evaluate(inputs, config, one), seeds, seed)
    digests = trust.digests(_data(inputs, config, declared), inputs.encoder_digest, config, seeds)
    protocol = {**found.protocol, "digests": digests}
    plots = module.plots(inputs, config, found) if hasattr(module, "plots") else {}
    return Result(dict(found.metrics), protocol, plots)


def _data(inputs: Inputs, config: Config, declared: evals.Evaluation) -> str:
    """The digest of the data that was evaluated on."""
    elsewhere = declared.elsewhere(config)
    return inputs.manifest.digest if elsewhere is None else str(elsewhere["digest"])
