"""Between ASGI and WSGI: an ASGI app in a2wsgi on a WSGI server, and a WSGI app in asgiref on uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any

import pytest
import uvicorn
from a2wsgi import ASGIMiddleware
from asgiref.wsgi import WsgiToAsgi

from disconnect_mw import DisconnectMiddleware, Policy

from ..servers.clients import Client
from .apps import ASKS, POLICIES, App, Ask, Probe

SECONDS = 10
"""After which anything that has not come is a hang."""

CHUNK = b"x" * 8192


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for task in self.tasks():
            self.loop.call_soon_threadsafe(task.cancel)
        wait_until(lambda: not self.tasks(), "end of all tasks")
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS)
        self.loop.close()

    def tasks(self) -> set[asyncio.Task[Any]]:
        async def tasks() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {asyncio.current_task()}

        return asyncio.run_coroutine_threadsafe(tasks(), self.loop).result(SECONDS)


class WSGIServer(ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """Python's own, with a thread for each request; `answered` has the number of those that it has done with."""

    answered = 0

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)
        self.answered += 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # it would print that the client has left


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def get_stderr(self) -> Any:
        return None


@contextlib.contextmanager
def served_by_wsgi(app: App, loop: Loop) -> Iterator[WSGIServer]:
    server = WSGIServer(("127.0.0.1", 0), Handler)
    server.set_app(ASGIMiddleware(app, loop=loop.loop))  # type: ignore[arg-type]  # stricter than an ASGI app
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


@contextlib.contextmanager
def served_by_uvicorn(app: App) -> Iterator[int]:
    """Serve `app` on the port that is yielded."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, date_header=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            wait_until(lambda: server.started, "start of uvicorn")
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_until(is_so: Callable[[], object], awaited: str) -> None:
    until = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > until:
            raise AssertionError(f"HANG: in {SECONDS} s there was no {awaited}")
        time.sleep(0.005)


def answer_of(port: int, ask: Ask) -> bytes:
    """Return all that the server answers, but for the time."""
    with Client(port) as client:
        length = f"Content-Length: {len(ask.body)}\r\n" if ask.body else ""
        head = f"{ask.method} {ask.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}\r\n"
        client.say(head.encode(), ask.body)
        while client.listen(SECONDS):
            pass
        return re.sub(rb"\r\nDate: [^\r]*", b"", client.came)


def leave_early(port: int, path: str) -> None:
    """Leave a response by RST after its first chunk."""
    with Client(port) as client:
        client.request(path)
        client.hear(CHUNK[:100])
        client.leave("rst")


@pytest.fixture(autouse=True)
def told(soon: None, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What logger disconnect_mw has said so far."""
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "disconnect_mw"]


# a2wsgi: an ASGI app under WSGI

NEVER_ANSWERED = ("/raw/after-end",)
"""Bare as well, a `receive` that begins after the response waits for ever."""


@pytest.mark.parametrize("ask", [ask for ask in ASKS if ask.path not in NEVER_ANSWERED], ids=lambda ask: ask.path)
def test_an_asgi_app_under_wsgi_answers_as_bare(ask: Ask, told: Callable[[], list[str]]) -> None:
    before = threading.active_count()
    answers = []
    for policy in (None, *POLICIES):
        probe = Probe()
        app = probe if policy is None else probe.wrapped(policy, send_timeout=SECONDS)
        with Loop() as loop:
            with served_by_wsgi(app, loop) as server:
                answer = answer_of(server.server_port, ask)
                wait_until(lambda server=server: server.answered, "end of the request")  # type: ignore[misc]
            if ask.path != "/bug":  # a2wsgi loses a task of its own where an app raises while another one receives
                wait_until(lambda loop=loop: not loop.tasks(), "end of all tasks")  # type: ignore[misc]
        answers.append((answer, probe.seen, probe.told))
    assert answers == [answers[0]] * 5
    assert (told(), threading.active_count()) == ([], before)


class Pouring:
    """An ASGI app that sends for longer than any client of these tests stays."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for number in range(1000):
                await send({"type": "http.response.body", "body": CHUNK, "more_body": number < 999})
        except BaseException as exception:
            self.ended.append(type(exception).__name__)
            raise
        self.ended.append("returned")


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_an_asgi_app_under_wsgi_waits_in_send_when_its_client_leaves(
    policy: Policy | None, told: Callable[[], list[str]]
) -> None:
    """Bare and wrapped: the one generator that could wake it has been closed by then, and nothing tells of it."""
    app, hooked = Pouring(), list[Any]()
    wrapped = DisconnectMiddleware(app, policy=policy, on_disconnect=hooked.append) if policy else app
    with Loop() as loop, served_by_wsgi(wrapped, loop) as server:
        leave_early(server.server_port, "/")
        wait_until(lambda: server.answered, "end of the request")
        assert (bool(loop.tasks()), app.ended, hooked, told()) == (True, [], [], [])
    assert app.ended == ["CancelledError"], "by the test, which cancels it"


@pytest.mark.parametrize(
    ("policy", "ended"),
    [("mute", "returned"), ("finish", "returned"), ("cancel", "CancelledError"), ("raise", "ClientDisconnected")],
)
def test_send_timeout_frees_an_asgi_app_under_wsgi(policy: Policy, ended: str, told: Callable[[], list[str]]) -> None:
    app, hooked = Pouring(), list[Any]()
    wrapped = DisconnectMiddleware(app, policy=policy, send_timeout=1, on_disconnect=hooked.append)
    with Loop() as loop, served_by_wsgi(wrapped, loop) as server:
        leave_early(server.server_port, "/")
        wait_until(lambda: app.ended, "end of the app")
        wait_until(lambda: not loop.tasks(), "end of the task")
        wait_until(lambda: server.answered, "end of the request")
    assert (app.ended, len(hooked), len(told())) == ([ended], 1, 1)


# asgiref's WsgiToAsgi: a WSGI app behind this middleware


class WSGIApp:
    """A WSGI app that answers, echoes and streams, and notes how its iterables end."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.sent = 0
        self.more = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        path, body = environ["PATH_INFO"], environ["wsgi.input"].read()
        if path == "/bug":
            raise ValueError("the app's own")
        start_response("200 OK", [("content-type", "text/plain"), ("x-length", str(len(body)))])
        return self.pour() if path == "/pour" else iter([body] if body else [b"one", b"two", b"three"])

    def pour(self) -> Iterator[bytes]:
        try:
            for _ in range(20):
                self.sent += 1
                yield CHUNK
                if self.sent == 1:
                    self.more.wait(SECONDS)
        finally:
            self.ended.append("closed" if self.sent < 20 else "exhausted")


@pytest.mark.parametrize("ask", [Ask("/plain"), Ask("/echo", b"z" * 100 * 1024), Ask("/bug")], ids=lambda ask: ask.path)
def test_a_wsgi_app_in_asgiref_answers_as_bare(ask: Ask, told: Callable[[], list[str]]) -> None:
    hooked = list[Any]()
    answers, threads = [], []
    for policy in (None, *POLICIES):
        inner = WsgiToAsgi(WSGIApp())  # type: ignore[no-untyped-call]  # it is not annotated
        app = inner if policy is None else DisconnectMiddleware(inner, policy=policy, on_disconnect=hooked.append)
        with served_by_uvicorn(app) as port:
            answers.append(answer_of(port, ask))
        threads.append(threading.active_count())
    assert answers == [answers[0]] * 5
    assert answers[0].startswith(b"HTTP/1.1 500" if ask.path == "/bug" else b"HTTP/1.1 200")
    assert (told(), hooked, threads) == ([], [], [threads[0]] * 5)


@pytest.mark.parametrize(
    ("policy", "ended", "sent"),
    [("mute", "exhausted", 20), ("finish", "exhausted", 20), ("cancel", "exhausted", 20), ("raise", "closed", 2)],
)
def test_a_client_of_a_wsgi_app_in_asgiref_leaves(
    policy: Policy, ended: str, sent: int, told: Callable[[], list[str]]
) -> None:
    """The thread of a WSGI app cannot be cancelled: it goes on to its end, or to the first message that raises."""
    before = threading.active_count()
    app, hooked = WSGIApp(), list[Any]()
    inner = WsgiToAsgi(app)  # type: ignore[no-untyped-call]  # it is not annotated
    wrapped = DisconnectMiddleware(inner, policy=policy, on_disconnect=hooked.append)
    with served_by_uvicorn(wrapped) as port:
        leave_early(port, "/pour")
        wait_until(lambda: hooked, "call of the hook")
        app.more.set()
        wait_until(lambda: app.ended, "end of the iterable")
        wait_until(told, "line")
        assert answer_of(port, Ask("/plain")).endswith(b"0\r\n\r\n")
    assert (app.ended, app.sent, len(hooked), len(told())) == ([ended], sent, 1, 1)
    assert threading.active_count() <= before + 1, "asgiref keeps one thread"
