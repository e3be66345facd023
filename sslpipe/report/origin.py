"""The part of the page on what it was made of: images, times, digests, settings."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from sslpipe.report.parts import definitions, duration, flat, picture, section, watt_hours
from sslpipe.report.results import integer
from sslpipe.report.run import Run, energy, seconds


def data(run: Run) -> str:
    """Counts by class, and the files left out."""
    if not run.manifest:
        return ""
    splits = {
        name: split
        for name, split in (run.manifest.get("splits") or {}).items()
        if isinstance(split, Mapping)
    }
    body = _class_counts(run, splits)
    rejects = run.manifest.get("rejects") or {}
    sizes = " and ".join(f"{integer(split.get('count', 0))} {name}" for name, split in splits.items())
    note = [f"<p>{sizes} images{f' in {len(run.classes)} classes' if run.classes else ', no labels'}.</p>"]
    if rejects.get("count"):
        reasons = "".join(
            f"<li><b>{escape(str(reason))}</b><span>{integer(number)}</span></li>"
            for reason, number in sorted((rejects.get("by_reason") or {}).items(), key=lambda item: -item[1])
        )
        listed = "".join(
            f"<li><code>{escape(str(entry.get('key')))}</code> {escape(str(entry.get('reason')))}</li>"
            for entry in (rejects.get("listed") or [])[:200]
        )
        body += (
            f"<h3>{integer(rejects['count'])} {'file' if rejects['count'] == 1 else 'files'} left out</h3>"
            f'<ol class="worst">{reasons}</ol>'
            + (
                f'<details><summary>Which files</summary><ul class="files">{listed}</ul></details>'
                if listed
                else ""
            )
        )
    else:
        note.append("<p>No file was left out.</p>")
    twice, said = _duplicates(run)
    body += twice
    note.append(said)
    note += [f"<p>{escape(str(remark))}</p>" for remark in run.manifest.get("notes") or ()]
    ignored = sum((run.manifest.get("ignored") or {}).values())
    if ignored:
        note.append(f"<p>{integer(ignored)} other files were passed over.</p>")
    return section("data", "The images", "".join(note), body or '<p class="empty">No labels to count.</p>')


def _duplicates(run: Run) -> tuple[str, str]:
    """A sheet of the images that come twice, and a sentence: test scores are worth less where they do."""
    found = run.manifest.get("duplicates")
    if not isinstance(found, Mapping):
        return "", "<p>Images that come twice were not looked for.</p>"
    counts = {
        name: int(found.get(name) or 0) for name in ("test_exact", "test_near", "train_exact", "train_near")
    }
    if not any(counts.values()):
        return "", "<p>No image comes twice.</p>"
    test = counts["test_exact"] + counts["test_near"]
    said = (
        f"{integer(test)} test images are in the training images, too"
        if test
        else "No test image is trained on"
    )
    said += f" ({integer(counts['test_near'])} of them nearly the same)" if counts["test_near"] else ""
    train = counts["train_exact"] + counts["train_near"]
    said += f"; {integer(train)} images come twice within them." if train else "."
    sheet = picture(run, "plots/shard/duplicates.png", "pairs of images that are the same or nearly")
    return f"<h3>Images that come twice</h3>{sheet}", f"<p>{said}</p>"


def _class_counts(run: Run, splits: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {name: split["class_counts"] for name, split in splits.items() if split.get("class_counts")}
    if not counts or not run.classes:
        return ""
    most = max(map(sum, zip(*counts.values(), strict=False)), default=0) or 1
    rows = []
    for n, name in enumerate(run.classes[:60]):
        inside = {split: values[n] for split, values in counts.items() if n < len(values)}
        bars = "".join(
            f'<i class="{escape(split)}" style="width:{97 * number / most:.1f}%"></i>'
            for split, number in inside.items()
        )
        numbers = " + ".join(integer(number) for number in inside.values())
        rows.append(
            f'<li><span title="{escape(name)}">{escape(name)}</span><div class="bars">{bars}</div>'
            f"<span>{numbers}</span></li>"
        )
    more = f'<p class="empty">and {len(run.classes) - 60} more classes</p>' if len(run.classes) > 60 else ""
    legend = "".join(f'<li><i class="bar {escape(split)}"></i>{escape(split)}</li>' for split in counts)
    return f'<ul class="legend">{legend}</ul><ol class="counts">{"".join(rows)}</ol>{more}'


def times(run: Run) -> str:
    """How long each stage took."""
    timed = [(stage, took) for stage in run.stages if (took := seconds(stage)) is not None]
    if not timed:
        return ""
    longest = max(took for _, took in timed) or 1.0
    rows = "".join(
        f'<li><span>{escape(str(stage["stage"]))}</span><div class="bars">'
        f'<i style="width:{100 * took / longest:.1f}%"></i></div><span>{_took(stage, took)}</span></li>'
        for stage, took in timed
    )
    total = sum(took for _, took in timed)
    note = (
        f"<p>{duration(total)} in all, start-up included. "
        "A stage that DVC took from its cache shows the time of the run that made it.</p>"
    )
    used = [each for stage, _ in timed if (each := energy(stage)) is not None]
    if used:
        note += (
            f"<p>{watt_hours(sum(used))} by the machine's own counters of processors and GPUs: of all that ran on it "
            "meanwhile, without its fans, disks and power supply.</p>"
        )
    return section("times", "Time by stage", note, f'<ol class="counts times">{rows}</ol>')


def _took(stage: Mapping[str, Any], seconds: float) -> str:
    used = energy(stage)
    return duration(seconds) + ("" if used is None else f", {watt_hours(used)}")


def provenance(run: Run) -> str:
    """Digests from source to encoder; environment and settings."""
    manifest, encoder = run.manifest, run.encoder
    source = manifest.get("source") or {}
    pretrain = run.stage("pretrain") or (run.stages[0] if run.stages else {})
    git, environment = pretrain.get("git") or {}, pretrain.get("environment") or {}
    code = " ".join(filter(None, (git.get("branch"), "with local changes" if git.get("dirty") else "")))
    canvas = f"{manifest.get('resolution')} px canvases" if manifest.get("resolution") else ""
    chain = [
        ("Source", source.get("name"), source.get("digest")),
        ("Shards", canvas, manifest.get("digest")),
        ("Code", code, git.get("commit")),
        ("Experiment", "settings, data and code together", pretrain.get("key")),
        ("Encoder", "models/encoder.safetensors", encoder.get("weights_sha256")),
    ]
    steps = "".join(
        f"<li><b>{name}</b><span>{escape(str(what or ''))}</span>"
        f'<code title="{escape(str(digest))}">{escape(str(digest)[:16])}</code></li>'
        for name, what, digest in chain
        if digest
    )
    details = ""
    if environment:
        details += f"<details><summary>Environment</summary>{definitions(flat(environment))}</details>"
    if run.params:
        details += f"<details><summary>Every setting</summary>{definitions(run.params)}</details>"
    if not steps and not details:
        return ""
    note = "<p>What led to these numbers, each by its digest: equal digests, equal content.</p>"
    return section(
        "provenance",
        "Where it comes from",
        note,
        (f'<ol class="chain">{steps}</ol>' if steps else "") + details,
    )
