"""Sharding by processes: the same bytes, killed and continued."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.sharding import executors, pieces, sources
from sslpipe.sharding import shard as sharding
from sslpipe.shards import manifest

OUT, WORK = Path("data/shards"), Path("work")
SCRIPT = """
import signal, sys
from pathlib import Path
from sslpipe.sharding import pieces, shard, sources

def main():
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    config = shard.Config(resolution=16, shard_size=5, workers=int(sys.argv[1]))
    shard.shard(config, source, Path("data/shards"), 0, Path("work"))

whole = pieces.make

def make(piece, *args, **options):
    # In every process, since each runs this script: all stop for good within any piece but the first ones of train.
    if piece.split == "test" or piece.number >= int(sys.argv[2]):
        options["tick"] = signal.pause
    return whole(piece, *args, **options)

if len(sys.argv) > 2:
    pieces.make = make
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def photos(lay: Callable[..., Path]) -> Path:
    Path("script.py").write_text(SCRIPT)
    return lay(*(f"{'ab'[n % 2]}/{n}.png" for n in range(60)), {"a/bad.png": b"no"})


def run(out: Path = OUT, work: Path | None = None, **settings: object) -> manifest.Manifest:
    source = sources.open_source(sources.Config(source="folder", root="photos"), 0)
    return sharding.shard(sharding.Config(resolution=16, shard_size=5, **settings), source, out, 0, work)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_processes_write_the_same_bytes(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(Path("one"), workers=1)
    capfd.readouterr()
    subprocess.run([sys.executable, "script.py", "3"], check=True)
    assert "shard: 61/61 images" in capfd.readouterr().err
    assert everything(OUT) == everything(Path("one"))
    assert not WORK.exists()


def test_killed_it_goes_on_with_the_shards_it_has(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = run(Path("one"))
    process = stopped_after(3)
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in WORK.rglob("*.tar") if not path.name.startswith(".")}
    assert not (OUT / manifest.NAME).exists()
    made: list[str] = []

    def counted(piece: pieces.Piece, folder: Path, **options: object) -> pieces.Report:
        made.append(piece.name)
        return original(piece, folder, **options)

    original = pieces.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "make", counted)
        capfd.readouterr()
        assert run(work=WORK) == whole
    assert len(made) == 13 - 3
    assert "shard: going on, 3 shards are finished" in capfd.readouterr().err
    assert everything(OUT) == everything(Path("one"))
    assert len(kept) == 3
    for path, written in kept.items():
        assert (OUT / path.relative_to(WORK)).stat().st_mtime_ns == written


def stopped_after(pieces: int) -> subprocess.Popen[bytes]:
    """A process that shards by two others, which have finished so many pieces and stopped within the next ones."""
    process = subprocess.Popen([sys.executable, "script.py", "2", str(pieces)])
    while len(list(WORK.rglob("*.npz"))) < pieces:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_their_parent(photos: Path) -> None:
    process = stopped_after(3)
    command = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    workers = [int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()]
    assert len(workers) >= 2
    process.kill()
    process.wait()
    while any(map(running, workers)):  # without end where they do not end with it
        time.sleep(0.01)


def test_what_a_piece_raises_is_raised(photos: Path) -> None:
    """A disk that is full under the workers ends the work with that word, and keeps what is finished."""
    (OUT / "train").mkdir(parents=True)
    WORK.mkdir()
    (WORK / "test").touch()  # in the way of the test split's folder
    result = subprocess.run([sys.executable, "script.py", "2"], capture_output=True, text=True)
    assert "UserError: writing work/test/test-00000" in result.stderr
    assert not (OUT / manifest.NAME).exists()


def test_few_images_are_made_here(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Iterator[object]:
        raise AssertionError

    monkeypatch.setattr(executors, "_in_processes", never)
    run()
    monkeypatch.setattr(executors, "WORTH_A_PROCESS", 30)
    monkeypatch.setattr(executors, "cores", lambda: 8)
    with pytest.raises(AssertionError):
        run()


def test_without_ray(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="needs the package ray: run `pip install"):
        run(executor="ray")


def test_a_ray_cluster_writes_the_same_bytes(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    run(Path("one"))
    script = Path("script.py").read_text().replace("workers=int(sys.argv[1])", 'workers=2, executor="ray"')
    Path("ray_script.py").write_text(script)
    capfd.readouterr()
    subprocess.run([sys.executable, "-W", "ignore", "ray_script.py"], check=True)
    assert "shard: 61/61 images" in capfd.readouterr().err
    assert everything(OUT) == everything(Path("one"))
    (WORK / "test").mkdir(parents=True)
    (WORK / "test").rmdir()
    (WORK / "test").touch()  # in the way of the test split's folder
    failed = subprocess.run([sys.executable, "ray_script.py"], capture_output=True, text=True)
    assert "UserError: writing" in failed.stderr
