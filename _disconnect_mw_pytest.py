"""The pytest plugin of `disconnect_mw.testing`: its fixtures, and how a `Hang` and `FaultsFound` read.

It is outside the package, as Hypothesis's plugin is. pytest imports it in every session, and before coverage is
measured, so it imports nothing of the package until a test uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

__tracebackhide__ = True  # pytest leaves the frames of this module out

# Of a test that visits its app more often the last transcripts are shown.
_TRANSCRIPTS_SHOWN = 3

_transcripts = pytest.StashKey[list[Any]]()
_known_hangs = pytest.StashKey[dict[Any, Any]]()


@pytest.fixture
def asgi_server(request: pytest.FixtureRequest) -> Any:
    """A server of `disconnect_mw.testing.servers`. The test runs once for each of them.

    To choose others: `@pytest.mark.parametrize("asgi_server", [servers.UVICORN_0_28_0, …])`.
    """
    return request.param


@pytest.fixture
def asgi_visit(request: pytest.FixtureRequest, asgi_server: Any) -> Any:
    """`disconnect_mw.testing.visit_now` on `asgi_server`: `transcript = asgi_visit(app, client)`.

    A test that fails shows the transcript. Where the app has hung in a function on one server, it has a 25th of the
    patience in that function on the others.
    """
    from disconnect_mw.testing import _visit

    known_hangs = _known_hangs_of(request.node)
    transcripts = request.node.stash[_transcripts] = []

    def visit(
        app: Any,
        client: Any,
        *more: Any,
        patience: float = 5.0,
        raise_app_exceptions: bool = True,
        backend: Any = "asyncio",
        **unknown: Any,
    ) -> Any:
        if more or unknown:
            raise TypeError(
                "asgi_visit takes an app, a client, patience, raise_app_exceptions and backend, and the fixture "
                "asgi_server is the server: choose others by "
                '@pytest.mark.parametrize("asgi_server", [servers.UVICORN_0_28_0, ...])'
            )
        exchange = _visit.Exchange(app, client, asgi_server, patience, known_hangs)
        outcome = _visit.run_now(exchange.play, "visit", backend)
        transcripts.append(getattr(outcome, "transcript", outcome))
        return _visit.transcript_of(outcome, raise_app_exceptions)

    return visit


@pytest.fixture
def asgi_check() -> Any:
    """`disconnect_mw.testing.check_now`: `asgi_check(app, ["/stream"])`. It needs no `asgi_server`: it tries them all.

    In an async test: `await disconnect_mw.testing.check(app, ["/stream"])`.
    """
    from disconnect_mw.testing import check_now

    return check_now


def _known_hangs_of(item: Any) -> Any:
    """The hangs of this test on other servers, with the same other arguments."""
    from disconnect_mw.testing._hang import KnownHangs

    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    others = tuple((name, id(value)) for name, value in sorted(parameters.items()) if name != "asgi_server")
    of_session = item.config.stash.setdefault(_known_hangs, {})
    return of_session.setdefault((item.nodeid.partition("[")[0], others), KnownHangs())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the transcripts of a failed test, as sections; and of a `Hang` and `FaultsFound` only what they tell."""
    report = yield
    testing: Any = sys.modules.get("disconnect_mw.testing")
    if testing is None or call.excinfo is None or not report.failed:
        return report
    shown = [(f"the exchange on {one.server}", one) for one in item.stash.get(_transcripts, [])][-_TRANSCRIPTS_SHOWN:]
    raised: Any = call.excinfo.value
    if isinstance(raised, (testing.Hang, testing.FaultsFound)) and not item.config.getoption("fulltrace"):
        report.longrepr = item.repr_failure(_as_failure(item, call.excinfo))
        shown = _transcripts_of(raised)[:_TRANSCRIPTS_SHOWN]
    report.sections += [(heading, str(transcript)) for heading, transcript in shown]
    return report


def _as_failure(item: pytest.Item, excinfo: pytest.ExceptionInfo[Any]) -> pytest.ExceptionInfo[Any]:
    """What `pytest.fail(reason, pytrace=False)` would have raised."""
    raised, line, step = excinfo.value, None, excinfo.tb
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(item.path):
            line = step.tb_lineno
        step = step.tb_next
    at = "" if line is None or getattr(raised, "is_known", False) else f"\n\nin {item.path.name}:{line}"
    failure = pytest.fail.Exception(getattr(raised, "reason", str(raised)) + at, pytrace=False)
    return pytest.ExceptionInfo.from_exception(failure.with_traceback(excinfo.tb))


def _transcripts_of(raised: Any) -> list[tuple[str, Any]]:
    """Those of a `Hang`, or of `FaultsFound`, with their headings."""
    if hasattr(raised, "report"):
        faults = [fault for fault in raised.report.faults if fault.transcript is not None]
        return [(f"{fault.request}: {fault.kind}", fault.transcript) for fault in faults]
    return [] if raised.is_known else [(f"the exchange on {raised.transcript.server}", raised.transcript)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "asgi_server" in metafunc.fixturenames and not _is_replaced(metafunc):
        from disconnect_mw.testing import servers

        metafunc.parametrize("asgi_server", servers.ALL, indirect=True)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """The id of a server is its name."""
    testing = sys.modules.get("disconnect_mw.testing")
    return str(val) if testing is not None and isinstance(val, testing.Server) else None


def _is_replaced(metafunc: pytest.Metafunc) -> bool:
    """Whether a mark on the test, or a fixture of the user's, gives the servers."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        if "asgi_server" in ([name.strip() for name in names.split(",")] if isinstance(names, str) else names):
            return True
    # pytest has no public API for where a fixture is defined.
    definitions = getattr(metafunc, "_arg2fixturedefs", {}).get("asgi_server", ())
    return any(definition.func.__module__ != __name__ for definition in definitions)
