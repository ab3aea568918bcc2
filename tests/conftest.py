from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from disconnect_mw import _errors, _telling

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


@pytest.fixture(autouse=True)
def _log_as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been logged yet: of many lines in a second the rest is summed up, an error of ours is told once."""
    monkeypatch.setattr(_telling, "_lines", _telling._Lines())
    monkeypatch.setattr(_errors, "_reported", set())


TESTS = Path(__file__).parent

SLOW = [
    TESTS / name
    for name in (
        "real",
        "test_benchmarks.py",
        "test_check.py",
        "test_demo.py",
        "test_enumerated.py",
        "test_testing_check.py",
        "test_testing_docs.py",
    )
]
"""Left out by `--quick`: real servers, subprocesses, enumerations, checks of whole apps."""

TESTS_AT_A_TIME = 8
"""Given to a worker of pytest-xdist."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out real servers, subprocesses and enumerations")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("quick") and collection_path in SLOW else None


def pytest_report_header(config: pytest.Config) -> str:
    return "all tests take under 3 minutes on two idle cores with -n 4, and about 30 seconds with --quick"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker a whole file of `tests/real`, whose tests share their servers, and a few tests of other files.

    `--dist loadgroup` would do it; but it renames tests in a way that pytest 9.2 has done away with.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

    scopes: dict[str, str] = {}
    counts: Counter[str] = Counter()

    def scope_of(nodeid: str) -> str:
        if nodeid not in scopes:
            path = nodeid.partition("::")[0]
            part = 0 if path.startswith("tests/real/") else counts[path] // TESTS_AT_A_TIME
            scopes[nodeid] = f"{path} {part}"
            counts[path] += 1
        return scopes[nodeid]

    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = scope_of
    return scheduling
