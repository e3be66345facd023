"""Scenes for evaluations that need masks or boxes."""

from __future__ import annotations

from sslpipe.evals.base.inputs import Inputs
from sslpipe.scenes import annotated
from sslpipe.scenes.annotated import Need
from sslpipe.scenes.composed import Scenes
from sslpipe.scenes.config import Config


def labelled_scenes(inputs: Inputs, need: Need, config: Config) -> tuple[Scenes, Scenes, list[str]]:
    """Scenes to learn from and to be tested on, and the names of the classes; the same under every seed.

    Args:
        inputs: of the evaluation.
        need: what they are wanted for.
        config: where they come from.
    """
    side, reader = inputs.encoder.image_size, inputs.config("loader").reader
    return inputs.once(
        need, lambda: annotated.scenes(need, inputs.shards, reader, side, config, inputs.config("seed"))
    )
