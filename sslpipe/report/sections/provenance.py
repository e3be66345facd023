"""Digests from source to encoder; environment and settings."""

from __future__ import annotations

from typing import Any

from sslpipe.report.config import Config
from sslpipe.report.run import Run
from sslpipe.report.words import flat

ORDER = 170


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where nothing is known."""
    manifest, encoder = run.manifest, run.encoder
    source = manifest.get("source") or {}
    pretrain = run.stage("pretrain") or (run.stages[0] if run.stages else {})
    git, environment = pretrain.get("git") or {}, pretrain.get("environment") or {}
    code = " ".join(filter(None, (git.get("branch"), "with local changes" if git.get("dirty") else "")))
    canvas = f"{manifest.get('resolution')} px canvases" if manifest.get("resolution") else ""
    chain = [
        ("Source", source.get("name") or "", source.get("digest")),
        ("Shards", canvas, manifest.get("digest")),
        ("Code", code, git.get("commit")),
        ("Experiment", "settings, data and code together", pretrain.get("key")),
        ("Encoder", "models/encoder.safetensors", encoder.get("weights_sha256")),
    ]
    known = [(name, what, str(digest)) for name, what, digest in chain if digest]
    if not (known or environment or run.params):
        return None
    return {"chain": known, "environment": flat(environment), "settings": run.params}
