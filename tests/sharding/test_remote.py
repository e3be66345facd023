from __future__ import annotations

import functools
import http.server
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.sharding import remote


@pytest.fixture
def tars(project: Path) -> Path:
    folder = project / "tars"
    folder.mkdir()
    for name in ("a-00.tar", "a-01.tar", "b-00.tar", "notes.txt"):
        (folder / name).write_bytes(name.encode())
    return folder


def names(pattern: str) -> list[str]:
    return [Path(name).name for name in remote.expand(pattern, ".tar")]


def test_patterns(tars: Path) -> None:
    assert names("tars") == ["a-00.tar", "a-01.tar", "b-00.tar"]
    assert names("tars/a-{00..01}.tar") == names("tars/a-*.tar") == ["a-00.tar", "a-01.tar"]
    assert names("tars/{b,a}-00.tar") == ["b-00.tar", "a-00.tar"]
    assert names(str(tars / "a-01.tar")) == ["a-01.tar"]
    assert remote.expand("s3://bucket/{x,y}-{8..10}.tar", ".tar") == [
        f"s3://bucket/{letter}-{number}.tar" for letter in "xy" for number in (8, 9, 10)
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("tars/a-{00..03}.tar", r"there is no .*a-02\.tar"),
        ("tars/c-*.tar", r"c-\*\.tar: no \.tar file there"),
        ("nowhere", "there is no .*nowhere"),
        ("tars/{a", "its braces do not fit together"),
        ("pipe:cat x.tar", "addresses of the kind pipe: are not read"),
        ("PIPE:cat x.tar", "addresses of the kind pipe: are not read"),
        ("ftp://host/x.tar", "addresses of the kind ftp: are not read .* add it to data.schemes"),
        ("file:///etc/passwd", "addresses of the kind file: are not read"),
        ("simplecache::s3://x/y.tar", "addresses of the kind simplecache: are not read"),
    ],
)
def test_what_is_not_there_or_not_allowed(tars: Path, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        remote.expand(pattern, ".tar")


def test_other_schemes_when_trusted(tars: Path) -> None:
    assert remote.expand("ftp://host/x.tar", ".tar", ("ftp",)) == ["ftp://host/x.tar"]


@pytest.fixture
def server(tars: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tars)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # fsspec's session is closed at exit
def test_fetching(server: str, tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = remote.expand(f"{server}/a-{{00..01}}.tar", ".tar")
    assert remote.status(addresses[0])[0] == len("a-00.tar")
    place = Path("fetched")
    paths = remote.local([addresses[0]], place)
    before = paths[0].stat().st_mtime_ns
    paths = remote.local([*addresses, str(tars / "b-00.tar")], place)
    assert [path.read_text() for path in paths] == ["a-00.tar", "a-01.tar", "b-00.tar"]
    assert paths[0].stat().st_mtime_ns == before
    assert sorted(path.name for path in place.iterdir()) == ["000000-a-00.tar", "000001-a-01.tar"]
    assert "fetching 1 of 3 files" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_cannot_be_fetched(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    with pytest.raises(UserError, match=r"c\.tar: there is no such file"):
        remote.local([f"{server}/c.tar"], Path("fetched"))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen: the port is nobody else's, and refuses
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/c.tar"
        with pytest.raises(UserError, match=r"cannot be reached .* check the address"):
            remote.local([address], Path("fetched"))
    monkeypatch.setattr(remote, "status", lambda name: (100, ""))
    with pytest.raises(UserError, match="8 of 100 bytes came: run it again"):
        remote.local([f"{server}/a-00.tar"], Path("fetched"))
    assert not list(Path("fetched").iterdir())


def test_a_store_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3fs.*: install what it names"):
        remote.status("s3://bucket/a.tar")
