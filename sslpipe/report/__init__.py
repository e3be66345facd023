"""What a run came to: one self-contained page, and a short table for the terminal."""

from sslpipe.report.config import Config

__all__ = ["Config"]
