"""One self-contained page of everything."""

from __future__ import annotations

from pathlib import Path

from sslpipe.report.page import build
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import stage


def make(settings: Settings, record: Record) -> None:
    """Write report/index.html."""
    record.artifact(build(Path("."), settings.flat(), settings.report))


main = stage("report", make)

if __name__ == "__main__":
    main()
