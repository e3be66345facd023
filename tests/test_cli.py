from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sslpipe import evals, methods
from sslpipe.cli import main, parser
from sslpipe.describe import describe_settings
from sslpipe.settings import OWNERS, Settings


def test_help_names_every_command_and_how_the_pipeline_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for word in ("check", "settings", "preset", "sync", "methods", "table", "ui", "dvc repro"):
        assert word in said


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    return found


def test_commands_come_in_the_order_in_which_they_are_needed() -> None:
    order = ["preset", "methods", "settings", "recipe", "check", "profile", "table", "compare", "ui", "sync"]
    assert list(commands()) == order


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `sslpipe settings | head -1`."""
    program = "import sys; from sslpipe.cli import main; sys.exit(main(sys.argv[1:]))"
    params = str(Path(__file__).parents[1] / "params.yaml")
    run = subprocess.Popen(
        [sys.executable, "-c", program, "settings", "pretrain", "--params", params],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None
    run.stdout.close()
    assert run.communicate()[1] == b""
    assert run.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("name", commands())
def test_every_command_says_what_it_does_and_what_it_takes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert max(map(len, said.splitlines())) <= 120
    command = commands()[name]
    assert command.description
    for argument in command._actions:
        assert (argument.metavar or argument.option_strings[-1]) in said
        assert argument.help


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


def test_every_setting_is_printed_with_a_meaning() -> None:
    said = describe_settings(Settings({}))
    for section in (*OWNERS, *evals.names()):
        kind = OWNERS.get(section) or evals.config_of(section)
        assert f"\n{section}" in said
        for key, field in kind.model_fields.items():
            assert f"\n  {key}" in said
            assert field.description or key in ("cluster", "scenes", "mixing"), (section, key)
    assert max(map(len, said.splitlines())) <= 160


@pytest.mark.parametrize("name", methods.names())
def test_every_setting_of_a_method_has_a_meaning(name: str) -> None:
    for key, field in methods.find(name).Config.model_fields.items():
        assert field.description or key in ("optimizer", "tokenizer"), key  # those have settings of their own


def test_a_setting_is_printed_with_its_value_and_its_default_where_it_is_another() -> None:
    raw = {"pretrain": {"epochs": 7, "defaults": "small", "cluster": {"nodes": 2}},
           "methods": {"simclr": {"temperature": 0.3}, "byol": {"momentum": 0.5}}}  # fmt: skip
    rows = [line.split() for line in describe_settings(Settings(raw), ["pretrain", "methods"]).splitlines()]
    found = {row[0]: row[1:] for row in rows if row}
    assert found["epochs"][:2] == ["7", "36"]
    assert found["cluster.nodes"][:2] == ["2", "1"]
    assert found["batch_size"][:2] == ["128", "images"]
    assert found["temperature"][:2] == ["0.3", "0.1"]  # for small data
    assert found["projector_hidden"][:2] == ["256", "width"]
    assert "shard" not in found
    other = describe_settings(Settings(raw), ["methods.byol"]).split()
    assert other[other.index("momentum") + 1 :][:2] == ["0.5", "0.9"]


def test_settings_are_printed_from_params_yaml(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text("seed: 5\n")
    assert main(["settings", "seed", "knn"]) == 0
    said = capsys.readouterr().out
    assert "seed" in said
    assert "neighbours that vote" in said
    assert main(["settings", "kn"]) == 1
    assert "did you mean `knn`" in capsys.readouterr().err
