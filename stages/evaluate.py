"""Any one evaluation: `python -m stages.evaluate knn`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sslpipe import evals
from sslpipe.core.scratch import atomic_write, write_json
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import stage


def main(name: str) -> None:
    """Write metrics/NAME.json, runs/NAME.json and plots/NAME/; where there is nothing to do, the reason."""
    stage(name, lambda settings, record: evaluate(name, settings, record))()


def evaluate(name: str, settings: Settings, record: Record) -> None:
    """Run an evaluation, or say why it was skipped, without importing torch."""
    declared, config = evals.declaration(name), getattr(settings, name)
    manifest = json.loads(Path("data/shards/manifest.json").read_text()) if config.enabled else {}
    if reason := evals.reason_to_skip(name, config, manifest.get("splits", {})):
        write_json(f"metrics/{name}.json", {})
        # DVC warns of an empty folder, again and again.
        atomic_write(f"plots/{name}/skipped.txt", f"{reason}\n")
        record.result({}, {}, skipped=reason)
        print(f"{name}: skipped, {reason}", flush=True)
        return
    from sslpipe.evals.base.run import run

    found = run(
        name, config, lambda section: getattr(settings, section), settings.seed, settings.evaluate.seeds
    )
    write_json(f"metrics/{name}.json", {name: found.headline(declared.headline)})
    for file, content in found.plots.items():
        atomic_write(f"plots/{name}/{file}", content)
    record.result(found.metrics, found.protocol)
    record.artifact(f"plots/{name}")


if __name__ == "__main__":
    main(sys.argv[1])
