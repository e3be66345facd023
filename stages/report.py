"""One self-contained page of everything."""

from __future__ import annotations

from pathlib import Path

from sslpipe.report.page import build
from sslpipe.settings import Settings
from sslpipe.tracking.record import Record
from stages.runner import stage


@stage("report", "report")
def main(settings: Settings, record: Record) -> None:
    """Write report/index.html."""
    page = build(Path("."), settings.flat(), settings.report)
    record.artifact(page)


if __name__ == "__main__":
    main()
