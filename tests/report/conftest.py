from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import make_run


@pytest.fixture
def finished(project: Path) -> Path:
    """A run directory with everything in it."""
    make_run(project)
    return project
