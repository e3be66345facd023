"""Digests from source to encoder; environment and settings."""

from __future__ import annotations

from sslpipe.report.run import Context, Run
from sslpipe.report.words import flat

ORDER = 170


def context(run: Run) -> Context:
    """What the template shows; None where nothing is known."""
    manifest, origin = run.manifest, run.origin
    source, git = manifest.get("source") or {}, origin.get("git") or {}
    code = " ".join(filter(None, (git.get("branch"), "with local changes" if git.get("dirty") else "")))
    canvas = f"{manifest.get('resolution')} px canvases" if manifest.get("resolution") else ""
    chain = [
        ("Source", source.get("name") or "", source.get("digest")),
        ("Shards", canvas, manifest.get("digest")),
        ("Code", code, git.get("commit")),
        ("Experiment", "settings, data and code together", origin.get("key")),
        ("Encoder", "models/encoder.safetensors", run.encoder.get("weights_sha256")),
    ]
    known = [(name, what, str(digest)) for name, what, digest in chain if digest]
    environment = origin.get("environment") or {}
    return {"chain": known, "environment": flat(environment)} if known or environment or run.params else None
