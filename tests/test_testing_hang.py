"""`disconnect_mw.testing.Hang`: an app that does not end is a failure that names the await in which it hangs."""

from __future__ import annotations

import asyncio
import copy
import inspect
import types
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware, _frames
from disconnect_mw.testing import Hang, HTTPClient, Server, WebSocketClient, _hang, _tasks, servers, visit, visit_now

from .support.messages import CHUNK, DISCONNECT, START

on_each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])
LEFT = HTTPClient(leaves_after_messages=0)


def hang(app: Any, client: Any = LEFT, server: Server = servers.SPEC_SILENT, **options: Any) -> Hang:
    with pytest.raises(Hang) as raised:
        visit_now(app, client, server, patience=0.05, **options)
    return raised.value


def place(function: Callable[..., Any], line: str) -> str:
    """How the await in that line of `function` is named."""
    lines, first = inspect.getsourcelines(function)
    number = first + next(index for index, source in enumerate(lines) if line in source)
    return f'It hangs in\n\n  File "{__file__}", line {number}, in {function.__name__}\n    {line}\n'


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await anyio.sleep(60)


@on_each_backend
def test_the_await_is_named_with_its_line(backend: Any) -> None:
    error = hang(waits, backend=backend)
    assert isinstance(error, AssertionError)
    text = str(error)
    assert text.startswith("The app had not ended 0.05 s after its client left.\n")
    assert place(waits, "await anyio.sleep(60)") in text
    assert "http / on spec-silent\n-- the client leaves (fin) --" in text
    assert (error.transcript.ended, error.transcript.lines) == ("hung", [])
    assert copy.copy(error).transcript is error.transcript


async def inner() -> None:
    await anyio.sleep(60)


async def numbers() -> Any:
    yield 1
    await inner()


async def through_a_generator(scope: Any, receive: Any, send: Any) -> None:
    async for _ in numbers():
        pass


class Awaitable:
    def __await__(self) -> Any:
        yield from inner().__await__()


async def through_an_awaitable(scope: Any, receive: Any, send: Any) -> None:
    await Awaitable()


@on_each_backend
@pytest.mark.parametrize("app", [through_a_generator, through_an_awaitable])
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_chain_of_awaits_leads_from_the_app_to_the_await(app: Any, backend: Any) -> None:
    text = str(hang(app, backend=backend))
    assert place(inner, "await anyio.sleep(60)") in text
    chain = text.partition("chain of awaits:")[2].splitlines()
    functions = [line.rpartition(" in ")[2] for line in chain if line.startswith("  File")]
    between = {through_a_generator: "numbers", through_an_awaitable: "__await__"}[app]
    assert functions[:4] == [app.__name__, between, "inner", "sleep"]


async def child() -> None:
    await anyio.sleep(60)


async def parent(scope: Any, receive: Any, send: Any) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)


@on_each_backend
def test_the_tasks_that_the_app_has_started_are_named_too(backend: Any) -> None:
    text = str(hang(parent, backend=backend))
    assert "and a task that it has started is in" in text
    assert place(child, "await anyio.sleep(60)").removeprefix("It hangs in") in text


async def asks(request: Request) -> Response:
    await anyio.sleep(60)
    return Response()


async def passes_on(request: Request, call_next: Any) -> Response:
    return await call_next(request)  # type: ignore[no-any-return]  # Starlette's


@on_each_backend
def test_behind_a_framework_it_is_the_apps_own_line_that_is_named(backend: Any) -> None:
    app = Starlette(routes=[Route("/", asks)])
    text = str(hang(DisconnectMiddleware(app), backend=backend))
    assert place(asks, "await anyio.sleep(60)") in text
    app = Starlette(routes=[Route("/", asks)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=passes_on)])
    text = str(hang(app, backend=backend))
    assert place(asks, "await anyio.sleep(60)").removeprefix("It hangs in") in text


async def reads_again(scope: Any, receive: Any, send: Any) -> None:
    for _ in range(3):
        await receive()


@on_each_backend
def test_a_read_that_a_server_never_answers_is_named(backend: Any) -> None:
    error = hang(reads_again, server=servers.HYPERCORN_0_18_0, backend=backend)
    assert place(reads_again, "await receive()") in str(error)
    assert error.transcript.lines == ["receive: http.request (0 bytes)", "receive: http.disconnect"]
    wrapped = visit_now(DisconnectMiddleware(reads_again), LEFT, servers.HYPERCORN_0_18_0, backend=backend)
    assert wrapped.ended == "returned"


@on_each_backend
def test_a_send_that_never_comes_back_is_named(backend: Any) -> None:
    client = HTTPClient(leaves_after_seconds=0.01, stalls_after_messages=1)
    error = hang(streams, client, servers.GUNICORN_27_0_1, backend=backend)
    assert place(streams, "await send(CHUNK)") in str(error)


async def streams(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    while True:
        await send(CHUNK)


async def streams_stubbornly(scope: Any, receive: Any, send: Any) -> None:
    while True:
        try:
            await send(CHUNK)
        except BaseException:
            pass


async def reads_for_ever(scope: Any, receive: Any, send: Any) -> None:
    while True:
        await receive()


@on_each_backend
@pytest.mark.parametrize("app", [streams, reads_for_ever])
def test_a_loop_that_gives_no_other_task_a_turn_is_a_hang_too(app: Any, backend: Any) -> None:
    client = HTTPClient() if app is streams else LEFT
    error = hang(app, client, servers.UVICORN_0_54_0, backend=backend)
    assert place(app, "await send(CHUNK)" if app is streams else "await receive()") in str(error)
    assert "  (x " in str(error)


# What does not let itself be cancelled


async def eats(scope: Any, receive: Any, send: Any) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


async def shields(scope: Any, receive: Any, send: Any) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(60)


async def shields_in_a_child(scope: Any, receive: Any, send: Any) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shields, scope, receive, send)


@pytest.mark.parametrize(
    ("app", "backend"),
    [
        (eats, "asyncio"),
        *[
            (app, backend)
            for app in (shields, shields_in_a_child, streams_stubbornly)
            for backend in ("asyncio", "trio")
        ],
    ],
)
def test_an_app_that_eats_the_cancellation_is_not_waited_for(app: Any, backend: Any) -> None:
    async def visits() -> None:
        with anyio.fail_after(5), pytest.raises(Hang):
            await visit(app, LEFT, patience=0.05)

    assert visit_now_ends(app, backend)
    anyio.run(visits, backend=backend)


def visit_now_ends(app: Any, backend: Any) -> bool:
    return "It hangs in" in str(hang(app, backend=backend))


# What the client waits for


@on_each_backend
def test_a_client_that_waits_for_the_app_in_vain_says_what_for(backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        while await receive() != DISCONNECT:
            pass

    text = str(hang(app, HTTPClient(leaves_after_messages=3), backend=backend))
    assert "The client leaves after 3 messages and has got 1; for 0.05 s" in text
    text = str(hang(waits, HTTPClient(body=[b"a", b"b"], leaves_after_chunks=1), backend=backend))
    assert "The client leaves when the app has read 1 chunk of its body; for 0.05 s" in text


def test_a_client_that_stays_says_so() -> None:
    assert "The app had not ended after 0.05 s, and its client stays." in str(hang(waits, HTTPClient()))
    assert "and its client stays." in str(hang(waits, WebSocketClient()))
    text = str(hang(streams, HTTPClient(stalls_after_messages=1)))
    assert "and its client stays (it has stalled: it reads no more)." in text


@on_each_backend
def test_patience_counts_from_the_last_message_that_got_the_exchange_any_further(backend: Any) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            await receive()
            await anyio.sleep(0.2)
        await send(START)
        for _ in range(2):
            await anyio.sleep(0.2)
            await send(CHUNK)

    client = HTTPClient(body=[b"a", b"b", b"c"], leaves_after_messages=3)
    assert visit_now(slow, client, patience=0.8, backend=backend).ended == "returned"


@on_each_backend
def test_patience_counts_from_the_disconnect(backend: Any) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(0.7)

    client = HTTPClient(leaves_after_seconds=0.5)
    assert visit_now(slow, client, patience=0.6, backend=backend).ended == "returned"


# What is the application's own


def test_code_that_has_no_source_is_named_by_its_place() -> None:
    names: dict[str, Any] = {"anyio": anyio}
    exec(compile("async def app(scope, receive, send):\n    await anyio.sleep(60)", "nowhere.py", "exec"), names)
    assert 'It hangs in\n\n  File "nowhere.py", line 2, in app\n\nby' in str(hang(names["app"]))


def test_compiled_code_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames have no line (BlackSheep's)."""
    monkeypatch.setattr(_frames, "frame_of", lambda awaitable: types.SimpleNamespace(f_lineno=None))
    coroutine = inner()
    assert list(_tasks.frames_of(coroutine)) == []
    coroutine.close()
    assert not _hang.is_in_app("blacksheep/scribe.pyx")


def test_an_app_without_a_frame_is_named_by_none() -> None:
    assert _hang.describe_place([[]]) == "code that cannot be seen from outside"
    assert _hang.KnownHangs().find([[]]) is None


def test_a_library_is_named_where_there_is_nothing_else() -> None:
    own, library, ours = (waits.__code__, asyncio.sleep.__code__, DisconnectMiddleware.__call__.__code__)
    frames: list[Any] = [(types.SimpleNamespace(f_code=code), 1) for code in (own, library, ours)]
    assert _hang._innermost(frames) is frames[0]
    assert _hang._innermost(frames[1:]) is frames[1]
    assert _hang._innermost(frames[2:]) is frames[2]


@on_each_backend
def test_a_client_that_leaves_late_is_waited_for(backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while await receive() != DISCONNECT:
            pass

    assert visit_now(app, HTTPClient(leaves_after_seconds=0.3), patience=0.1, backend=backend).ended == "returned"


@on_each_backend
def test_a_stream_without_an_end_to_a_client_that_stays_is_a_hang(backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        while True:
            await send(CHUNK)
            await anyio.sleep(0.01)

    assert "and its client stays." in str(hang(app, HTTPClient(), backend=backend))


@on_each_backend
def test_each_message_of_a_websocket_client_gives_the_app_new_patience(backend: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(5):
            await receive()
            await anyio.sleep(0.2)

    client = WebSocketClient(messages=["a", "b", "c", "d", "e"])
    assert visit_now(app, client, patience=0.8, backend=backend).ended == "returned"


@on_each_backend
def test_a_loop_over_receives_that_a_middleware_answers_by_itself_is_a_hang(backend: Any) -> None:
    """Once the disconnect is known no call reaches the server, and none gives another task a turn."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()

    assert "receive: http.disconnect" in hang(DisconnectMiddleware(app), backend=backend).transcript.lines


@on_each_backend
def test_an_awaitable_that_answers_to_any_name_hides_no_hang(backend: Any) -> None:
    class Proxy:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("gi_"):
                raise RuntimeError("outside of its context")
            return Proxy()

    class Waiting:
        def __init__(self) -> None:
            self.proxy = Proxy()
            self.steps = anyio.sleep(60).__await__()

        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return next(self.steps)

        def send(self, value: Any) -> Any:
            return self.steps.send(value)

        def throw(self, *exception: Any) -> Any:
            return self.steps.throw(*exception)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Waiting()

    assert "await Waiting()" in str(hang(app, backend=backend))


def test_a_place_that_cannot_be_seen_is_told_as_that() -> None:
    assert _hang.describe_place([]) == "code that cannot be seen from outside"


def test_an_app_of_the_double_callable_is_one() -> None:
    """It takes one argument, and nothing is wrong with it."""

    def app(scope: Any) -> Any:
        async def run(receive: Any, send: Any) -> None:
            await send(START)
            await send({**CHUNK, "more_body": False})

        return run

    assert visit_now(app, HTTPClient(), servers.SPEC_SILENT).status == START["status"]
