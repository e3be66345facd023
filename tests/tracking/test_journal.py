from __future__ import annotations

import json

import pytest

from sslpipe.tracking import journal

EVENTS = [{"event": "start", "started": 1}, {"event": "tag", "name": "a", "value": "ü"}, {"event": "end"}]
LINES = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in EVENTS).encode()


def test_tail_reads_what_is_whole_and_the_rest_later(tmp_path):
    path = tmp_path / journal.JOURNAL
    for cut in range(len(LINES) + 1):
        path.write_bytes(LINES[:cut])
        tail = journal.Tail(tmp_path)
        first = tail.read()
        assert len(first) == LINES[:cut].count(b"\n")
        path.write_bytes(LINES)
        assert first + tail.read() == EVENTS
        assert tail.read() == []


def test_broken_line_in_the_middle_is_skipped(tmp_path):
    (tmp_path / journal.JOURNAL).write_bytes(LINES[:20] + b"\n" + LINES)
    assert journal.read(tmp_path) == EVENTS


def test_no_journal_is_no_events(tmp_path):
    assert journal.read(tmp_path / "missing") == []


def test_record_survives_being_turned_into_events():
    record = {
        "id": "x",
        "metrics": [["loss", 1.5, 3, 1000], ["loss", "inf", 4, 1001]],
        "tags": {"device": "cpu"},
        "artifacts": [{"path": "a.png", "sha256": "0", "bytes": 1, "kept": True}],
        "dataset": {"name": "toy", "digest": "d", "source": "s"},
        "result": {"metrics": {"top1": 0.5}, "protocol": {"k": 5}, "skipped": None},
    }
    assert json.loads(journal.record_text(record)) == record
    events = journal.events_of(record)
    assert [event["event"] for event in events] == [
        "metrics",
        "metrics",
        "tag",
        "artifact",
        "dataset",
        "result",
    ]
    assert {"id": "x", **journal.facts(events)} == record
    sent = journal.marks(events[:1])
    assert journal.events_of(record, sent) == events[1:]


def test_facts_are_the_last_word_on_each_thing():
    events = [
        {"event": "metrics", "values": {"loss": 2.0, "top1": 0.5}, "step": 1, "time": 10},
        {"event": "metrics", "values": {"loss": 1.0}, "step": 1, "time": 11},
        {"event": "tag", "name": "a", "value": "old"},
        {"event": "tag", "name": "a", "value": "new"},
    ]
    assert journal.facts(events) == {
        "result": None,
        "dataset": None,
        "metrics": [["loss", 1.0, 1, 11], ["top1", 0.5, 1, 10]],
        "artifacts": [],
        "tags": {"a": "new"},
    }


def test_ended_without_start_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no start"):
        journal.ended(tmp_path)
