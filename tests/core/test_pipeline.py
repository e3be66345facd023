from __future__ import annotations

from pathlib import Path

import pytest

from sslpipe.core import pipeline
from sslpipe.core.pipeline import Stage, code_digests

STAGE = Stage(
    name="knn",
    address="features@knn",
    deps=(),
    outs=(),
    code=("stages/knn.py", "sslpipe/recipes", "sslpipe/methods/base", "sslpipe/methods/<method>.py"),
    settings=(),
)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    methods = [f"sslpipe/methods/{name}.py" for name in ("base/method", "base/deep/x", "byol", "mae")]
    others = ("sslpipe/recipes/byol.yaml", "sslpipe/tracking/record.py", "stages/knn.py", "stages/report.py")
    for name in (*methods, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("stages/knn.py", ["stages/knn.py"]),
        ("sslpipe/methods/base/method.py", ["sslpipe/methods/base"]),
        ("sslpipe/methods/base/deep/x.py", ["sslpipe/methods/base"]),
        ("sslpipe/methods/base/new.py", ["sslpipe/methods/base"]),
        ("sslpipe/methods/base/notes.md", []),
        ("sslpipe/methods/byol.py", ["sslpipe/methods/byol.py"]),
        ("sslpipe/methods/mae.py", []),
        ("sslpipe/methods/new.py", []),
        ("sslpipe/recipes/byol.yaml", ["sslpipe/recipes"]),
        ("sslpipe/tracking/record.py", []),
        ("stages/report.py", []),
        ("README.md", []),
    ],
)
def test_code_digests_change_with_what_can_change_a_result(code: Path, name: str, changed: list[str]) -> None:
    before = code_digests(STAGE, "byol", code)
    pipeline._digest.cache_clear()
    (code / name).write_text("x = 2\n")
    after = code_digests(STAGE, "byol", code)
    assert [room for room, digest in after.items() if digest != before[room]] == changed
