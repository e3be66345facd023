from __future__ import annotations

from pathlib import Path

import pytest

from sslpipe.console.errors import UserError
from sslpipe.tracking import store
from sslpipe.tracking.config import Config
from sslpipe.tracking.store import note_page, store_uri, ui_address, ui_command
from sslpipe.tracking.trouble import Trouble


def test_store_is_the_setting_then_the_environment_then_the_project(project, monkeypatch):
    assert store_uri() == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert store_uri() == "http://127.0.0.1:1"
    assert store_uri("sqlite:///sub/my.db") == f"sqlite:///{project}/sub/my.db"
    assert store_uri("sqlite:////elsewhere/my.db") == "sqlite:////elsewhere/my.db"


def test_file_of_a_store_is_that_of_sqlite_alone(project):
    assert store.database_file(store_uri()) == project / "mlflow.db"
    assert store.database_file("sqlite:////x/my.db?timeout=9") == Path("/x/my.db")
    for uri in ("sqlite:///:memory:", "sqlite://", "postgresql://host/x", "http://a", "mlruns"):
        assert store.database_file(store_uri(uri)) is None


def test_artifacts_belong_beside_the_database_else_into_the_project(project):
    assert store.artifacts_folder(store_uri()) == project / "mlartifacts"
    assert store.artifacts_folder("sqlite:////x/my.db") == Path("/x/mlartifacts")
    assert store.artifacts_folder("postgresql://host/x") == project / "mlartifacts"


def test_outage_is_per_store_and_ends(project, monkeypatch):
    store.note_outage("http://a", Trouble("HTTP 500", passes=True))
    assert store.recent_outage("http://a")
    assert not store.recent_outage("http://b")
    assert "HTTP 500" in store.outage_to_warn_of("http://a", "key")
    assert store.outage_to_warn_of("http://a", "key") is None
    # Found out again: still the same pipeline run.
    store.note_outage("http://a", Trouble("HTTP 500", passes=True))
    assert store.outage_to_warn_of("http://a", "key") is None
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    assert not store.recent_outage("http://a")
    monkeypatch.undo()
    store.clear_outage("http://a")
    store.clear_outage("http://a")
    store.note_outage("http://a", Trouble("the package is missing"))  # another one, of the same pipeline run
    assert "put this right" in store.outage_to_warn_of("http://a", "key")


def test_pages_are_local_and_show_the_store_in_use(project):
    command, _ = ui_command(Config(experiment="toy"), port=5055)
    assert command[1:4] == ["-m", "mlflow", "ui"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{project}/mlflow.db"
    assert ui_address(Config(experiment="toy"), port=5055) == "http://127.0.0.1:5055/"
    note_page(store_uri(), "toy", "3")
    assert ui_address(Config(experiment="toy"), port=5055).startswith(
        "http://127.0.0.1:5055/#/experiments/3/runs?"
    )
    with pytest.raises(UserError, match="open https://host/ in a browser"):
        ui_command(Config(uri="https://me:pass@host"))


def test_pages_start_no_job_consumers_and_report_to_nobody(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    monkeypatch.setenv("KEPT", "1")
    _, environment = ui_command(Config())
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["KEPT"] == "1"


def test_mlflow_knows_the_switch_of_its_job_consumers(monkeypatch):
    from mlflow.environment_variables import MLFLOW_SERVER_ENABLE_JOB_EXECUTION as SWITCH

    monkeypatch.delenv(SWITCH.name, raising=False)
    assert SWITCH.get()
    monkeypatch.setenv(SWITCH.name, ui_command(Config())[1][SWITCH.name])
    assert not SWITCH.get()
