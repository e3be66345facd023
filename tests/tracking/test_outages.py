from __future__ import annotations

from sslpipe.tracking import outages


def test_outage_is_per_store_and_ends(project, monkeypatch):
    outages.note_outage("http://a", "HTTP 500")
    assert outages.recent_outage("http://a")
    assert not outages.recent_outage("http://b")
    assert "HTTP 500" in outages.outage_to_warn_of("http://a", "key")
    assert outages.outage_to_warn_of("http://a", "key") is None
    outages.note_outage("http://a", "HTTP 500")  # found out again: still the same pipeline run
    assert outages.outage_to_warn_of("http://a", "key") is None
    monkeypatch.setattr(outages, "PATIENCE", 0.0)
    assert not outages.recent_outage("http://a")
    monkeypatch.undo()
    outages.clear_outage("http://a")
    outages.clear_outage("http://a")
