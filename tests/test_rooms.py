"""The rooms of the house: imports run one way, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_project import ROOT

#: From the ground up: a room imports from itself and from rooms before it.
ROOMS = (
    "console", "core", "shards", "sharding", "data", "views", "recipes", "networks", "losses", "measures", "methods",
    "export", "training", "scenes", "evals", "tracking", "report", "settings", "resolve", "compare", "presets",
    "describe", "check", "advice", "cli", "stages",
)  # fmt: skip
#: What an import of the package itself stands for: its lazily imported names.
PACKAGE = {"load_encoder": "export", "__version__": "console"}


def modules() -> dict[str, Path]:
    """All modules of sslpipe and stages, by name."""
    files = [*ROOT.glob("sslpipe/**/*.py"), *ROOT.glob("stages/*.py")]
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in named.items()}


MODULES = modules()


def imports(file: Path) -> Iterator[tuple[ast.stmt, str, str]]:
    """Each import of ours in a file: where, the module, and the name taken from it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("sslpipe", "stages"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (node, whole, "") if whole in MODULES else (node, str(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ("sslpipe", "stages"):
                    yield node, alias.name, ""


def room_of(module: str, name: str = "") -> str | None:
    """The room of a module, or of what is taken from the package itself."""
    parts = module.split(".")
    if parts[0] == "stages":
        return "stages"
    return parts[1] if len(parts) > 1 else PACKAGE.get(name)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_from_its_room_and_those_below(module: str) -> None:
    own = room_of(module)
    if own is None or own == "__main__":
        return  # the package's own file gives its names lazily, and runs the command line
    for node, taken, name in imports(MODULES[module]):
        other = room_of(taken, name)
        if other is not None:
            assert ROOMS.index(other) <= ROOMS.index(own), f"line {node.lineno}: {own} imports from {other}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {taken for _, taken, _ in imports(file) if taken != name and taken != "sslpipe"}
        for name, file in MODULES.items()
    }
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in circles, or above one: {sorted(left)}"


def test_every_module_lies_in_a_known_room() -> None:
    rooms = {room_of(module) for module in MODULES} - {None, "__main__"}
    assert rooms <= set(ROOMS)
