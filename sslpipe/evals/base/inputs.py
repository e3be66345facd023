"""What evaluations read, each opened when it is first asked for.

Rooms are imported where they are asked for, too: an evaluation of features rests on no networks, readers or views, and
is not run again where those change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sslpipe.evals.base.config import EmbedConfig
from sslpipe.evals.base.features import Features
from sslpipe.shards import manifest as manifests
from sslpipe.shards.manifest import Manifest

if TYPE_CHECKING:
    from sslpipe.data.loader import Reader
    from sslpipe.networks.protocol import Backbone
    from sslpipe.views.recipe import Recipe

T = TypeVar("T")


class Inputs:
    """What a run left for its evaluations, and the settings of other sections.

    A test sets what it has: `Inputs(root).__dict__.update(encoder=…)` stands for the file. `root` is the run's folder,
    and `section` gives a section of the settings by its name.
    """

    def __init__(self, root: Path = Path("."), section: Callable[[str], Any] | None = None) -> None:
        self.root, self._section = root, section
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all seeds of an evaluation."""
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def config(self, section: str) -> Any:
        """The settings of another section than the evaluation's own."""
        assert self._section is not None, f"no settings were given, and {section} was asked for"
        return self._section(section)

    @cached_property
    def manifest(self) -> Manifest:
        """What the shards hold."""
        return manifests.read(self.root / "data" / "shards")

    @cached_property
    def encoder(self) -> Backbone:
        """The exported encoder, in eval mode."""
        from sslpipe.export import load_encoder

        return load_encoder(self.root / "models" / "encoder.safetensors")

    @cached_property
    def embedding(self) -> EmbedConfig:
        """How the encoder's features are made."""
        from sslpipe.evals.base.embed import fitting

        return fitting(self.config("embed"), self.encoder, self.encoder.info.get("probe_pool", "encoder"))

    @cached_property
    def encoder_digest(self) -> str:
        """Of the encoder's weights; read without opening them."""
        header = json.loads((self.root / "models" / "encoder.json").read_text())
        return str(header["weights_sha256"])

    @cached_property
    def train(self) -> Reader:
        """The training images."""
        return self._split("train")

    @cached_property
    def test(self) -> Reader:
        """The test images."""
        return self._split("test")

    def _split(self, name: str) -> Reader:
        from sslpipe.data.loader import open_split

        return open_split(self.root / "data" / "shards", name, self.config("loader").reader)

    def labelled(self) -> tuple[Reader, Reader]:
        """The training and the test images that have a label."""
        from sslpipe.data.subset import labelled

        return labelled(self.train), labelled(self.test)

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Features of the training and of the test images."""
        folder = self.root / "data" / "features"
        return Features.load(folder / "train.safetensors"), Features.load(folder / "test.safetensors")

    def labelled_features(self) -> tuple[Features, Features]:
        """The same of images that have a label."""
        train, test = self.features
        return train.labelled(), test.labelled()

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved views that the method was trained on."""
        from sslpipe.views.recipe import Recipe

        return Recipe.from_json((self.root / "data" / "views" / "recipe.json").read_bytes())

    @cached_property
    def changes(self) -> dict[str, Any]:
        """What the data set and the user change of view recipes: which flips and turns leave an image what it is."""
        return {**self.manifest.recipe, **self.config("views").recipe}
