"""What a new user gets wrong: each a clear sentence, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from dvc_project import Project

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]


def refused(project: Project, *command: str) -> str:
    done = project.run(*command, check=False)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def test_check_is_content_with_a_good_project_and_shows_the_resolved_recipe(fresh: Project) -> None:
    said = fresh.run("sslpipe", "check").stdout
    assert "every key and value is known" in said
    assert "rotation: 10   (paper: 0)" in said
    assert fresh.run("sslpipe", "check", "--quiet").stdout == ""


def test_a_stage_says_the_same_in_one_line(fresh: Project, tmp_path: Path) -> None:
    project = fresh.clone(tmp_path / "project")
    project.set(data__sorce="folder")
    assert "data: unknown key `sorce`; did you mean `source`?" in refused(project, "dvc", "repro")


def test_an_unknown_method_is_refused_with_the_list_in_an_experiment_too(
    fresh: Project, tmp_path: Path
) -> None:
    project = fresh.clone(tmp_path / "project")
    said = refused(project, "dvc", "exp", "run", "-S", "pretrain.method=dinosaur")
    assert "source failed: params.yaml: pretrain.method: unknown value `dinosaur`" in said
    assert "choose from" in said
    assert "simclr" in said


def test_not_a_git_clone(fresh: Project, tmp_path: Path) -> None:
    project = fresh.clone(tmp_path / "project")
    shutil.rmtree(project.folder / ".git")
    assert "is not a git clone" in refused(project, "sslpipe", "check")


def test_a_stale_lock_of_dvc_is_named_with_its_remedy(fresh: Project, tmp_path: Path) -> None:
    project = fresh.clone(tmp_path / "project")
    lock = project.folder / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = {"data/source.json": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}}
    lock.write_text(json.dumps(held))
    said = refused(project, "sslpipe", "check")
    assert ".dvc/tmp/rwlock" in said
    assert "delete that file" in said


def test_broken_images_are_listed_and_the_run_goes_on(fresh: Project, tmp_path: Path) -> None:
    project = fresh.clone(tmp_path / "project")
    root = project.folder / "data/raw/digits"
    whole = min(root.rglob("*.png"))
    (root / "0/text.jpg").write_text("not an image")
    (root / "1/cut.png").write_bytes(whole.read_bytes()[:100])
    (root / "7/empty.png").touch()
    project.repro("shard")
    rejects = project.json("data/shards/manifest.json")["rejects"]
    assert {reject["key"] for reject in rejects["listed"]} == {"0/text.jpg", "1/cut.png", "7/empty.png"}
    assert project.json("metrics/shard.json")["shard"]["rejects"] == 3


def test_only_broken_images_are_an_error(fresh: Project, tmp_path: Path) -> None:
    project = fresh.clone(tmp_path / "project")
    for image in (project.folder / "data/raw/digits").rglob("*.png"):
        image.write_text("no")
    assert "shard failed:" in refused(project, "dvc", "repro", "shard")


def test_a_damaged_shard_is_noticed(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    shard = project.folder / "data/shards/train/train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.unlink()
    shard.write_bytes(content)
    said = refused(project, "python", "-m", "stages.embed")
    assert "train-000000.tar" in said
    assert "embed failed:" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_and_nothing_is_lost(finished: Project, tmp_path: Path) -> None:
    project = finished.clone(tmp_path / "project")
    models = project.folder / "models"
    shutil.rmtree(models)
    models.mkdir()
    if os.system(f"mount -t tmpfs -o size=16k tmpfs {models} 2>/dev/null"):
        pytest.skip("this machine does not let tests mount a small disk")
    try:
        said = refused(project, "python", "-m", "stages.pretrain")
    finally:
        os.system(f"umount {models}")
    assert "the disk is full" in said
    assert project.run("python", "-m", "stages.pretrain", check=False).returncode == 0
