"""`sslpipe sync --follow` as a user calls it."""

from __future__ import annotations

import os

import pytest

from sslpipe.cli import main
from sslpipe.tracking import journal, notes, sync


@pytest.fixture(autouse=True)
def niceness(monkeypatch):
    monkeypatch.setattr(os, "nice", lambda step: step)  # it could not be taken back


def test_following_says_what_it_does_and_ends_when_idle(project, monkeypatch, capsys):
    monkeypatch.setattr(sync, "follow", lambda say: say("a-run: finished") is None)
    assert main(["sync", "--follow"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "following the stages that run, until none has for 30 s (Ctrl-C ends it sooner)",
        "a-run: finished",
    ]


def test_second_follower_says_that_it_is_not_needed(project, capsys):
    with journal.try_lock(notes.follower_lock()):
        assert main(["sync", "--follow"]) == 0
    assert "another process follows them already" in capsys.readouterr().out


def test_help_says_how_following_ends(capsys):
    with pytest.raises(SystemExit):
        main(["sync", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "It ends by Ctrl-C, or when no stage has run for 30 s." in said
