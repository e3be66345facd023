"""What a run came to: one self-contained page, and a short table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sslpipe.report.config import Config
    from sslpipe.report.html import build
    from sslpipe.report.table import summary_table

__all__ = ["Config", "build", "summary_table"]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from sslpipe.report.config import Config

        return Config
    if name == "build":
        from sslpipe.report.html import build

        return build
    if name == "summary_table":
        from sslpipe.report.table import summary_table

        return summary_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
