from __future__ import annotations

import pytest

from sslpipe.tracking.store import shown, store_uri


def test_store_is_the_setting_then_the_environment_then_the_project(project, monkeypatch):
    assert store_uri() == f"sqlite:///{project}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert store_uri() == "http://127.0.0.1:1"
    assert store_uri("sqlite:///sub/my.db") == f"sqlite:///{project}/sub/my.db"
    assert store_uri("sqlite:////elsewhere/my.db") == "sqlite:////elsewhere/my.db"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:pass@host:1/path", "https://host:1/path"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////x/my.db", "sqlite:////x/my.db"),
        ("databricks", "databricks"),
    ],
)
def test_shown_address_holds_no_password(uri, expected):
    assert shown(uri) == expected
