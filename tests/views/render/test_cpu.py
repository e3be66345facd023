"""The compiled renderer against the reference, at the ends of what it may be given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from view_oracle import CHANCES

from sslpipe.views import Jitter, ViewSpec
from sslpipe.views.drawing import draw
from sslpipe.views.render import cpu, reference
from sslpipe.views.table import Table

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
JITTER = Jitter(probability=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
EVERYTHING = ViewSpec(
    size=20, scale=(0.1, 1), vflip=0.5, quarter_turns=True, rotation=20, jitter=JITTER, **CHANCES, **RAW,
)  # fmt: skip


def noise(n: int, resolution: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, resolution, resolution, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def table_of(spec: ViewSpec, size: np.ndarray, epoch: int = 0) -> Table:
    return draw(
        spec, seed=1, epoch=epoch, index=np.arange(len(size)), view=0, size=np.asarray(size, dtype=np.int32)
    )


def off(pixels: torch.Tensor, table: Table, spec: ViewSpec) -> float:
    difference = cpu.render(pixels, table, spec) - reference.render(pixels, table, spec)
    return float(difference.abs().max())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(1, 64), width=st.integers(1, 64), size=st.integers(1, 70), seed=st.integers(0, 99),
    cubic=st.booleans(), early=st.booleans(), rotation=st.sampled_from([0.0, 0.0, 10.0, 180.0]),
    ratio=st.sampled_from([(0.75, 1.33), (0.01, 0.02), (50.0, 99.0)]),
)  # fmt: skip
def test_any_size_any_operation(
    height: int, width: int, size: int, seed: int, cubic: bool, early: bool, rotation: float, ratio: tuple
) -> None:
    order = ("grey", "jitter", "crop", "solarize", "blur") if early else EVERYTHING.order
    spec = EVERYTHING.model_copy(
        update={
            "size": size, "rotation": rotation, "ratio": ratio, "order": order,
            "interpolation": "bicubic" if cubic else "bilinear",
        }
    )  # fmt: skip
    extent = max(height, width)
    table = draw(
        spec, seed=seed, epoch=0, index=np.arange(3), view=0, size=np.full((3, 2), (height, width), np.int32)
    )
    # Noise is the hardest picture for a rotation: a thousandth of a pixel is a thousandth of full scale.
    assert off(noise(3, extent, seed), table, spec) <= (1e-4 if rotation else 5e-6)


@pytest.mark.parametrize("size", [32, 33, 40])
def test_contrast_after_blur(size: int) -> None:
    order = ("crop", "blur", "solarize", "grey", "jitter")
    spec = EVERYTHING.model_copy(update={"size": size, "rotation": 0.0, "blur": 1.0, "order": order})
    pixels, table = noise(20, 64), table_of(spec, np.full((20, 2), 64))
    assert off(pixels, table, spec) <= 5e-6
    assert torch.equal(cpu.render(pixels, table, spec), cpu.render(pixels, table, spec))


@pytest.mark.parametrize("shape", [(4096, 3), (3, 4096), (1, 4096), (1000, 2)])
def test_long_thin_images(shape: tuple[int, int]) -> None:
    extent = max(shape)
    pixels = torch.zeros(1, extent, extent, 3, dtype=torch.uint8)
    pixels[0, : shape[0], : shape[1]] = noise(1, max(shape[0], shape[1], 1))[0, : shape[0], : shape[1]]
    for interpolation in ("bilinear", "bicubic"):
        spec = ViewSpec(size=24, interpolation=interpolation, ratio=(1e-4, 1e4), **RAW)  # type: ignore[arg-type]
        assert off(pixels, table_of(spec, np.array([shape])), spec) <= 5e-6


def test_a_batch_of_none_and_of_one() -> None:
    for n in (0, 1):
        out = cpu.render(noise(n, 16), table_of(EVERYTHING, np.full((n, 2), 16)), EVERYTHING)
        assert out.shape == (n, 3, 20, 20)
        assert torch.isfinite(out).all()


def test_bits_depend_neither_on_batch_nor_order_nor_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, table = noise(40, 32), table_of(EVERYTHING, np.full((40, 2), 32))
    whole = cpu.render(pixels, table, EVERYTHING)
    rows = np.array([7, 3, 39, 3])
    some = cpu.render(pixels, table[rows], EVERYTHING)
    assert torch.equal(some, whole[rows])
    for count in (
        1,
        2,
        5,
    ):  # torch itself keeps its threads: with others a child that is forked later has none
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert torch.equal(cpu.render(pixels, table, EVERYTHING), whole)


def test_canvases_that_are_not_contiguous() -> None:
    pixels = noise(6, 32)
    table = table_of(EVERYTHING, np.full((3, 2), 32))
    assert torch.equal(
        cpu.render(pixels[::2], table, EVERYTHING), cpu.render(pixels[::2].contiguous(), table, EVERYTHING)
    )


def test_working_memory_is_kept_and_does_not_grow() -> None:
    pixels, sizes = noise(8, 48), np.full((8, 2), 48)
    cpu.render(pixels, table_of(EVERYTHING, sizes), EVERYTHING)
    kept = cpu._kept.scratch.ctypes.data, cpu._kept.scratch.size
    for epoch in range(300):
        cpu.render(pixels, table_of(EVERYTHING, sizes, epoch), EVERYTHING)
    grown = cpu._kept.scratch.size
    for epoch in range(300, 600):
        cpu.render(pixels, table_of(EVERYTHING, sizes, epoch), EVERYTHING)
    assert cpu._kept.scratch.size == grown <= 2 * kept[1]


def test_a_forked_child_has_threads_of_its_own() -> None:
    code = """
import os, numpy as np, torch
from sslpipe.views import ViewSpec
from sslpipe.views.render import cpu
from sslpipe.views.table import Table
torch.set_num_threads(2)
box = np.tile(np.array([[0, 0, 8, 8]], dtype=np.int32), (4, 1))
def render():
    return cpu.render(torch.full((4, 8, 8, 3), 9, dtype=torch.uint8), Table.plain(box, box[:, 2:]), ViewSpec(size=8))
expected = render()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(render(), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120).returncode == 0


def test_compiled_code_is_found_again_by_a_copy_of_the_package(tmp_path: Path) -> None:
    """As a temporary experiment's workspace is: another path, the same bytes."""
    import shutil

    import sslpipe

    shutil.copytree(Path(sslpipe.__file__).parent, tmp_path / "sslpipe")
    code = (
        "from sslpipe.views.render import cpu; from sslpipe.views.render.cpu import view; cpu.warm_up(); "
        "print(cpu.__file__, sum(view.render_rows.stats.cache_hits.values()))"
    )
    cpu.warm_up()
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert said[0].startswith(str(tmp_path))
    assert said[1] == "1"


def test_without_a_place_for_the_cache_it_still_works(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    # Any function stands for the loops themselves, which take a quarter of a minute to compile.
    code = (
        "from sslpipe.core import numba as compiling; from sslpipe.views.render.cpu import view; "
        "from numba.core.caching import NullCache; "
        "print(compiling._place(view.render_rows.py_func), isinstance(view.render_rows._cache, NullCache), "
        "compiling.entry(lambda x: x + 1)(1))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file")}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said.split() == ["None", "True", "2"]
