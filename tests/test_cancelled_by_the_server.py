"""Every departure is told, also where the server cancels the app in the turn in which it would tell of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.middleware.base import BaseHTTPMiddleware

from disconnect_mw import DisconnectMiddleware, _telling, connection

from .support.apps import through
from .support.messages import CHUNK, DISCONNECT, REQUEST, START, http_scope
from .support.records import ended
from .support.serving import on_asyncio, turns

FIRST = {"type": "http.request", "body": b"part", "more_body": True}

pytestmark = [pytest.mark.anyio, on_asyncio]


class Server:
    """Tells of the disconnect and cancels the app at once, in the order that is asked for."""

    def __init__(self, incoming: list[Any], tells: Callable[[], Any] | None = None) -> None:
        self._incoming = [*incoming]
        self._has_left = asyncio.Event()
        self._tells = tells
        self.reads = 0
        self.closed = 0

    async def receive(self) -> Any:
        self.reads += 1
        if self._incoming:
            return self._incoming.pop(0)
        try:
            await self._has_left.wait()
        except GeneratorExit:
            self.closed += 1
            raise
        return dict(DISCONNECT) if self._tells is None else self._tells()

    async def send(self, message: Any) -> None:
        pass

    def leave(self) -> None:
        self._has_left.set()


async def reads_its_body(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await asyncio.Event().wait()


async def streams(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(START)
    while True:
        await send(CHUNK)
        await asyncio.sleep(0)


async def reads_nothing(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


async def play(
    app: Any, server: Server, seconds: float, order: str, **options: Any
) -> tuple[dict[str, Any], list[Any]]:
    """Have the client leave after so many seconds. Returns the scope, and what the hook was called with."""
    scope, told = http_scope(), list[Any]()
    middleware = DisconnectMiddleware(app, on_disconnect=told.append, **options)
    task = asyncio.ensure_future(middleware(scope, server.receive, server.send))
    await asyncio.sleep(seconds)
    steps: list[Callable[[], Any]] = [server.leave, task.cancel]
    for step in steps if order == "tells, then cancels" else reversed(steps):
        step()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled(), "the server's own cancellation passes"
    return scope, told


@pytest.mark.parametrize("order", ["tells, then cancels", "cancels, then tells"])
@pytest.mark.parametrize("policy", ["mute", "finish", "cancel", "raise"])
@pytest.mark.parametrize(
    ("app", "seconds"),
    [(reads_its_body, 0.01), (reads_its_body, 0.15), (streams, 0.01), (streams, 0.15), (reads_nothing, 0.15)],
)
async def test_a_departure_is_told_before_and_after_the_first_check(
    app: Any, seconds: float, policy: Any, order: str
) -> None:
    scope, told = await play(app, Server([REQUEST]), seconds, order, policy=policy)
    assert [disconnect.phase for disconnect in told] == [
        "during the response" if app is streams else "before the response"
    ]
    assert ended(scope) == "cancelled"
    assert not connection(scope).connected


async def cancelled_again(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    try:
        await asyncio.Event().wait()
    finally:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)  # in the turn in which the edge finds out


@pytest.mark.parametrize("policy", ["mute", "finish", "cancel", "raise"])
async def test_a_departure_is_told_where_the_server_cancels_twice(
    policy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """echocorn does. Nothing is left of the exchange: no timer would find one that is over."""
    caplog.set_level("INFO", logger="disconnect_mw")
    waiting = _recorded(monkeypatch, _telling.abandoned)
    scope, told = await play(cancelled_again, Server([REQUEST]), 0.15, "cancels, then tells", policy=policy)
    assert [disconnect.phase for disconnect in told] == ["before the response"]
    assert ended(scope) == "cancelled"
    assert len(caplog.records) == 1
    assert not any(waiting)


def _recorded(monkeypatch: pytest.MonkeyPatch, timer: Any) -> list[dict[Any, Any]]:
    """What the timer's `add` will return: the exchanges that wait for it."""
    waiting: list[dict[Any, Any]] = []
    add = timer.add

    def recorded(*arguments: Any) -> dict[Any, Any]:
        waiting.append(add(*arguments))
        return waiting[-1]

    monkeypatch.setattr(timer, "add", recorded)
    return waiting


async def test_a_base_exception_of_the_servers_receive_passes_the_edge() -> None:
    class Stop(BaseException):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise asyncio.CancelledError

    def stop() -> Any:
        raise Stop

    server = Server([REQUEST], stop)
    server.leave()
    with pytest.raises(Stop):
        await DisconnectMiddleware(app, policy="cancel")(http_scope(), server.receive, server.send)


async def test_a_cancellation_without_a_departure_is_none() -> None:
    """And the server's `receive` is not cancelled: gunicorn's `asgi` worker would take the client for gone."""
    server = Server([REQUEST])
    server.leave = lambda: None  # type: ignore[method-assign]  # it stays
    scope, told = await play(reads_its_body, server, 0.01, "tells, then cancels")
    assert (told, server.reads, server.closed) == ([], 2, 1)
    assert connection(scope).connected


async def test_a_cancel_scope_of_middleware_outside_has_nothing_read() -> None:
    """It is not the server that has cancelled the app, and what would be read in the scope is lost."""
    server = Server([REQUEST])
    with anyio.move_on_after(0.01) as scope:
        await DisconnectMiddleware(reads_its_body, policy="cancel")(http_scope(), server.receive, server.send)
    assert (scope.cancelled_caught, server.reads) == (True, 1)


async def test_a_receive_of_middleware_that_opens_a_group_of_tasks_is_not_called_at_the_end() -> None:
    server = Server([REQUEST])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="No response returned"):
        inner = DisconnectMiddleware(app, policy="cancel")
        await BaseHTTPMiddleware(inner, through)(http_scope(), server.receive, server.send)
    await turns()
    assert server.reads == 1


async def test_nothing_is_read_for_an_app_that_has_failed() -> None:
    server = Server([REQUEST])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise LookupError

    with pytest.raises(LookupError):
        await DisconnectMiddleware(app, policy="cancel")(http_scope(), server.receive, server.send)
    assert server.reads == 1


async def test_nothing_is_read_of_a_body_that_the_app_has_not_asked_for() -> None:
    server = Server([FIRST])
    _, told = await play(reads_its_body, server, 0.01, "tells, then cancels")
    assert (told, server.reads) == ([], 1)


async def test_a_receive_that_raises_tells_nothing() -> None:
    def fail() -> Any:
        raise ConnectionResetError

    _, told = await play(reads_its_body, Server([REQUEST], fail), 0.01, "tells, then cancels")
    assert told == []


async def test_a_message_that_is_no_disconnect_tells_nothing() -> None:
    server = Server([REQUEST], lambda: dict(FIRST))
    _, told = await play(reads_its_body, server, 0.01, "tells, then cancels")
    assert (told, server.reads) == ([], 2)


async def test_an_app_that_has_ended_pushes_out_no_orphan() -> None:
    goes_on, server = asyncio.Event(), Server([REQUEST])
    middleware: Any = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await (goes_on.wait() if scope["path"] == "/goes-on" else asyncio.Event().wait())

    middleware = DisconnectMiddleware(app, max_orphans=1)
    orphan_server, orphan_scope = Server([REQUEST]), http_scope(path="/goes-on")
    orphan = asyncio.ensure_future(middleware(orphan_scope, orphan_server.receive, orphan_server.send))
    await asyncio.sleep(0)
    orphan_server.leave()
    while connection(orphan_scope).connected:
        await asyncio.sleep(0.01)
    task = asyncio.ensure_future(middleware(http_scope(), server.receive, server.send))
    await asyncio.sleep(0.01)
    server.leave()
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    goes_on.set()
    await asyncio.wait_for(orphan, 5)
    assert ended(orphan_scope) == "returned"


class Awaitable:
    """What a server in another language may return from `receive`: no coroutine."""

    def __await__(self) -> Any:
        return iter([None, None])


async def test_a_receive_that_returns_no_coroutine_is_left() -> None:
    scope = http_scope()

    def receive() -> Any:
        return Awaitable()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def send(message: Any) -> None:
        pass

    with pytest.raises(asyncio.CancelledError):
        await DisconnectMiddleware(app, policy="cancel")(scope, receive, send)


async def test_a_server_that_repeats_the_request_is_not_asked_for_ever() -> None:
    server = Server([])
    server.receive = repeated = _Repeated()  # type: ignore[method-assign]  # another server's
    _, told = await play(reads_its_body, server, 0.01, "tells, then cancels")
    assert (told, repeated.count) == ([], 3)


async def test_a_request_that_the_app_has_not_read_is_left_to_whoever_stands_outside() -> None:
    """An error handler may read its body."""
    server = Server([REQUEST])
    _, told = await play(reads_nothing, server, 0.01, "tells, then cancels")
    assert (told, server.reads) == ([], 0)


class _Repeated:
    count = 0

    async def __call__(self) -> Any:
        self.count += 1
        return dict(REQUEST)
