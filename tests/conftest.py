from __future__ import annotations

import pytest

from .support.serving import look_soon


@pytest.fixture(params=["asyncio", "asyncio+uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Every async test runs on every event loop; one that is not installed is an error, not a skip."""
    name, _, loop = request.param.partition("+")
    return name, {"use_uvloop": bool(loop)} if name == "asyncio" else {}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and second tries come fast, so that the tests do."""
    look_soon(monkeypatch)
