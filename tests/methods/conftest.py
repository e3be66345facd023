from __future__ import annotations

import pytest

from sslpipe import methods


@pytest.fixture(params=methods.names())
def name(request: pytest.FixtureRequest) -> str:
    """Each method's name in turn."""
    return str(request.param)
