from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# Toy sizes gain nothing from more threads, and a forked child has none but its own. Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"


#: The longest files first, so that no worker is left with one at the end.
FIRST = (
    "test_repro.py",
    "test_interruptions.py",
    "test_triton.py",
    "test_torchvision_views.py",
    "test_cpu.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> tuple[bool, int]:
        rank = FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST)
        return "pipeline" not in item.path.parts, rank

    items.sort(key=place)  # stable
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as project root and working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def toy_reader() -> Any:
    from support import ToyReader

    return ToyReader()
