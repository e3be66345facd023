from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
def hosts() -> Iterator[tuple[list[str], list[str], str]]:
    """What runs a command on each of two hosts, and the first one's address: network namespaces with a cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts are network namespaces, which take root and iproute2")
    names = [f"sslpipe-{os.getpid()}-{letter}" for letter in "ab"]
    ends, addresses = [f"v{os.getpid()}{letter}" for letter in "ab"], ["10.213.7.1", "10.213.7.2"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip(
                "link",
                "add",
                ends[0],
                "netns",
                names[0],
                "type",
                "veth",
                "peer",
                "name",
                ends[1],
                "netns",
                names[1],
            )
            for name, end, address in zip(names, ends, addresses, strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
                ip("-n", name, "link", "set", end, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(
                f"this machine does not let tests make network namespaces: {error.stderr.decode().strip()}"
            )
        first, second = (["ip", "netns", "exec", name] for name in names)
        yield first, second, addresses[0]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def toy_reader() -> Any:
    from support import ToyReader

    return ToyReader()
