from __future__ import annotations

from typing import Any

import pytest
from planted import Colours

from sslpipe.networks import build


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An encoder whose features tell a planted class beyond doubt; the same with random weights tells nothing."""
    monkeypatch.setitem(build._OWN, "colours", Colours)
    return Colours.seeing()
