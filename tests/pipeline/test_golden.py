"""No bit of any result may change unawares: what tiny runs of every method and evaluation gave is recorded.

The last bits of a result depend on the processor and on the versions of the libraries. So the runs are made in an
environment in which libraries use no newer instructions than all x86 processors have, and every recording is kept
under a digest of a computation without sslpipe (`golden/probe.py`). On a machine that gives another digest the tests
are skipped.

After a change that is meant to change results, or on a machine without a recording:

    SSLPIPE_GOLDEN=record python -m pytest -n 0 tests/pipeline/test_golden.py

writes this machine's recording beside the others in `golden/recorded.json`. A commit that changes a digest or a number
has to say which one and why. What is not recorded, such as a new method, is not compared.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc_project import OFF, Project
from PIL import Image

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "golden"
RECORDED = FOLDER / "recorded.json"
EVALUATIONS = ["knn", "retrieval", "linear", "finetune", *OFF]
TIMES = {"pretrain.seconds", "pretrain.images_per_second"}

#: One thread, and in every library the code that runs on all x86 processors, which gives the same bits on all of them.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Prescott",  # numpy's and scipy's products of matrices
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
    # Loops compiled for another processor are not to be taken from the usual folder.
    "XDG_CACHE_HOME": str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslpipe" / "golden"
    ),
    "CUDA_VISIBLE_DEVICES": "",
}

Outcome = dict[str, dict[str, Any]]  # digests and numbers, by name


def numbers(project: Project, name: str) -> dict[str, float]:
    """All that a stage measured: `knn.top1`, `linear.few_labels.30.top1`, … The only place that knows the files."""
    result = project.json(f"runs/{name}.json")["result"]
    assert result["skipped"] is None
    return {key: value for key, value in _flat(result["metrics"], name) if key not in TIMES}


def _flat(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping | list):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(each, f"{name}.{key}")
    elif isinstance(value, int | float):
        yield name, float(value)


def tint(folder: Path) -> None:
    """Give the images of a folder colours, each its own: grey ones would leave much of what the code does unseen."""
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        grey = np.asarray(Image.open(path).convert("L"), np.uint16)[..., None]
        colour = np.array([255 - 7 * number % 160, 95 + 11 * number % 160, 95 + 5 * number % 160], np.uint16)
        Image.fromarray((grey * colour // 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def probe() -> dict[str, str]:
    """What this machine makes of a fixed computation; skips where no recording belongs to it."""
    project = Project(FOLDER, ENVIRONMENT)
    found: dict[str, str] = json.loads(_output(project, "probe.py"))
    if not _recording() and found["probe"] not in _recorded():
        pytest.skip(
            "this processor or a library's version rounds otherwise than those that the golden digests were made on; "
            "record with SSLPIPE_GOLDEN=record"
        )
    return found


@pytest.fixture(scope="module")
def outcome(probe: dict[str, str], fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Digests and numbers of this code."""
    project = fresh.clone(tmp_path_factory.mktemp("golden") / "project")
    project.environment |= ENVIRONMENT
    tint(project.folder / "data" / "raw")
    project.set(evaluate__seeds=2, **{f"{name}__enabled": True for name in OFF})
    script = [str(FOLDER / "runs.py"), *_commands(project)]
    digests = json.loads(_output(project, *script, PYTHONPATH=str(project.folder)))
    measured = dict(
        each for name in ("shard", "pretrain", *EVALUATIONS) for each in numbers(project, name).items()
    )
    for folder in sorted((project.folder.parent / "methods").iterdir()):
        of_method = numbers(Project(folder), "pretrain")
        measured |= {f"{folder.name}.{key}": value for key, value in of_method.items()}
    found: Outcome = {"digests": digests, "numbers": measured}
    if _recording():
        kept = {**_recorded(), probe["probe"]: {"made_on": probe["made_on"], **found}}
        RECORDED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return found


@pytest.mark.parametrize("kind", ["digests", "numbers"])
def test_no_bit_has_changed(kind: str, outcome: Outcome, probe: dict[str, str]) -> None:
    before, now = _recorded()[probe["probe"]][kind], outcome[kind]
    # By their text, as NaN does not equal itself.
    differing = [name for name in before if repr(before[name]) != repr(now.get(name))]
    said = [f"  {name}: {before[name]} is now {now.get(name, 'not there')}" for name in differing]
    if said:
        pytest.fail(f"{len(said)} of {len(before)} {kind} differ:\n" + "\n".join(said), pytrace=False)


def _commands(project: Project) -> list[str]:
    """What `dvc repro` runs, without `exec python -m`, in dvc.yaml's order; the report only shows what there is."""
    found = []
    for stage in yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"].values():
        command = stage.get("do", stage)["cmd"].removeprefix("exec python -m ")
        found += [command.replace("${item}", item) for item in stage.get("foreach", [""])]
    return [command for command in found if command != "stages.report"]


def _output(project: Project, *script: str, **environment: str) -> str:
    """The last line that a script printed."""
    return project.run(sys.executable, *script, timeout=1800, **environment).stdout.splitlines()[-1]


def _recording() -> bool:
    return os.environ.get("SSLPIPE_GOLDEN") == "record"


def _recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
