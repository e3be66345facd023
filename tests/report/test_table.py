from __future__ import annotations

from pathlib import Path

from report_runs import evaluated, write

from sslpipe.report.table import summary_table

KNN = {"top1": 0.9, "random_init_top1": 0.6, "raw_pixel_top1": 0.8}


def test_table(tmp_path: Path) -> None:
    evaluated(tmp_path, "knn", KNN)
    evaluated(tmp_path, "linear", {"few_labels": {"100": {"top1": 0.5, "random_init_top1": 0.6}}})
    evaluated(tmp_path, "finetune", {"skipped": "the images have no labels"})
    write(tmp_path / "report/index.html", "")
    assert summary_table(tmp_path).splitlines() == [
        "top-1 on test, %           Pretrained   Random weights   Raw pixels    Gain",
        "---------------------------------------------------------------------------",
        "k-NN, all labels                 90.0             60.0         80.0   +30.0",
        "Linear probe, 100 labels         50.0             60.0                -10.0",
        "Fine-tuning: skipped, the images have no labels",
        "",
        f"report  {tmp_path / 'report/index.html'}",
    ]


def test_paths_are_as_given(project: Path) -> None:
    evaluated(project, "knn", KNN)
    write(project / "report/index.html", "")
    assert summary_table(".").endswith("report  report/index.html")


def test_a_column_nothing_fills_is_left_out(tmp_path: Path) -> None:
    evaluated(tmp_path, "finetune", {"top1": 0.5, "random_init_top1": 0.4, "labels": 100})
    table = summary_table(tmp_path)
    assert "Raw pixels" not in table
    assert "Random weights" in table


def test_nothing_there(tmp_path: Path) -> None:
    assert summary_table(tmp_path) == "no evaluation has run yet"


def test_broken_metrics_are_as_none(tmp_path: Path) -> None:
    write(tmp_path / "runs/knn.json", '{"result":')
    write(tmp_path / "runs/linear.json", "[1]")
    write(tmp_path / "runs/finetune.json", {"result": 3})
    assert summary_table(tmp_path) == "no evaluation has run yet"


def test_only_ascii_so_that_any_terminal_prints_it(tmp_path: Path) -> None:
    evaluated(tmp_path, "linear", {"few_labels": {"10000": {"top1": 0.5, "random_init_top1": 0.6}}})
    assert summary_table(tmp_path).isascii()
