"""The resolved recipe, a contact sheet of its views, and how fast they are made."""

from __future__ import annotations

from pathlib import Path

from sslpipe.core.scratch import atomic_write, write_json
from sslpipe.data.loader import open_split
from sslpipe.recipes.preview import shown
from sslpipe.settings import Settings
from sslpipe.shards import manifest as manifests
from sslpipe.tracking.record import Record
from sslpipe.training.core.build import build_recipe
from sslpipe.training.core.cost import cost_of_views
from stages.runner import stage


def make(settings: Settings, record: Record) -> None:
    """Write data/views/recipe.json, plots/views/ and metrics/views.json."""
    views, pretrain = settings.views, settings.pretrain
    manifest = manifests.read(Path("data/shards"))
    statistics = manifest.statistics.model_dump()
    recipe = build_recipe(pretrain, settings.method, views, manifest.recipe, **statistics)
    atomic_write("data/views/recipe.json", recipe.to_json())
    reader = open_split(Path("data/shards"), "train", settings.loader.reader)
    for name, content in shown(recipe, reader, views.sheet_images, settings.seed):
        atomic_write(f"plots/views/{name}", content)
    metrics = cost_of_views(pretrain, settings.method, views, recipe, reader, settings.seed)
    write_json("metrics/views.json", {"views": metrics})
    record.dataset(manifest.source.name, manifest.digest, manifest.source.name)
    record.result(metrics)
    record.artifact("plots/views")


main = stage("views", make)

if __name__ == "__main__":
    main()
