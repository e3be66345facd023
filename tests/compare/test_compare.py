from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_runs import PARAMS, Page, evaluated, numbers_of, write, write_csv

from sslpipe.compare import compare
from sslpipe.compare import page as compare_page
from sslpipe.compare.compare import Compared, difference, load, settings_that_differ, table, warnings
from sslpipe.console.errors import UserError

DIGESTS = {"data": "d" * 64, "encoder": "e" * 64, "settings": "s" * 64}
COUNT = 40


def params(file: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(file.read_text())
    return found


def told(folder: Path, right: int) -> None:
    """A k-NN that tells so many of forty test images."""
    metrics = {"top1": right / COUNT, "random_init_top1": 0.1, "protocol": {"k": 20, "digests": DIGESTS}}
    evaluated(folder, "knn", metrics)
    rows = [["a", "a" if n < right else "b"] for n in range(COUNT)]
    write_csv(folder / "plots/knn/confusion.csv", ["actual", "predicted"], rows)


@pytest.fixture
def two(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same run twice but for method, seed and k-NN."""
    folders = finished, tmp_path / "other"
    shutil.copytree(finished, folders[1])
    for folder, right, method in zip(folders, (20, 32), ("simclr", "byol"), strict=True):
        told(folder, right)
        write(folder / "params.yaml", {**PARAMS, "pretrain.method": method})
    return folders


def loaded(two: tuple[Path, Path]) -> list[Compared]:
    return load([str(folder) for folder in two], Path("."), params)


def test_runs_on_the_same_images_are_compared_image_by_image(two: tuple[Path, Path]) -> None:
    runs = loaded(two)
    found = difference(*runs, ("knn", None))
    assert found is not None
    assert found.value == pytest.approx(12 / 40)
    assert found.how == "the same 40 test images: 12 won, 0 lost"
    assert found.chance == pytest.approx(2 / 2**12)
    same = difference(runs[0], runs[0], ("knn", None))
    assert same is not None
    assert not same.measurable


@pytest.mark.parametrize("what", ["data", "order", "file"])
def test_other_images_are_not_paired(two: tuple[Path, Path], what: str) -> None:
    if what == "data":
        metrics = numbers_of(two[1], "knn")
        metrics["protocol"]["digests"]["data"] = "x" * 64
        evaluated(two[1], "knn", metrics)
    elif what == "order":
        write_csv(two[1] / "plots/knn/confusion.csv", ["actual", "predicted"], [["b", "b"]] * COUNT)
    else:
        (two[1] / "plots/knn/confusion.csv").unlink()
    found = difference(*loaded(two), ("knn", None))
    assert found is not None
    assert found.how == "8 test images"  # of the manifest


def test_shards_of_another_format_hold_the_same_images(two: tuple[Path, Path]) -> None:
    for folder, digest in zip(two, ("f" * 64, "h" * 64), strict=True):
        manifest = json.loads((folder / "data/shards/manifest.json").read_text())
        write(folder / "data/shards/manifest.json", {**manifest, "digest": digest})
        metrics = numbers_of(folder, "knn")
        metrics["protocol"]["digests"]["data"] = digest
        evaluated(folder, "knn", metrics)
    found = difference(*loaded(two), ("knn", None))
    assert found is not None
    assert found.how.startswith("the same 40 test images")
    assert "not evaluated on the same images" not in " ".join(warnings(loaded(two)))


def test_of_many_comparisons_more_is_asked(two: tuple[Path, Path]) -> None:
    told(two[1], 26)  # six images more than the other: one in 32 by chance
    first, second = loaded(two)
    alone = difference(first, second, ("knn", None))
    assert alone is not None
    assert alone.measurable
    among = compare.differences([first, second])
    assert len(among) > 1
    assert not among[1, ("knn", None)].measurable


def test_few_labels_count_their_draws(two: tuple[Path, Path]) -> None:
    for folder in two:
        metrics = numbers_of(folder, "linear")
        evaluated(folder, "linear", {**metrics, "protocol": {"draws": 5}})
    found = difference(*loaded(two), ("linear", 5))
    assert found is not None
    assert "5 draws" in found.how
    assert found.value == 0


def test_the_table_says_what_is_measurable(two: tuple[Path, Path]) -> None:
    runs = [Compared(name, each.run, each.rows) for name, each in zip("AB", loaded(two), strict=True)]
    text = table(runs)
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["k-NN, all labels"][-6:] == ["50.0", "80.0", "+30.0", "(+14.1", "to", "+30.0)"]
    assert "~0.0" in lines["Linear probe, all labels"]
    assert "one pretraining with one seed" in text


def test_folders_are_called_by_their_last_names_where_these_differ(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [each.name for each in loaded(two)] == [two[0].name, "other"]
    twin = two[1].parent / "deep" / two[0].name
    shutil.copytree(two[1], twin)
    assert [each.name for each in loaded((two[0], twin))] == [str(two[0]), str(twin)]
    monkeypatch.chdir(two[0])
    assert [each.name for each in load([".", str(two[1])], Path("."), params)] == ["workspace", "other"]


def test_settings_that_differ_alone_are_named(two: tuple[Path, Path]) -> None:
    assert settings_that_differ(loaded(two)) == {"pretrain.method": ["simclr", "byol"]}
    write(two[1] / "params.yaml", {**PARAMS, "pretrain.method": "simclr", "seed": 4})
    assert "seed alone" in " ".join(warnings(loaded(two)))


def test_other_data_and_other_protocols_are_warned_of(two: tuple[Path, Path]) -> None:
    manifest = json.loads((two[1] / "data/shards/manifest.json").read_text())
    other = {**manifest, "digest": "f" * 64, "source": {"name": "other", "digest": "g" * 64}}
    write(two[1] / "data/shards/manifest.json", other)
    metrics = numbers_of(two[1], "knn")
    metrics["protocol"]["digests"]["settings"] = "t" * 64
    evaluated(two[1], "knn", metrics)
    said = " ".join(warnings(loaded(two)))
    assert "not evaluated on the same images" in said
    assert "k-NN did not follow the same protocol" in said


def test_the_page_is_whole_and_alone(two: tuple[Path, Path], tmp_path: Path) -> None:
    page = Page(compare_page.build(loaded(two), tmp_path / "deep" / "page.html"))
    assert page.sections == ["scores", "others", "labels", "looks", "settings", "cost", "lineage"]
    assert page.links == []
    assert "script" not in page.tags
    words = page.text.replace("\u202f", " ")
    for expected in (
        "80.0 +30.0 (+14.1 to +30.0)",
        "pretrain.method simclr byol",
        "all stages 9.0 s 9.0 s",
        "do not differ measurably",
    ):
        assert expected in words


def test_what_is_no_run_is_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes 2 to 8 runs, not 1"):
        load([str(two[0])], Path("."), params)
    with pytest.raises(UserError, match="named twice"):
        load([str(two[0])] * 2, Path("."), params)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no folder metrics"):
        load([str(two[0]), str(empty)], Path("."), params)
    (empty / "metrics").mkdir()
    with pytest.raises(UserError, match="no evaluation"):
        load([str(two[0]), str(empty)], Path("."), params)


def test_nine_runs_are_too_many() -> None:
    with pytest.raises(UserError, match="2 to 8"):
        compare.load([str(n) for n in range(9)], Path("."), params)


def test_scores_over_seeds_are_compared_by_their_spread(two: tuple[Path, Path]) -> None:
    for folder in two:
        metrics = numbers_of(folder, "knn")
        metrics["protocol"]["seeds"], metrics["top1_std"] = 4, 0.1
        evaluated(folder, "knn", metrics)
    found = difference(*loaded(two), ("knn", None))
    assert found is not None
    assert found.how == "8 test images, 4 draws"
    scores = (20 / 40, 32 / 40)
    error = sum(p * (1 - p) / 8 + 0.1**2 / 4 for p in scores) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.959964 * error)


def test_other_tasks_stand_beside_each_other(two: tuple[Path, Path], tmp_path: Path) -> None:
    for folder, value in zip(two, (0.25, 0.5), strict=True):
        evaluated(folder, "segment", {"miou": value, "miou_std": 0.01, "protocol": {}})
    evaluated(two[0], "detect", {"ap50": 0.5, "protocol": {}})
    runs = loaded(two)
    found = compare.others(runs)
    assert found["Segmentation, linear, mIoU, %"] == [(25.0, 1.0), (50.0, 1.0)]
    assert not any("Detection" in title for title in found)  # of one run alone
    (line,) = (line for line in table(runs).splitlines() if line.startswith("Segmentation"))
    assert line.split("%")[1].split() == ["25.0", "±", "1.0", "50.0", "±", "1.0"]
    page = Page(compare_page.build(runs, tmp_path / "page.html"))
    assert "others" in page.sections


def test_losses_are_laid_over_each_other_for_one_method_alone(two: tuple[Path, Path], tmp_path: Path) -> None:
    different = Page(compare_page.build(loaded(two), tmp_path / "page.html"))
    assert "loss" not in different.sections
    write(two[1] / "params.yaml", {**PARAMS, "pretrain.method": "simclr", "seed": 9})
    same = Page(compare_page.build(loaded(two), tmp_path / "page.html"))
    assert "loss" in same.sections


def test_names_of_runs_and_settings_are_shown_as_they_are(two: tuple[Path, Path], tmp_path: Path) -> None:
    names = ("<b onclick=\"x\">&amp; 'co'</b>", "\U0001f41c {{ 7 * 7 }} \u05e9\u05dc\u05d5\u05dd <\u05e2>")
    write(two[1] / "params.yaml", {**PARAMS, "pretrain.method": names[0], names[0]: list(names)})

    def made(names: tuple[str, ...], file: str) -> Page:
        runs = [Compared(name, each.run, each.rows) for name, each in zip(names, loaded(two), strict=True)]
        return Page(compare_page.build(runs, tmp_path / file))

    page, harmless = made(names, "page.html"), made(("m", "n"), "harmless.html")
    for name in names:
        assert page.words.count(name) > 6  # heads of tables and legends
        assert name in page.values["data-label"]
    assert page.words.count(names[0]) > harmless.words.count("m")  # the setting, too
    assert " ".join(names) in page.text
    assert page.shape == harmless.shape
