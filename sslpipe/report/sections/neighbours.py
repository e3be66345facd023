"""Nearest neighbours: what test images find among the training images, and how well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sslpipe.report.config import Config
from sslpipe.report.pictures import data_uri
from sslpipe.report.run import Run
from sslpipe.report.series import PREFIX
from sslpipe.report.words import is_number

ORDER = 40
_Entry = tuple[
    int, list[tuple[int, float]]
]  # a test image, the training images nearest to it with their similarity


@dataclass(frozen=True, kw_only=True)
class Thumb:
    """A small picture with its class, None where not known, and a word below."""

    uri: str
    width: int
    height: int
    name: str | None
    below: str
    agrees: bool | None = None  # with the query's class; None where either is not known


@dataclass(frozen=True, kw_only=True)
class Found:
    """A test image, and the training images that it finds."""

    query: Thumb
    neighbours: list[Thumb]


def context(run: Run, config: Config) -> dict[str, Any] | None:
    """What the template shows; None where no neighbours are kept or wanted, or their images cannot be read."""
    examples = _found(run, "plots/knn/neighbours.json", config.queries, config.neighbours)
    worst = _found(run, "plots/retrieval/worst.json", None, config.neighbours)
    if not examples:
        return None
    verdicts = [thumb.agrees for found in examples for thumb in found.neighbours if thumb.agrees is not None]
    protocol = run.metrics.get("retrieval", {}).get("protocol")
    return {
        "examples": examples,
        "worst": worst,
        "agree": sum(verdicts),
        "total": len(verdicts),
        "queries": protocol.get("queries", 0) if isinstance(protocol, Mapping) else 0,
        **_retrieval(run.metrics.get("retrieval", {}), protocol),
    }


def _retrieval(found: Mapping[str, Any], protocol: Any) -> dict[str, Any]:
    """Retrieval over all queries: the table's columns, and its rows of a name and a value for each column."""
    ks = protocol.get("ks") or () if isinstance(protocol, Mapping) else ()
    names = {f"recall_{k}": f"Recall@{k}" for k in ks}
    names |= {"map": "Mean average precision", "r_precision": "R-precision"}
    columns = [series for series, prefix in PREFIX.items() if is_number(found.get(f"{prefix}map"))]
    rows = {
        name: {series: found.get(PREFIX[series] + key) for series in columns} for key, name in names.items()
    }
    whole = {name: values for name, values in rows.items() if all(map(is_number, values.values()))}
    return {"columns": columns, "rows": whole if columns and isinstance(protocol, Mapping) else {}}


def _found(run: Run, path: str, queries: int | None, most: int) -> list[Found]:
    """The first queries of a file and what they found, as pictures; empty where these cannot be read."""
    entries: list[_Entry] = run.load(path, lambda file: _entries(file, most), [])
    shown = entries[:queries]
    images = run.images("test", [query for query, _ in shown], 96)
    wanted = sorted({place for _, nearest in shown for place, _ in nearest})
    stored = run.images("train", wanted, 96)
    if images is None or stored is None:
        return []
    at = {place: (image, label) for place, image, label in zip(wanted, *stored, strict=True)}
    found = []
    for (_, nearest), image, label in zip(shown, *images, strict=True):
        neighbours = [
            _thumb(
                run,
                *at[place],
                f"{similarity:.2f}".lstrip("0"),
                agrees=label == at[place][1] if label >= 0 and at[place][1] >= 0 else None,
            )
            for place, similarity in nearest
        ]
        found.append(Found(query=_thumb(run, image, label, "test"), neighbours=neighbours))
    return found


def _entries(path: Path, most: int) -> list[_Entry]:
    return [
        (
            int(entry["query"]),
            [
                (int(place), float(similarity))
                for place, similarity in zip(entry["neighbours"], entry["similarity"], strict=True)
            ][:most],
        )
        for entry in json.loads(path.read_text())
    ]


def _thumb(run: Run, image: Image.Image, label: int, below: str, *, agrees: bool | None = None) -> Thumb:
    return Thumb(
        uri=data_uri(image, lossless=6000),
        width=image.width,
        height=image.height,
        name=run.class_name(label),
        below=below,
        agrees=agrees,
    )
