"""`sslpipe check` finds what would stop a run, and says it in one line."""

from __future__ import annotations

import collections
import copy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc_project import TINY
from PIL import Image

from sslpipe.check import check, check_packages, check_project
from sslpipe.cli import main
from sslpipe.console.errors import UserError
from sslpipe.settings import load

DiskUsage = collections.namedtuple("DiskUsage", "total used free")


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
        params.setdefault(section, {})[key] = value
    Path("params.yaml").write_text(yaml.safe_dump(params))


def test_a_good_project_passes_and_shows_the_resolved_recipe(small_project: Path) -> None:
    said = "\n".join(check())
    assert "every key and value is known" in said
    assert "rotation: 10   (paper: 0)" in said
    assert "2 classes" in said


def test_server_that_is_away_is_a_line_and_no_error(
    small_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["check"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("tracking: "))
    assert "http://127.0.0.1:9 does not take their records (connection refused)" in line
    assert "sslpipe sync" in line


def test_repository_that_git_refuses_is_said_with_the_command(
    small_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own, for tests
    note = list(check_project())[1]
    assert "`dvc exp` fails" in note
    assert note.endswith(f"run `git config --global --add safe.directory {small_project}`")


@pytest.mark.parametrize("compiled", [True, False])
def test_packages_that_are_compiled_again_and_again_are_said(
    small_project: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    (small_project / "torch.pyc").touch()
    cached = small_project / ("torch.pyc" if compiled else "missing.pyc")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr("sslpipe.check.cache_from_source", lambda path: str(cached))
    told = "\n".join(check_packages(load("params.yaml")))
    assert ("PYTHONDONTWRITEBYTECODE is set" in told) is not compiled


def test_what_evaluations_read_besides(small_project: Path) -> None:
    (small_project / "voc" / "JPEGImages").mkdir(parents=True)
    set_params(
        {
            "transfer__enabled": True,
            "detect__enabled": True,
            "detect__scenes": {"root": str(small_project / "voc")},
        }
    )
    said = list(check())
    assert "  transfer reads other data: source folder, count 60" in said
    assert f"  detect reads other data: folder {small_project / 'voc'}, layout voc" in said


def test_what_evaluations_will_do_is_said_in_one_line(small_project: Path) -> None:
    set_params({"diagnostics__enabled": True, "diagnostics__images": 12})
    assert "evaluations: knn, linear, finetune, retrieval, diagnostics" in list(check())
    for path in Path("data/raw/digits").glob("*/*.png"):
        path.rename(f"data/raw/digits/{path.parent.name}{path.name}")
    for label in ("a", "b"):
        Path("data/raw/digits", label).rmdir()
    (line,) = (line for line in check() if line.startswith("evaluations: "))
    assert line.startswith("evaluations: diagnostics; skipped: ")
    assert "knn, as the train images have no labels" in line
    set_params({f"{name}__enabled": False for name in ("knn", "linear", "finetune", "retrieval")})
    assert "evaluations: none" in list(check())


def test_every_section_with_a_device_is_looked_at(small_project: Path) -> None:
    for section in ("embed", "knn", "retrieval", "robustness"):
        set_params({f"{section}__device": "cuda:7"})
        with pytest.raises(UserError, match="no GPU"):
            list(check())


def test_whose_settings_a_method_has_is_said(small_project: Path) -> None:
    said = "its settings: {} (pretrain.defaults: {}), changed by methods.simclr"
    assert "  " + said.format("its paper's", "paper") in list(check())
    set_params({"pretrain__defaults": "small"})
    assert "  " + said.format("those for small data", "small") in list(check())


def test_how_many_processes_will_train(small_project: Path) -> None:
    assert "processes: 1" in list(check())
    set_params({"pretrain__devices": 5})
    said = list(check())
    assert "processes: 5, 6 images of each batch a process" in said
    assert any(line.startswith("  note: 6 images at a time") for line in said)
    assert "  each process has a copy of it (ddp)" in said


def test_how_images_will_be_read(small_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        return next(line for line in check() if line.startswith("reading"))

    assert said() == "reading: 1 webdataset files to train on, resident (in memory they would be 0.00 GB)"
    set_params({"shard__format": "ffcv", "shard__shard_size": 7})
    monkeypatch.setattr("sslpipe.data.resident.available_memory", lambda: 45 * 16 * 16 * 3)
    assert "7 ffcv files to train on, streaming" in said()
    set_params({"loader__reader": "resident"})
    monkeypatch.setattr("sslpipe.data.resident.available_memory", lambda: 1000)
    with pytest.raises(
        UserError, match=r"loader\.reader is resident, but 44 canvases need .* set it to auto"
    ):
        list(check())
    set_params({"shard__format": "ffcv", "shard__pixels": True})
    monkeypatch.setattr("sslpipe.check.shutil.disk_usage", lambda path: DiskUsage(1 << 31, 0, 1 << 30))
    list(check())
    monkeypatch.setattr("sslpipe.check.LEAST_FREE_BYTES", 0)
    monkeypatch.setattr("sslpipe.check.shutil.disk_usage", lambda path: DiskUsage(1 << 31, 0, 1000))
    with pytest.raises(UserError, match=r"shard\.pixels would need"):
        list(check())
    set_params({"shard__executor": "ray"})
    monkeypatch.setattr("sslpipe.check.version_of", lambda name: None if name == "ray" else "1")
    with pytest.raises(UserError, match=r"shard\.executor is ray, which is not installed"):
        list(check())


def test_quiet_says_nothing(
    small_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslpipe.check.look", None)  # what would not be said is not looked for
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
        ({"pretrain__devices": 4}, "4 processes cannot share evenly: set it to 28 or 32, or train in 3"),
        ({"pretrain__devices": 0}, "pretrain.devices"),
        ({"pretrain__devices": 2, "pretrain__accumulate": 2}, "15 images of a batch of 30"),
        ({"pretrain__devices": 2, "pretrain__sharding": "fsdp"}, "small_resnet is none"),
        ({"pretrain__cluster": {"nodes": 2}}, "pretrain.cluster.endpoint"),
        ({"pretrain__cluster": {"endpoint": "host"}}, "pretrain.cluster.endpoint"),
        ({"pretrain__launch": "slurm"}, "pretrain.devices is auto"),
        ({"transfer__enabled": True, "transfer__root": "data/raw/nowhere"}, "nowhere"),
        ({"transfer__enabled": True, "transfer__source": None}, "transfer: enabled, but source is null"),
        ({"segment__enabled": True, "segment__scenes": {"root": "data/raw"}}, "set it to such a folder"),
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


def test_a_queue_that_is_long_for_the_images_is_told_before_training(small_project: Path) -> None:
    set_params({"pretrain__method": "moco", "pretrain__batch_size": 5})
    said = "\n".join(check())
    assert "MoCo's queue of 60 keys is more than a quarter of the" in said
    assert "set methods.moco.queue to 10" in said


def test_what_is_left_out_has_its_default(small_project: Path) -> None:
    params = {section: TINY[section] for section in ("data", "shard", "views", "pretrain")}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert "evaluations: knn" in "\n".join(check())
