from __future__ import annotations

import json
import stat

from sslpipe.tracking import notes
from sslpipe.tracking.store import note_outage
from sslpipe.tracking.trouble import Trouble


def test_note_with_an_address_is_for_its_owner_only(project):
    notes.announce("run", uri="https://me:pass@127.0.0.1:1", experiment="toy")
    note = notes.pending() / "run.json"
    assert json.loads(note.read_text())["run"] == "run"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    notes.dismiss("run")
    notes.dismiss("run")
    assert not note.exists()


def test_notes_wait_in_order_but_for_those_whose_store_is_out(project):
    for run, uri in (("2", "http://a"), ("1", "http://a"), ("3", "http://b")):
        notes.announce(run, uri=uri, experiment="toy")
    (notes.pending() / "4.json").write_text('{"run":')  # cut short
    assert [note["run"] for note in notes.waiting()] == ["1", "2", "3"]
    note_outage("http://a", Trouble("HTTP 500", passes=True))
    assert [note["run"] for note in notes.waiting()] == ["3"]
