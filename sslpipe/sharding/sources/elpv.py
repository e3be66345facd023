"""Solar cells: 2 624 photovoltaic cells in the light they emit (Deitsch et al. 2019), in the package elpv-dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sslpipe.console.errors import UserError
from sslpipe.core import scratch
from sslpipe.sharding.settings import Declaration, Settings
from sslpipe.sharding.source import File, Source, package_folder, split

SOURCE = Declaration(about="solar cells")

#: Cells are grey; cracks are small, and little of one is left in a crop of a twelfth.
_RECIPE: dict[str, Any] = {"scale": [0.3, 1.0], "grey": 0.0, "jitter": {"saturation": 0.0, "hue": 0.0}}


def _folder() -> Path:
    missing = "data.source elpv needs the package elpv-dataset: run `pip install elpv-dataset`"
    return package_folder("elpv_dataset", missing) / "data"


def _rows() -> list[tuple[str, float]]:
    """Path of each image below the package's folder, and the probability that its cell is defective."""
    path = _folder() / "labels.csv"
    try:
        lines = path.read_text().split("\n")
    except OSError as error:
        raise UserError(f"the installed elpv-dataset has no {path}: install it again") from error
    return [(name, float(chance)) for name, chance, _ in (line.split() for line in lines if line.strip())]


def digest(config: Settings) -> dict[str, Any]:
    """Digest and count of the cells."""
    rows = _rows()
    return {"digest": scratch.file_digest(_folder() / "labels.csv"), "count": len(rows)}


def open_source(config: Settings, seed: int) -> Source:
    """All cells, in two splits drawn by seed; a cell is defective where its probability is above one half."""
    folder = _folder()
    items = [
        File(f"elpv/{Path(name).stem}", int(chance > 0.5), str(folder / name)) for name, chance in _rows()
    ]
    return Source("elpv", ("functional", "defective"), split(items, config.test_fraction, seed), _RECIPE)
