"""What users are told of a store that does not take runs."""

from __future__ import annotations

import pytest

from sslpipe.console.errors import UserError
from sslpipe.tracking import trouble as module
from sslpipe.tracking.trouble import Trouble, first_time, shown, trouble

POOL = "API request to http://h/api failed with exception HTTPConnectionPool(host='h', port=9): Max retries exceeded "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (POOL + "(Caused by NewConnectionError('[Errno 111] Connection refused'))", "connection refused"),
        (POOL + "(Caused by NameResolutionError('Failed to resolve h'))", "its host name cannot be resolved"),
        (POOL + "(Read timed out. (read timeout=3))", "no answer in time"),
        (POOL + "(Caused by ResponseError('too many 503 error responses'))", "HTTP 503"),
        (POOL + "(Caused by ResponseError('too many 429 error responses'))", "HTTP 429"),
        ("('Connection aborted.', RemoteDisconnected('Remote end closed'))", "the connection broke off"),
        (
            "(sqlite3.OperationalError) database is locked\n[SQL: UPDATE]",
            "another process holds the database",
        ),
    ],
)
def test_store_that_is_away_is_waited_for(text: str, why: str) -> None:
    found = trouble(Exception(text), "http://h")
    assert found == Trouble(why, passes=True)
    assert found.sentence("No") == f"No ({why}); nothing is lost: run `sslpipe sync` when it is back"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Exception("failed with error code 401 != 200. Response body: 'a page'"), "MLFLOW_TRACKING_TOKEN"),
        (Exception("failed with error code 403 != 200. Response body: 'a page'"), "it forbids this"),
        (Exception("failed with error code 404 != 200. Response body: 'a page'"), "no MLflow is at this address"),
        (Exception("the response body was not in a valid JSON format. Response body: 'a page'"), "is not MLflow"),
        (Exception("PERMISSION_DENIED: ask Ann for the right"), "PERMISSION_DENIED: ask Ann for the right"),
        (Exception(" Model registry functionality is unavailable; got unsupported URI 's3://b'"), "a server (https"),
        (ModuleNotFoundError("No module named 'psycopg'", name="psycopg"), "`psycopg`, which it needs, is not inst"),
        (UserError("the experiment was deleted"), "the experiment was deleted"),
        (ValueError(), "ValueError"),
    ],
)  # fmt: skip
def test_permanent_refusal_is_not_said_to_pass(error: Exception, says: str) -> None:
    found = trouble(error, "http://h")
    assert not found.passes
    assert says in found.why
    assert "a page" not in found.why
    assert "back" not in found.sentence("No")
    assert found.sentence("No").endswith(". Nothing is lost: put this right, then run `sslpipe sync`")


def test_message_keeps_its_remedy_and_every_word() -> None:
    text = (
        f"Reading credentials failed with URI 'databricks'. {'Many words. ' * 60}\nInstall 'databricks-sdk'."
    )
    why = trouble(Exception(text), "databricks").why
    assert why.endswith("Many words. Install 'databricks-sdk'.")
    assert "URI 'databricks'" in why


def test_message_holds_no_password_and_no_sql() -> None:
    text = "cannot open https://me:pass@host/x\n[SQL: SELECT secret]\n(Background on this error at: …)"
    assert trouble(Exception(text), "https://me:pass@host/x").why == "cannot open https://host/x"
    assert trouble(Exception("see http://you:word@there"), "sqlite:///x").why == "see http://there"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:pass@host:1/path", "https://host:1/path"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////x/my.db", "sqlite:////x/my.db"),
        ("databricks", "databricks"),
    ],
)
def test_shown_address_holds_no_password(uri: str, expected: str) -> None:
    assert shown(uri) == expected


def test_pipeline_run_is_told_once(project) -> None:
    assert first_time("git", "a")
    assert not first_time("git", "a")
    assert first_time("other", "a")
    assert first_time("git", "b")
    module.tell_again("git")
    assert first_time("git", "b")
    module.tell_again("never told")
