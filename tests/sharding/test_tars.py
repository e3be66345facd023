from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sslpipe.console.errors import UserError
from sslpipe.sharding import tars
from sslpipe.shards import images

Member = tuple[str, bytes] | tarfile.TarInfo


def make(path: Path, *members: Member, kind: str = "w") -> Path:
    with tarfile.open(path, kind) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def found(path: Path) -> dict[str, tuple[object, str]]:
    return {member.key: (member.label, member.fault) for member in tars.scan(path, "x").members}


def test_we_read_what_the_webdataset_package_writes(
    tmp_path: Path, picture: Callable, encoded: Callable
) -> None:
    import webdataset as wds

    data = [encoded(picture(n), "JPEG") for n in range(5)]
    with wds.TarWriter(str(tmp_path / "x.tar")) as writer:
        for n, image in enumerate(data):
            label = {"cls": n} if n % 2 else {"json": {"label": n, "caption": "five"}}
            writer.write({"__key__": f"some/{n}", "jpg": image, "txt": "words", **label})
    contents = tars.scan(tmp_path / "x.tar", "x")
    assert [(m.key, m.label, m.fault) for m in contents.members] == [(f"x/some/{n}", n, "") for n in range(5)]
    assert [member.read(10**6) for member in contents.members] == data
    assert contents.ignored == Counter({".txt": 5})
    assert len(contents.members[0].read(100)) == 101


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (("a.cls", b"7"), 7),
        (("a.cls", b"7\n"), 7),
        (("a.cls", b"-1"), None),
        (("a.json", b'{"cls": 3}'), 3),
        (("a.json", b'{"class": "cat", "n": 1}'), "cat"),
        (("a.json", b'{"label": -1}'), None),
        (("a.json", b'{"caption": "no label"}'), None),
        (("a.json", b"[1]"), None),
        (("a.npy", b"?"), None),
    ],
)
def test_labels(tmp_path: Path, label: tuple[str, bytes], expected: object) -> None:
    assert found(make(tmp_path / "a.tar", ("a.png", b"x"), label)) == {"x/a": (expected, "")}
    assert found(make(tmp_path / "b.tar", label, ("a.png", b"x"))) == {"x/a": (expected, "")}


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([special("a.png", tarfile.SYMTYPE)], "not a plain file in its tar"),
        ([special("a.png", tarfile.LNKTYPE)], "not a plain file in its tar"),
        ([special("a.png", tarfile.FIFOTYPE)], "not a plain file in its tar"),
        ([special("a.png", tarfile.CHRTYPE)], "not a plain file in its tar"),
        ([("/a.png", b"x")], "a name no shard may hold"),
        ([("../a.png", b"x")], "a name no shard may hold"),
        ([("a/../../b.png", b"x")], "a name no shard may hold"),
        ([("a\\b.png", b"x")], "a name no shard may hold"),
        ([("a.png", b"x"), ("a.cls", b"1" * 21)], "a label file of too many bytes"),
        ([("a.png", b"x"), ("a.json", b"1" * (1 << 20) + b"1")], "a label file of too many bytes"),
        ([("a.png", b"x"), ("a.cls", b"one")], "a label that is no number"),
        ([("a.png", b"x"), ("a.cls", b"-2")], "a label that is no number"),
        ([("a.png", b"x"), ("a.json", b"{")], "a label file that is no JSON"),
        ([("a.png", b"x"), ("a.json", b"[" * 100_000)], "a label file that is no JSON"),
        ([("a.png", b"x"), ("a.json", b'{"label": 1.5}')], "a label that is neither a number nor a name"),
        ([("a.png", b"x"), ("a.json", b'{"label": true}')], "a label that is neither a number nor a name"),
        ([("a.png", b"x"), ("a.png", b"y")], "two images of one name"),
        ([("a.png", b"x"), ("a.jpg", b"y")], "two images of one name"),
    ],
)
def test_what_no_shard_may_hold_is_named_and_not_read(tmp_path: Path, members: list, fault: str) -> None:
    path = make(tmp_path / "bad.tar", ("good.png", b"x"), *members)
    good, bad = tars.scan(path, "x").members
    assert (good.key, good.fault, good.read(9)) == ("x/good", "", b"x")
    assert bad.fault == fault
    with pytest.raises(images.BadImage, match=fault):
        bad.read(9)


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tar", ("a.png", b"x"), ("b.png", b"y"), ("a.cls", b"1"), ("c.png", b"z"))
    assert [(m.key, m.fault) for m in tars.scan(path, "x").members] == [
        ("x/a", ""),
        ("x/b", ""),
        ("x/a", "its files are apart, or it comes twice"),
        ("x/c", ""),
    ]


def test_other_files_are_counted_and_never_opened(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.tar",
        special("folder", tarfile.DIRTYPE),
        ("a.png", b"x"),
        ("a.pyd", b"cos\nsystem\n(S'touch hacked'\ntR."),
        ("a.pkl", b"?"),
        ("b.seg.png", b"?"),
        ("readme", b"?"),
        ("c.cls", b"3"),
    )
    contents = tars.scan(path, "x")
    assert [member.key for member in contents.members] == ["x/a"]
    assert contents.ignored == Counter({".pyd": 1, ".pkl": 1, ".seg.png": 1, "no extension": 1})


def test_long_names_and_all_formats(tmp_path: Path) -> None:
    name = "long/" * 40 + "ünï"
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=kind) as tar:
            info = tarfile.TarInfo(f"{name}.png")
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        (member,) = tars.scan(path, "x").members
        assert (member.key, member.read(9)) == (f"x/{name}", b"abc")


def test_damage_is_never_taken_for_the_end(tmp_path: Path) -> None:
    """`tarfile` ends quietly at a header it cannot read: half a shard would be lost without a word."""
    path = make(tmp_path / "a.tar", *((f"{n}.png", bytes([n]) * 700) for n in range(6)))
    whole = path.read_bytes()
    for cut in (*range(0, 6 * 1536, 512), 100, 700, 1500, len(whole) - 10240 + 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"no tar, or damaged|damaged"):
            tars.scan(path, "x")
    for header in range(6):
        data = bytearray(whole)
        data[header * 1536 + 150] ^= 1  # its checksum
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"no tar, or damaged"):
            tars.scan(path, "x")


@pytest.mark.parametrize("kind", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="damaged or compressed"):
        tars.scan(make(tmp_path / "a.tar", ("a.png", b"x"), kind=kind), "x")


def test_no_tar_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        tars.scan(tmp_path / "a.tar", "x")
    (tmp_path / "b.tar").write_bytes(b"not a tar" * 1000)
    with pytest.raises(UserError, match="is no tar"):
        tars.scan(tmp_path / "b.tar", "x")


NAMES = st.text(st.sampled_from("ab./\\é\0"), min_size=1, max_size=8)
EXTENSIONS = st.sampled_from([".png", ".jpg", ".cls", ".json", ".pkl", ""])


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.tuples(NAMES, EXTENSIONS, st.binary(max_size=40)), max_size=6),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    st.floats(0.3, 1.0),
)
def test_any_tar_gives_images_rejects_or_one_error(
    tmp_path: Path, members: list, changes: list, share: float
) -> None:
    """Whatever the names, contents and damage: an image can be read as it was, is a reject, or its tar is refused."""
    path = tmp_path / "fuzz.tar"
    files = [(name + extension, data) for name, extension, data in members]
    make(path, *files)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    damaged = bytes(data[: int(len(data) * share)]) != path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    try:
        contents = tars.scan(path, "x")
    except UserError:
        assert damaged
        return
    read = []
    for member in contents.members:
        try:
            read.append(member.read(100))
        except images.BadImage:
            continue
    if not damaged:
        assert set(read) <= {data for _, data in files}
        pictures = sum(name.rpartition("/")[2].partition(".")[2].lower() in tars.IMAGES for name, _ in files)
        assert (
            len(contents.members) + sum(m.fault == "two images of one name" for m in contents.members)
            >= pictures / 6
        )


def test_random_images_give_pixels_or_a_reason(picture: Callable, encoded: Callable) -> None:
    """Bytes changed, cut and mixed: the decoder says why not, and raises nothing else."""
    random = np.random.default_rng(0)
    files = [
        encoded(picture(n), kind) for n, kind in enumerate(("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"))
    ]
    reasons: Counter[str] = Counter()
    with images.limits(10**6):
        for trial in range(600):
            data = bytearray(files[trial % 6])
            for _ in range(random.integers(1, 6)):
                data[random.integers(0, len(data))] = random.integers(0, 256)
            if trial % 3 == 0:
                data = data[: random.integers(0, len(data))]
            if trial % 5 == 0:
                data += files[random.integers(0, 6)]
            try:
                stored = images.store(bytes(data), resolution=16, max_pixels=10**6)
                again = images.decode_stored(stored.data, 16)
                assert again.size == stored.image.size
                reasons["fine"] += 1
            except images.BadImage as error:
                reasons[error.reason] += 1
    assert reasons["fine"] > 50
    assert {"damaged", "not an image"} <= set(reasons)
    assert json.dumps(reasons)
