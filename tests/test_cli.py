from __future__ import annotations

import pytest

from sslpipe import methods
from sslpipe.cli import main


def test_help_names_every_command_and_how_the_pipeline_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for word in ("check", "sync", "methods", "table", "ui", "dvc repro"):
        assert word in said


def test_methods_are_listed_with_their_papers_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    for name in methods.names():
        assert name in said
        assert methods.find(name).paper in said
        assert methods.find(name).needs in said


def test_one_methods_settings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "byol"]) == 0
    said = capsys.readouterr().out
    assert "momentum: 0.99" in said
    assert "Grill" in said


def test_an_unknown_method_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "byoll"]) == 1
    assert "did you mean `byol`" in capsys.readouterr().err
