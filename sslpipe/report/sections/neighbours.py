"""Nearest neighbours: what test images find among the training images, and how well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sslpipe.report.pictures import Picture, data_uri
from sslpipe.report.run import Context, Run
from sslpipe.report.series import PREFIX
from sslpipe.report.words import is_number

ORDER = 40
# A test image, and the training images nearest to it with their similarity.
_Entry = tuple[int, list[tuple[int, float]]]
_Shown = dict[str, Any]  # what the template shows of an image, or of a test image and what it finds


def context(run: Run) -> Context:
    """What the template shows; None where no neighbours are kept or wanted, or their images cannot be read."""
    examples = _found(run, "plots/knn/neighbours.json", run.config.queries)
    worst = _found(run, "plots/retrieval/worst.json", None)
    if not examples:
        return None
    verdicts = [thumb["agrees"] for found in examples for thumb in found["neighbours"]]
    known = [agrees for agrees in verdicts if agrees is not None]
    retrieval = _retrieval(run.metrics.get("retrieval", {}), run.protocol("retrieval"))
    return {"examples": examples, "worst": worst, "agree": sum(known), "total": len(known), **retrieval}


def _retrieval(found: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Retrieval over all queries: their number, the table's columns, its rows of a name and a value for each column."""
    names = {f"recall_{k}": f"Recall@{k}" for k in protocol.get("ks") or ()}
    names |= {"map": "Mean average precision", "r_precision": "R-precision"}
    columns = [series for series, prefix in PREFIX.items() if is_number(found.get(f"{prefix}map"))]
    rows = {
        name: {series: found.get(PREFIX[series] + key) for series in columns} for key, name in names.items()
    }
    whole = {name: values for name, values in rows.items() if all(map(is_number, values.values()))}
    shown = whole if columns and "protocol" in found else {}
    return {"columns": columns, "rows": shown, "queries": protocol.get("queries", 0)}


def _found(run: Run, path: str, queries: int | None) -> list[_Shown]:
    """The first queries of a file and what they found, as pictures; empty where these cannot be read."""
    entries: list[_Entry] = run.load(path, _entries, [])
    shown = [(query, nearest[: run.config.neighbours]) for query, nearest in entries[:queries]]
    images = run.images("test", [query for query, _ in shown], 96)
    wanted = sorted({index for _, nearest in shown for index, _ in nearest})
    stored = run.images("train", wanted, 96)
    if images is None or stored is None:
        return []
    at = {index: (image, label) for index, image, label in zip(wanted, *stored, strict=True)}
    found = []
    for (_, nearest), image, label in zip(shown, *images, strict=True):
        neighbours = [
            _thumb(run, *at[index], f"{similarity:.2f}".lstrip("0"), beside=label)
            for index, similarity in nearest
        ]
        found.append({"query": _thumb(run, image, label, "test"), "neighbours": neighbours})
    return found


def _entries(path: Path) -> list[_Entry]:
    found = []
    for entry in json.loads(path.read_text()):
        nearest = zip(map(int, entry["neighbours"]), map(float, entry["similarity"]), strict=True)
        found.append((int(entry["query"]), list(nearest)))
    return found


def _thumb(run: Run, image: Image.Image, label: int, below: str, beside: int = -1) -> _Shown:
    """A picture with its class and a word below. Whether it agrees with the label beside it: None for unknown ones."""
    name = run.class_name(label)
    said = "image" if name is None else f"class {name}"
    uri = data_uri(image, lossless=6000)
    return {
        "picture": Picture(uri=uri, width=image.width, height=image.height, said=said),
        "name": name,
        "below": below,
        "agrees": label == beside if label >= 0 and beside >= 0 else None,
    }
