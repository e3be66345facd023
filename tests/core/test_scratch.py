from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.core import scratch


def test_root_is_dvcs_or_the_folder_of_dvc_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").touch()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert scratch.root() == tmp_path
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert scratch.root() == Path("/elsewhere")


def test_atomic_write_replaces_whole_files_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    scratch.atomic_write(path, "one")
    scratch.atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_atomic_write_through_a_read_only_hardlink_keeps_the_other_name(tmp_path: Path) -> None:
    # DVC links outputs to its cache and makes them read-only: writing in place would spoil the cache.
    cached, linked = tmp_path / "cached", tmp_path / "linked"
    cached.write_text("old")
    os.link(cached, linked)
    cached.chmod(0o444)
    scratch.atomic_write(linked, "new")
    assert (cached.read_text(), linked.read_text()) == ("old", "new")


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")]
)
def test_a_failing_disk_is_explained_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=said):
        scratch.atomic_write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert scratch.digest({"a": 1, "b": [2]}) == scratch.digest({"b": [2], "a": 1})
    assert scratch.digest({"a": 1}) != scratch.digest({"a": 2})


def test_a_lock_is_waited_for_and_freed_by_a_kill(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, time\nfrom sslpipe.core.scratch import locked\n"
        f"with locked({str(lock)!r}, 'x'):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = subprocess.Popen(
        [sys.executable, "-c", code.replace("time.sleep(60)", "pass")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiter.stderr is not None
    assert "waiting for x" in waiter.stderr.readline()
    time.sleep(0.2)
    assert waiter.poll() is None
    holder.kill()
    holder.wait()
    holder.stdout.close()
    out, _ = waiter.communicate(timeout=30)
    assert out == "held\n"
