"""`sslpipe check` finds what would stop a run, and says it in one line."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc_project import TINY
from PIL import Image

from sslpipe.check import check
from sslpipe.cli import main


@pytest.fixture
def small_project(project: Path) -> Path:
    """A git repository with tiny settings and a few images."""
    subprocess.run(["git", "init", "-q"], check=True)
    Path("dvc.yaml").write_text("stages: {}\n")
    for label in ("a", "b"):
        folder = Path("data/raw/digits", label)
        folder.mkdir(parents=True)
        for number in range(30):
            Image.fromarray(np.full((16, 16), 4 * number, np.uint8)).save(folder / f"{number}.png")
    Path("data/raw/empty").mkdir()
    set_params({})
    return project


def set_params(changes: dict[str, object]) -> None:
    params = copy.deepcopy(TINY)
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        params[section][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_a_good_project_passes_and_shows_the_resolved_recipe(small_project: Path) -> None:
    said = "\n".join(check())
    assert "every key and value is known" in said
    assert "rotation: 10   (paper: 0)" in said
    assert "2 classes" in said


def test_quiet_says_nothing(small_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pretrain__method": "simclrr"}, "did you mean `simclr`?"),
        ({"pretrain__epoch": 3}, "did you mean `epochs`?"),
        ({"pretrain__epochs": "ten"}, "should be a valid integer"),
        ({"pretrain__backbone": "small_resnt"}, "small_resnet"),
        ({"pretrain__batch_size": 5000}, "set it lower"),
        ({"pretrain__backbone_options": {"widht": 8}}, "width"),
        ({"pretrain__method": "mae", "pretrain__backbone": "small_resnet"}, "small_resnet"),
        ({"pretrain__method": "mae", "views__size": 18}, "18"),
        ({"views__recipe": {"hflp": 1}}, "hflip"),
        ({"views__recipe": {"hflip": 2}}, "hflip"),
        ({"data__root": "data/raw/nowhere"}, "nowhere"),
        ({"data__root": "data/raw/empty"}, "empty"),
        ({"pretrain__device": "cuda:7"}, "no GPU"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    small_project: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], said: str
) -> None:
    set_params(change)
    assert main(["check", "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sslpipe check: ")
    assert said in line
