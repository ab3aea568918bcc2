"""One line per exchange in the access log (`disconnect_mw.observe.access`)."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from starlette.middleware.cors import CORSMiddleware

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw._telling import OBSERVERS
from disconnect_mw.observe import check_every_exchange
from disconnect_mw.observe.access import ACCESS_LOGGER, AccessLog

from .support.apps import leaving
from .support.messages import CHUNK, FINAL, START, http_scope
from .support.serving import call, turns
from .support.simulated_server import http, websocket

pytestmark = pytest.mark.anyio

TIME = r"\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handlers, level, propagate = ACCESS_LOGGER.handlers[:], ACCESS_LOGGER.level, ACCESS_LOGGER.propagate
    yield
    ACCESS_LOGGER.handlers[:] = handlers
    ACCESS_LOGGER.setLevel(level)
    ACCESS_LOGGER.propagate = propagate
    OBSERVERS.clear()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """The lines that are written to the logger `access` of a test."""
    caplog.set_level("INFO", "access")
    return Lines(caplog)


class Lines:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def only(self) -> str:
        (line,) = [record.getMessage() for record in self._caplog.records if record.name == "access"]
        return line


def logged(app: Any, outside: bool = True, **options: Any) -> Any:
    """The app with the middleware and its access log, one around the other."""
    logger = logging.getLogger("access")
    if outside:
        return AccessLog(DisconnectMiddleware(app), logger=logger, **options)
    return DisconnectMiddleware(AccessLog(app, logger=logger, **options))


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(START)
    await send(CHUNK)
    await send(FINAL)


async def leaves_before_the_response(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    far_of(receive).leave()
    await receive()
    await turns()
    await send(START)
    await send(CHUNK)
    await send(FINAL)


async def leaves_during_the_response(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({**START, "status": 206})
    await send(CHUNK)
    far_of(receive).leave()
    await receive()
    await send(CHUNK)
    await send(FINAL)


def far_of(receive: Any) -> Any:
    """The simulated server behind one or more connections."""
    owner = receive.__self__
    while hasattr(owner, "server_receive"):
        owner = owner.server_receive.__self__
    return owner


outside_and_inside = pytest.mark.parametrize("outside", [True, False])


@outside_and_inside
@pytest.mark.parametrize(
    ("app", "rest"),
    [
        (answers, r'200 14 \d\.\d{3} "-"'),
        (leaves_before_the_response, r'499 0 \d\.\d{3} "disconnected=before the response"'),
        (leaves_during_the_response, r'206 7 \d\.\d{3} "disconnected=during the response"'),
    ],
)
async def test_a_line_in_the_common_format(lines: Lines, app: Any, rest: str, outside: bool) -> None:
    await call(logged(app, outside), http(), http_scope(query_string=b"a=1", path="/x", raw_path=b"/x"))
    assert re.fullmatch(rf'127\.0\.0\.1 - - {TIME} "GET /x\?a=1 HTTP/1\.1" {rest}', lines.only)


async def test_the_combined_format_has_what_the_client_says_of_itself(lines: Lines) -> None:
    headers = [(b"Referer", b"http://a/"), (b"user-agent", b'a "browser" \\ \xe9\n')]
    await call(logged(answers, format="combined"), http(), http_scope(headers=headers, client=None))
    expected = rf'- - - {TIME} "GET / HTTP/1\.1" 200 14 "http://a/" '
    expected += re.escape(r'"a \"browser\" \\ \xe9\x0a"') + r' \d\.\d{3} "-"'
    assert re.fullmatch(expected, lines.only)


async def test_what_the_client_does_not_say_is_a_dash(lines: Lines) -> None:
    await call(logged(answers, format="combined"), http())
    assert ' 200 14 "-" "-" ' in lines.only


async def test_json_is_an_object_a_line(lines: Lines) -> None:
    scope = http_scope(path="/ü", headers=[(b"user-agent", b"test")], method="POST")
    del scope["raw_path"]
    await call(logged(leaves_before_the_response, format="json"), http(), scope)
    shown = json.loads(lines.only)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", shown.pop("time"))
    assert 0 <= shown.pop("seconds") < 5
    assert shown == {
        "peer": "127.0.0.1",
        "protocol": "http",
        "method": "POST",
        "path": "/%C3%BC",
        "http_version": "1.1",
        "status": 499,
        "bytes": 0,
        "disconnected": "before the response",
        "code": None,
        "referer": None,
        "user_agent": "test",
    }


async def test_an_app_that_fails_before_its_response_is_500(lines: Lines) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await call(logged(failing), http())
    assert " 500 0 " in lines.only


@pytest.mark.parametrize(
    ("messages", "leaves", "status", "sent", "departure"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.send", "text": "tick"}], True, 101, 4, "while open"),
        ([{"type": "websocket.close"}], False, 403, 0, None),
        ([{"type": "websocket.accept"}, {"type": "websocket.close"}], False, 101, 0, None),
        ([], True, 499, 0, "before the handshake"),
    ],
)
async def test_a_websocket_has_a_line(
    lines: Lines, messages: list[Any], leaves: bool, status: int, sent: int, departure: str | None
) -> None:
    far = websocket()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)
        if leaves:
            far.leave()
            await receive()

    await call(logged(app, format="json"), far)
    shown = json.loads(lines.only)
    assert (shown["protocol"], shown["method"]) == ("websocket", "GET")
    assert (shown["status"], shown["bytes"], shown["disconnected"]) == (status, sent, departure)


async def test_what_is_no_exchange_passes(lines: Lines) -> None:
    async def lifespan(scope: Any, receive: Any, send: Any) -> Any:
        return receive, send

    receive, send = object(), object()
    assert await logged(lifespan)({"type": "lifespan"}, receive, send) == (receive, send)


async def test_without_the_middleware_that_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DisconnectMiddleware, "has_installs", False)
    app = AccessLog(answers, logger=logging.getLogger("access"))
    for _ in range(2):
        await call(app, http())
    warnings = [record.getMessage() for record in caplog.records if record.name == "disconnect_mw"]
    assert warnings == ["the access log tells of no disconnect: there is no DisconnectMiddleware around this app"]


async def test_where_other_middleware_answers_nothing_is_told(
    lines: Lines, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CORSMiddleware answers a preflight, and the request does not come to the middleware."""
    monkeypatch.setattr(DisconnectMiddleware, "has_installs", False)
    app = AccessLog(
        CORSMiddleware(DisconnectMiddleware(answers), allow_origins=["*"]), logger=logging.getLogger("access")
    )
    headers = [(b"origin", b"http://a"), (b"access-control-request-method", b"GET")]
    await call(app, http(), http_scope(method="OPTIONS", headers=headers))
    assert '"OPTIONS / HTTP/1.1" 200 2 ' in lines.only
    assert [record for record in caplog.records if record.name == "disconnect_mw"] == []


async def test_a_head_has_no_bytes(lines: Lines) -> None:
    await call(logged(answers), http(), http_scope(method="HEAD"))
    assert '"HEAD / HTTP/1.1" 200 0 ' in lines.only


@pytest.mark.parametrize("format", ["common", "combined", "json"])
@pytest.mark.parametrize(
    "malformed",
    [
        {"query_string": "a=1"},
        {"query_string": None},
        {"raw_path": "/raw"},
        {"raw_path": None},
        {"headers": None},
        {"headers": [("user-agent", "a browser")]},
        {"client": None},
        {"client": []},
        {"client": "unix:"},
        {"client": ("", None)},
        {"http_version": None},
        {"method": None},
        {"path": None},
    ],
    ids=str,
)
async def test_a_scope_that_is_malformed_has_a_line(lines: Lines, malformed: Any, format: str) -> None:
    await call(AccessLog(answers, logger=logging.getLogger("access"), format=format), http(), http_scope(**malformed))  # type: ignore[arg-type]  # one of three
    assert "200" in lines.only


@pytest.mark.parametrize("missing", ["query_string", "raw_path", "headers", "client", "http_version", "method"])
async def test_a_scope_that_lacks_something_has_a_line(lines: Lines, missing: str) -> None:
    scope = http_scope()
    scope.pop(missing, None)
    await call(logged(answers, format="combined"), http(), scope)
    assert "200" in lines.only


async def test_what_the_client_chose_does_not_break_the_line(lines: Lines) -> None:
    await call(logged(answers), http(), http_scope(http_version='1.1"\r\nX', method='G"\nET', raw_path=b"/\r\n"))
    assert r'"G\"\x0aET /\x0d\x0a HTTP/1.1\"\x0d\x0aX" 200 14 ' in lines.only


@pytest.mark.parametrize("fails", [False, True])
async def test_a_line_that_cannot_be_written_changes_nothing(caplog: pytest.LogCaptureFixture, fails: bool) -> None:
    """The app's own error least of all."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answers(scope, receive, send)
        if fails:
            raise KeyError("the app's own")

    access_log = AccessLog(app, format="combined", logger=logging.getLogger("access"))
    scope = http_scope(headers=[("no pair",)])
    far = http()
    if fails:
        with pytest.raises(KeyError, match="the app's own"):
            await access_log(scope, far.receive, far.send)
    else:
        await access_log(scope, far.receive, far.send)
    assert caplog.messages == [
        "writing a line of the access log failed: please report this. The app goes on as it would without the "
        "middleware."
    ]


async def test_a_message_that_is_none_is_the_server_s_to_refuse(lines: Lines) -> None:
    class Takes:
        async def __call__(self, message: Any) -> None: ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (None, {"type": ["a"]}, {"type": "http.response.start", "status": 201}):
            await send(message)

    await AccessLog(app, logger=logging.getLogger("access"))(http_scope(), http().receive, Takes())
    assert " 201 0 " in lines.only


def test_a_logger_without_a_level_gets_one() -> None:
    """Else the root logger's counts, which is at WARNING, and nothing is written."""
    logger = logging.getLogger("access without a level")
    AccessLog(answers, logger=logger)
    assert logger.level == logging.INFO
    logger.setLevel("ERROR")
    AccessLog(answers, logger=logger)
    assert logger.level == logging.ERROR


@pytest.mark.usefixtures("soon")
async def test_every_exchange_is_checked(lines: Lines) -> None:
    """Under `mute` the app of a client that has left never asks, and the line has 499 all the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far_of(receive).leave()
        view = connection(scope)
        while view._found.disconnect_message is None:  # type: ignore[union-attr]  # it is a connection
            await anyio.sleep(0.001)

    await call(logged(app), http())
    assert " 499 0 " in lines.only
    AccessLog(app)
    assert OBSERVERS == [check_every_exchange]


async def test_lines_go_to_stdout_where_nothing_else_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ACCESS_LOGGER.handlers.clear()
    await call(AccessLog(AccessLog(DisconnectMiddleware(answers))), http())
    first, second = capsys.readouterr().out.splitlines()
    assert " 200 14 " in first and " 200 14 " in second
    (handler,) = ACCESS_LOGGER.handlers
    assert isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout
    assert not ACCESS_LOGGER.propagate


async def test_a_logger_that_is_configured_stays_so() -> None:
    handler = logging.NullHandler()
    ACCESS_LOGGER.handlers[:] = [handler]
    ACCESS_LOGGER.setLevel("WARNING")
    AccessLog(leaving)
    assert ACCESS_LOGGER.handlers == [handler]
    assert ACCESS_LOGGER.level == logging.WARNING


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "apache"}, ValueError, "format must be 'common', 'combined' or 'json', not 'apache'"),
        ({"logger": "access"}, TypeError, "logger must be a logging.Logger, or None, not 'access'"),
    ],
)
def test_what_there_is_not_is_refused(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        AccessLog(leaving, **options)
    with pytest.raises(TypeError, match="app must be an ASGI application, not 'app'"):
        AccessLog("app")
