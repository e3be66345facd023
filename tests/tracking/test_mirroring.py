from __future__ import annotations

import json
import stat

import pytest

from sslpipe.console.errors import UserError
from sslpipe.tracking import mirroring
from sslpipe.tracking.record import Config
from sslpipe.tracking.sync import ui_address, ui_command


def test_store_is_the_setting_then_the_environment_then_the_project(project, monkeypatch):
    assert mirroring.store_uri() == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert mirroring.store_uri() == "http://127.0.0.1:1"
    assert mirroring.store_uri("sqlite:///sub/my.db") == f"sqlite:///{project}/sub/my.db"
    assert mirroring.store_uri("sqlite:////elsewhere/my.db") == "sqlite:////elsewhere/my.db"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:pass@host:1/path", "https://host:1/path"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////x/my.db", "sqlite:////x/my.db"),
        ("databricks", "databricks"),
    ],
)
def test_shown_address_holds_no_password(uri, shown):
    assert mirroring.shown(uri) == shown


def test_note_with_an_address_is_for_its_owner_only(project):
    mirroring.announce("run", uri="https://me:pass@127.0.0.1:1", experiment="toy")
    note = mirroring.pending() / "run.json"
    assert json.loads(note.read_text())["run"] == "run"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    mirroring.dismiss("run")
    mirroring.dismiss("run")
    assert not note.exists()


def test_outage_is_per_store_and_ends(project, monkeypatch):
    mirroring.note_outage("http://a", "HTTP 500")
    assert mirroring.recent_outage("http://a")
    assert not mirroring.recent_outage("http://b")
    assert "HTTP 500" in mirroring.outage_to_warn_of("http://a", "key")
    assert mirroring.outage_to_warn_of("http://a", "key") is None
    mirroring.note_outage("http://a", "HTTP 500")  # found out again: still the same pipeline run
    assert mirroring.outage_to_warn_of("http://a", "key") is None
    monkeypatch.setattr(mirroring, "PATIENCE", 0.0)
    assert not mirroring.recent_outage("http://a")
    monkeypatch.undo()
    mirroring.clear_outage("http://a")
    mirroring.clear_outage("http://a")


def test_pages_are_local_and_show_the_store_in_use(project):
    command, environment = ui_command(Config(experiment="toy"), port=5055)
    assert command[1:4] == ["-m", "mlflow", "ui"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{project}/mlflow.db"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert ui_address(Config(experiment="toy"), port=5055) == "http://127.0.0.1:5055/"
    mirroring.note_page(mirroring.store_uri(), "toy", "3")
    assert ui_address(Config(experiment="toy"), port=5055).startswith(
        "http://127.0.0.1:5055/#/experiments/3/runs?"
    )
    with pytest.raises(UserError, match="open https://host/ in a browser"):
        ui_command(Config(uri="https://me:pass@host"))
