from __future__ import annotations

from sslpipe.tracking import memory


def test_record_that_came_from_elsewhere_is_kept(project, record):
    with record("knn") as run:
        pass
    copy = project / ".sslpipe" / "runs" / run.id / "record.json"
    text = copy.read_text()
    copy.unlink()
    memory.remember(project, "k" * 16, {"seed": 0}, "toy")
    assert copy.read_text() == text
