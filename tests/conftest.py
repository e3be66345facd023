from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Toy sizes gain nothing from more threads, and a forked child has none but its own. Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

# Hundreds of processes are started here. Where Python may not leave what it compiles beside the sources, each would
# compile torch again, which takes as long as loading it: a folder of this session's own takes it.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="pycache-")
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)


#: The longest files first, so that no worker is left with one at the end. The second needs no project, for which it
#: would have to wait until the first has run it.
FIRST = ("test_switching.py", "test_triton.py", "test_repro.py", "test_interruptions.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> tuple[int, bool]:
        rank = FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST)
        return rank, "pipeline" not in item.path.parts

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
