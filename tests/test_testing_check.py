"""`disconnect_mw.testing.check`: what an app does when its clients leave, on every server, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import gc
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from fastapi import FastAPI, Header, UploadFile
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.testing import (
    PHASES,
    FaultsFound,
    HTTPClient,
    HTTPServerBehaviour,
    Report,
    Server,
    WebSocketClient,
    check,
    check_now,
    servers,
)
from disconnect_mw.testing._check import _lifespan, _watch
from disconnect_mw.testing._check._departures import departures, in_parts
from disconnect_mw.testing._check._stays import Stay
from disconnect_mw.testing._check._watch import Seen

from .support.leaving import BODY, BadApp, GoodApp
from .support.messages import CHUNK, FINAL, START

# A connection that leaks has a thread of aiosqlite's, which fails once it is given back: its event loop is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

IS_FULL = bool(os.environ.get("TESTS_FULL"))

FEW = (
    servers.SPEC_SILENT,
    servers.UVICORN_0_28_0,
    servers.UVICORN_0_54_0,
    servers.HYPERCORN_0_18_0_HTTP2,
    servers.DAPHNE_4_2_3,
    servers.GRANIAN_1_7_6,
    servers.GUNICORN_27_0_1,
)
"""As different as can be; `TESTS_FULL=1` plays all."""

SERVERS = servers.ALL if IS_FULL else FEW
ONE = (servers.UVICORN_0_54_0,)


@pytest.fixture(autouse=True)
def _no_thread_fails_later() -> Iterator[None]:
    """Each such thread fails here, and not in a test of another module."""
    yield
    threads = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
    if threads:
        gc.collect()
        for thread in threads:
            thread.join(1)


def kinds(report: Report) -> set[tuple[str, str]]:
    return {(fault.request, fault.kind) for fault in report.faults}


def mended(report: Report) -> set[tuple[str, str]]:
    return {(fault.request, fault.kind) for fault in report.mended}


def briefly(app: Any, paths: Any, **options: Any) -> Report:
    """A check on one server, with little patience, which raises nothing."""
    options = {"servers": ONE, "patience": 0.5, "lifespan": False, "raise_faults": False, **options}
    return check_now(app, paths, **options)


# The six faults


def test_a_bad_app_is_found_out_in_each_of_its_faults(tmp_path: Path) -> None:
    report = check_now(BadApp(tmp_path), BadApp.requests, servers=SERVERS, patience=0.3, raise_faults=False)
    assert kinds(report) == BadApp.faults
    assert report.notes == ()
    by_request = {fault.request: fault for fault in report.faults}
    assert {name: fault.sentence.partition(", in ")[2].partition(":")[0] for name, fault in by_request.items()} == {
        "GET /endless": "endless",
        "GET /swallows": "go_on",
        "GET /leaks-a-task": "beat",
        "GET /leaks-a-connection": "leaks_a_connection",
        "GET /logs": "logs",
        "POST /keeps-half": "",
        "POST /takes-half": "",
    }
    assert by_request["POST /keeps-half"].sentence.startswith("It keeps 534 of 1600 bytes in a file, such as ")
    assert by_request["POST /takes-half"].sentence == "It answers 201, although 534 of 1600 bytes came"
    assert by_request["GET /endless"].phases == ("before the response", "after the first bytes", "mid-stream")
    assert by_request["GET /endless"].ways == ("FIN", "RST")
    assert set(by_request["GET /swallows"].servers) >= {"daphne-4.2.3", "gunicorn-27.0.1"}
    assert all(fault.transcript is not None for fault in report.faults)


# A file that a thread has opened is lost where the await of the thread is cancelled: on a busy machine Starlette's.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_good_app_is_found_out_in_none(tmp_path: Path) -> None:
    report = await check(GoodApp(tmp_path), GoodApp.requests, servers=SERVERS, patience=0.8)
    gc.collect()
    assert report.faults == ()
    assert len(report.requests) == len(GoodApp.requests)
    assert {("GET /idle", "endless"), ("POST /saves", "traceback")} <= mended(report)


async def streams(send: Any) -> None:
    await send(START)
    while True:
        with contextlib.suppress(OSError):
            await send(CHUNK)
        await anyio.sleep(0.01)


class OnTrio:
    """A bad app on trio, whose lifespan has a nursery for its tasks."""

    def __init__(self) -> None:
        self.nursery: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with trio.open_nursery() as self.nursery:
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self.nursery.cancel_scope.cancel()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await getattr(self, scope["path"].removeprefix("/").replace("-", "_"))(receive, send)

    async def endless(self, receive: Any, send: Any) -> None:
        await streams(send)

    async def swallows(self, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await anyio.sleep(0.25)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await anyio.sleep(3600)
            raise
        await send(FINAL)

    async def leaks(self, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        with trio.move_on_after(0.2):
            if (await receive())["type"] == "http.disconnect":
                self.nursery.start_soon(trio.sleep_forever)
        await send(FINAL)

    async def fails(self, receive: Any, send: Any) -> None:
        await receive()
        with trio.move_on_after(0.2):
            await receive()
            raise ExceptionGroup("both", [ValueError("the client has left")])
        await send(START)
        await send(FINAL)

    async def good(self, receive: Any, send: Any) -> None:
        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.05)
        await send(FINAL)


def test_an_app_on_trio_is_found_out_too() -> None:
    paths = ["/endless", "/swallows", "/leaks", "/fails", "/good"]
    app = OnTrio()
    chosen = SERVERS if IS_FULL else (servers.SPEC_SILENT, servers.UVICORN_0_28_0, servers.GUNICORN_27_0_1)
    report = check_now(app, paths, servers=chosen, patience=0.3, raise_faults=False, backend="trio")
    assert kinds(report) == {
        ("GET /endless", "endless"),
        ("GET /swallows", "swallowed cancellation"),
        ("GET /leaks", "leaked task"),
        ("GET /fails", "traceback"),
    }
    sentences = {fault.request: fault.sentence for fault in report.faults}
    assert sentences["GET /leaks"] == "It leaves a task running: sleep_forever"
    assert sentences["GET /fails"].startswith("It raises ValueError: the client has left at tests/")


# What is reported


def test_the_report_says_what_happens_where_when_on_which_servers_and_what_to_do() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await streams(send)

    with pytest.raises(FaultsFound) as raised:
        check_now(app, ["/stream?n=1"], servers=[*FEW[:2], *FEW[4:]], patience=0.5, lifespan=False)
    report = raised.value.report
    assert str(raised.value) == str(report)
    assert copy.copy(raised.value).report is report
    lines = str(report).splitlines()
    assert lines[0].startswith("1 fault in 1 route (30 departures, 5 servers, ")
    assert lines[1:3] == ["", "GET /stream?n=1: endless"]
    assert lines[3].startswith("  It still sends (") and " 0.5 s after its client has left, at tests/" in lines[3]
    assert lines[4:7] == [
        "  When: before the response, after the first bytes, mid-stream, by FIN",
        "  On: spec-silent, uvicorn-0.28.0, granian-1.7.6",
        '  Do: end it when its client leaves: DisconnectMiddleware(app, policy_for={"/stream": "cancel"})',
    ]
    assert lines[7:9] == ["", "Without the middleware also:"]
    assert lines[9].startswith("  GET /stream?n=1: traceback on 1 server: It raises ClientDisconnected at tests/")


def test_many_servers_are_summed_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise ValueError("a" * 200)

    report = check_now(
        DisconnectMiddleware(app),
        ["/"],
        phases=["before the response"],
        patience=0.2,
        lifespan=False,
        raise_faults=False,
    )
    (fault,) = report.faults
    assert "\n  On: spec-silent, spec-raising, uvicorn-0.13.4 and " in str(fault)
    assert "…" in fault.sentence and len(fault.sentence) < 300


def test_what_the_middleware_mends_is_told_once_for_each_kind() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    report = briefly(app, ["/"], servers=[servers.UVICORN_0_28_0, servers.SPEC_RAISING])
    assert report.faults == ()
    (line,) = [line for line in str(report).splitlines() if "traceback" in line]
    assert line.startswith("  GET /: traceback on 1 server: It raises ")
    assert line.endswith("of which the server writes a traceback (and 3 more)")


# The two sides


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    await streams(send)


def test_the_bare_app_is_judged_where_nothing_wraps_it() -> None:
    report = briefly(refuses, ["/"], wrap=None, servers=[servers.UVICORN_0_28_0])
    assert {fault.kind for fault in report.faults} == {"endless", "traceback"}
    assert report.mended == ()


def test_another_policy_is_tried_by_another_wrapper() -> None:
    report = briefly(refuses, ["/"], wrap=lambda app: DisconnectMiddleware(app, policy="cancel"), patience=1.5)
    assert (kinds(report), mended(report)) == (set(), {("GET /", "endless")})


@pytest.mark.parametrize("is_inside", [False, True])
def test_an_app_that_has_the_middleware_is_taken_as_it_is_and_bare_without_it(is_inside: bool) -> None:
    original = DisconnectMiddleware.__call__
    app: Any = Starlette(routes=[Route("/", lambda request: StreamingResponse(numbers()))])
    if is_inside:
        app.add_middleware(DisconnectMiddleware, policy="cancel")
    report = briefly(app, ["/"], wrap=None if not is_inside else lambda app: app, servers=[servers.UVICORN_0_28_1])
    assert kinds(report) == (set() if is_inside else {("GET /", "endless")})
    assert mended(report) == ({("GET /", "endless")} if is_inside else set())
    assert DisconnectMiddleware.__call__ is original


async def numbers() -> AsyncIterator[str]:
    while True:
        yield "1"
        await anyio.sleep(0.01)


def test_an_answer_that_is_another_with_the_middleware_is_a_fault() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    def wrap(app: Any) -> Any:
        async def other(scope: Any, receive: Any, send: Any) -> None:
            await send({**START, "status": 201, "headers": [(b"x-other", b"1")]})
            await send(FINAL)

        return other

    (fault,) = briefly(app, ["/"], wrap=wrap).faults
    assert fault.kind == "different answer" and fault.phases == fault.ways == () and fault.transcript is None
    assert fault.sentence == "A client that stays gets another header x-other, status with the middleware"
    assert "  When: while the client stays\n  On: uvicorn-0.54.0\n  Do: please report it" in str(fault)


def test_what_varies_by_itself_is_no_other_answer() -> None:
    count = iter(range(1000))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"x-request-id", str(next(count)).encode())]})
        await send({**FINAL, "body": b"same"})

    assert briefly(app, ["/"]).faults == ()


def test_a_server_on_which_the_bare_app_answers_otherwise_is_mended() -> None:
    """gunicorn's worker tells of a disconnect where a `receive` was cancelled, although the client is there."""

    async def endpoint(request: Request) -> Response:
        for _ in range(3):
            if await request.is_disconnected():
                return PlainTextResponse("nobody is there")
        return PlainTextResponse("welcome")

    report = briefly(Starlette(routes=[Route("/", endpoint)]), ["/"], servers=[servers.GUNICORN_27_0_1])
    assert report.faults == ()
    (fault,) = [fault for fault in report.mended if fault.kind == "different answer"]
    assert fault.sentence.startswith("A client that stays gets another body") and fault.servers == ("gunicorn-27.0.1",)


# What is no fault


def test_what_waits_for_a_thread_is_no_fault() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        if (await receive())["type"] == "http.disconnect":
            await anyio.to_thread.run_sync(lambda: __import__("time").sleep(1.5))
        await send(FINAL)

    assert briefly(app, ["/"], phases=["after the first bytes"], wrap=None).faults == ()


def test_what_is_not_answered_in_time_is_no_fault_and_told() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(1.2)
        await send(START)
        await send(FINAL)

    report = briefly(app, ["/"], patience=0.3, wrap=None)
    assert report.faults == ()
    assert report.notes == (
        "GET / is not answered within 0.3 s, so clients leave before that only: give more patience",
    )


def test_a_server_that_tells_only_after_a_send_has_told_nothing_to_an_app_that_sends_nothing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(CHUNK)
        while (await receive())["type"] != "http.disconnect":
            pass

    assert (
        briefly(app, ["/"], servers=[servers.GRANIAN_1_7_6], wrap=None, phases=["after the first bytes"]).faults == ()
    )


def test_a_client_that_waits_in_vain_for_the_moment_to_leave_is_no_fault() -> None:
    answers = iter([5, 5, 1, 1, 1, 1])  # chunks

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(next(answers, 1)):
            await send(CHUNK)
        await anyio.sleep(3600)

    report = briefly(app, ["/"], phases=["mid-stream"], wrap=None, patience=0.3)
    assert report.faults == ()


def test_a_task_that_ends_soon_after_its_exchange_is_no_leak() -> None:
    tasks = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.add(asyncio.create_task(asyncio.sleep(0.1)))
        tasks.add(asyncio.get_running_loop().create_task(asyncio.sleep(0.1), context=contextvars.Context()))
        await send(START)
        await send(FINAL)

    assert briefly(app, ["/"]).faults == ()


def test_a_task_that_is_not_the_apps_own_code_is_named_by_where_it_was_started() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(3600)))
        await send(START)
        await send(FINAL)

    tasks: list[Any] = []
    before = [*map(id, tasks)]
    (fault,) = briefly(app, ["/"]).faults
    assert before == [] and fault.sentence.startswith("It leaves a task running: sleep, started at tests/test_")


def test_the_task_factory_of_the_loop_is_used_and_set_again() -> None:
    made = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.create_task(asyncio.sleep(0))
        await send(START)
        await send(FINAL)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        await check(app, ["/"], servers=ONE, lifespan=False)
        assert loop.get_task_factory() is factory

    asyncio.run(run())
    assert len(made) > 5


# Logs


def test_errors_are_found_in_loggers_that_do_not_propagate_and_usual_ones_are_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = logging.getLogger("tests.apart")
    apart.propagate = False
    apart.addHandler(logging.NullHandler())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        apart.error("as ever\nand more")
        apart.warning("no error")
        apart.info("not of interest", exc_info=ValueError("x"))
        await receive()
        await send(START)
        if (await receive())["type"] == "http.disconnect":
            apart.error("the client has left")
            logging.getLogger("litestar").warning("", exc_info=ConnectionError())
        await send(FINAL)

    faults = briefly(app, ["/"], phases=["after the first bytes"]).faults
    assert [(fault.kind, fault.sentence) for fault in faults] == [
        ("traceback", "Logger tests.apart writes an error: the client has left"),
        ("traceback", "Logger litestar writes a traceback of ConnectionError"),
    ]
    assert (
        faults[1].advice
        == "have that logger drop it, once all imports are done: disconnect_mw.observe.logging.install()"
    )
    assert caplog.records == []  # they are told once, by the report
    caplog.clear()
    apart.propagate = True
    apart.error("outside of a check")
    assert len(caplog.records) == 1
    monkeypatch.setattr(logging, "lastResort", None)
    assert briefly(answers, ["/"]).faults == ()


def test_what_a_task_raises_and_nothing_awaits_is_found() -> None:
    async def fails() -> None:
        raise ValueError("in a task")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        if (await receive())["type"] == "http.disconnect":
            tasks.append(asyncio.create_task(fails()))
        await send(FINAL)

    tasks: list[Any] = []
    (fault,) = briefly(app, ["/"], phases=["after the first bytes"]).faults
    assert fault.sentence.startswith("Logger asyncio writes a traceback of ValueError: in a task at tests/")


def test_what_a_task_raises_while_the_client_stays_as_well_is_usual() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def fails() -> None:
            raise ValueError("as ever")

        tasks.append(asyncio.create_task(fails()))
        await asyncio.sleep(0)
        await send(START)
        await send(FINAL)

    tasks: list[Any] = []
    assert briefly(app, ["/"]).faults == ()


# Uploads


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_saved_elsewhere_than_in_a_file_is_seen_by_a_function_of_the_users(is_async: bool) -> None:
    rows: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            rows.append(message["body"])
            more = message["more_body"]
        await send(START)
        await send(FINAL)

    async def saved() -> Any:
        return rows

    report = briefly(app, [HTTPClient("/", body=b"abc")], saved=saved if is_async else lambda: rows)
    (fault,) = report.faults
    assert (fault.kind, fault.sentence) == (
        "half upload",
        "What is saved is not the same after the upload that was cut as before",
    )
    assert briefly(app, [HTTPClient("/", body=b"abc")], saved=lambda: None).faults == ()


def test_an_answer_that_began_before_the_disconnect_or_without_the_body_is_no_half_upload() -> None:
    async def begins(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await receive()
        await send(FINAL)

    async def ignores(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    for app in (begins, ignores):
        assert briefly(app, [HTTPClient("/", body=BODY)]).faults == ()


def test_only_files_that_hold_a_part_of_the_upload_count(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body, more = body + message["body"], message["more_body"]
        (tmp_path / "log").write_text("a request\n")
        (tmp_path / "tiny").write_bytes(body[:2])
        fd = os.open(tmp_path / "by-os", os.O_RDWR | os.O_CREAT)
        os.close(fd)
        open(os.dup(os.open(tmp_path / "log", os.O_RDONLY)), closefd=True).close()
        with contextlib.suppress(OSError):
            open(tmp_path, "w")
        if more:
            (tmp_path / "framed").write_bytes(b"head" + body)
            return
        await send(START)
        await send(FINAL)

    (fault,) = briefly(app, [HTTPClient("/", body=BODY)], phases=["during the upload"]).faults
    assert fault.sentence.startswith("It keeps 538 of 1600 bytes in a file, such as ")
    assert fault.sentence.endswith("framed")


def test_a_file_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        (tmp_path / "half").write_bytes(message["body"])
        if message["more_body"] and (await receive())["type"] == "http.disconnect":
            return
        await receive()
        await send(START)
        await send(FINAL)

    monkeypatch.setattr(os.path, "getsize", lambda path: exec("raise OSError"))
    assert briefly(app, [HTTPClient("/", body=BODY)], phases=["during the upload"]).faults == ()


# Bad input


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(FINAL)


def factory() -> Any:
    return answers


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((factory,), {}, TypeError, r"not factory, which takes no arguments: if it is a factory, pass .* factory\(\)"),
        ((FastAPI,), {}, TypeError, "not the class FastAPI: pass the instance"),
        (("main:app",), {}, TypeError, "not 'main:app': pass the object, not its import path"),
        ((answers, "/stream"), {}, TypeError, "paths must be a list, not '/stream': put it into brackets"),
        ((answers, HTTPClient("/")), {}, TypeError, "paths must be a list, not HTTPClient"),
        ((answers, 7), {}, TypeError, "paths must be a list, not 7"),
        ((answers, ["stream"]), {}, ValueError, "path must begin with '/', not 'stream': write '/stream'"),
        ((answers, [7]), {}, TypeError, "paths must hold paths, HTTPClients and WebSocketClients, not 7"),
        ((answers, []), {}, ValueError, r"paths is empty: pass paths=\[\"/path\"\]"),
        (
            (answers, [HTTPClient("/", leaves_after_messages=1)]),
            {},
            ValueError,
            "GET / has leaves_after_messages, but check has its clients leave in all ways: omit it",
        ),
        (
            (answers, [WebSocketClient("/ws", leaves_before_accept=True)]),
            {},
            ValueError,
            "WebSocket /ws has leaves_before_accept",
        ),
        ((answers, ["/"]), {"phases": ["midstream"]}, ValueError, "phases must hold 'mid-stream', not 'midstream'"),
        ((answers, ["/"]), {"phases": ["x"]}, ValueError, "phases must hold 'during the upload' or 'before the"),
        ((answers, ["/"]), {"phases": "mid-stream"}, TypeError, "phases must be a list, not 'mid-stream'"),
        ((answers, ["/"]), {"phases": []}, ValueError, "phases is empty: leave it out for all of them"),
        (
            (answers, ["/"]),
            {"servers": ["uvicorn-0.28"]},
            ValueError,
            "servers must hold 'uvicorn-0.28.1' or 'uvicorn-0.28.0' or ",
        ),
        ((answers, ["/"]), {"servers": [7]}, ValueError, "servers must hold 'spec-silent' or .*, not 7"),
        ((answers, ["/"]), {"wrap": "cancel"}, TypeError, "wrap must be a function of the app that returns the"),
        ((answers, ["/"]), {"wrap": lambda app: None}, TypeError, "app must be an ASGI application, not None"),
        ((answers, ["/"]), {"saved": []}, TypeError, r"saved must be a function that returns what is saved, not \[\]"),
        ((answers, ["/"]), {"unsafe": 1}, TypeError, "unsafe must be True or False, not 1"),
        ((answers, ["/"]), {"lifespan": "off"}, TypeError, "lifespan must be True or False, not 'off'"),
        ((answers, ["/"]), {"patience": 0}, ValueError, "patience must be more than 0 seconds"),
        ((answers, ["/"]), {"headers": ["accept"]}, TypeError, "headers must hold tuple or list"),
        ((answers, ["/"]), {"backend": "uvloop"}, ValueError, "backend must be 'asyncio' or 'trio'"),
        ((Starlette(),), {}, ValueError, "no OpenAPI document at /openapi.json, .*: pass paths"),
    ],
)
def test_a_wrong_argument_is_told_in_one_sentence(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        check_now(*arguments, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.anyio
async def test_check_is_awaited_and_check_now_is_not() -> None:
    with pytest.raises(RuntimeError, match="an event loop runs here: use `await check"):
        check_now(answers, ["/"])
    report = await check(answers, ["/"], servers=["uvicorn-0.54.0"], phases=PHASES, lifespan=False)
    assert report.requests == ("GET /",)
    with pytest.raises(FaultsFound, match="^1 fault in 1 route"):
        await check(refuses, ["/"], servers=ONE, patience=0.2, lifespan=False)


def test_check_without_an_event_loop_says_what_to_use() -> None:
    with pytest.raises(RuntimeError, match=r"no event loop runs here: use check_now\(...\)"):
        check(answers, ["/"])  # type: ignore[unused-coroutine]  # that is the mistake


def test_a_path_that_is_wrong_is_told() -> None:
    async def fails(request: Request) -> Response:
        raise ValueError("a bug")

    async def refuses(websocket: WebSocket) -> None:
        await websocket.close()

    app = Starlette(
        routes=[
            Route("/", lambda request: Response()),
            Route("/fails", fails),
            Route("/500", lambda request: Response(status_code=500)),
            WebSocketRoute("/ws", refuses),
        ]
    )
    wrong: dict[Any, str] = {
        "/nowhere": "GET /nowhere is answered 404: look for a misspelling",
        HTTPClient("/", method="PUT"): "PUT / is answered 405: look for a misspelling, or give the method",
        "/500": "GET /500 is answered 500",
        "/fails": r"GET /fails raises ValueError: a bug, at tests/\S+py:\d+, in fails while its client stays: mend",
        WebSocketClient("/ws"): "WebSocket /ws is refused with 403: look for a misspelling, or give the headers",
    }
    for path, words in wrong.items():
        with pytest.raises(ValueError, match=words):
            check_now(app, ["/", path])


def test_an_exit_of_the_app_ends_the_check() -> None:
    async def exits(scope: Any, receive: Any, send: Any) -> None:
        raise SystemExit("enough")

    async def exits_later(scope: Any, receive: Any, send: Any) -> None:
        if (await receive())["type"] == "http.disconnect":
            raise SystemExit("enough")
        await send(START)
        await send(FINAL)

    for app in (exits, exits_later):
        with pytest.raises((SystemExit, BaseExceptionGroup)):
            check_now(app, ["/"], servers=ONE, lifespan=False)


async def welcomes(websocket: WebSocket) -> None:
    await websocket.accept()


def test_phases_and_servers_can_be_chosen() -> None:
    own = Server("own", HTTPServerBehaviour(spec_version="2.4"))
    app = Starlette(routes=[Route("/", lambda request: Response()), WebSocketRoute("/", welcomes)])
    report = briefly(app, ["/", WebSocketClient("/")], servers=[own, "spec-silent"], phases=["before the response"])
    assert (report.servers, report.departures, report.requests) == (2, 4, ("GET /",))
    assert report.notes == ("WebSocket / has none of the phases: before the response",)


def test_no_path_in_any_phase_is_an_error() -> None:
    with pytest.raises(ValueError, match="no path could be tried: .*GET / has none of the phases: while open"):
        briefly(answers, ["/"], phases=["while open"])


# The lifespan


class Lifespan:
    """An app that answers what its lifespan has left in the state."""

    def __init__(self, *answers: str) -> None:
        self.answers = answers
        self.events: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["word"] = b"hello"
            for answer in self.answers:
                self.events.append((await receive())["type"])
                await send({"type": answer, "message": "Traceback:\n  no database"})
            return
        await send(START)
        await send({**FINAL, "body": scope["state"]["word"]})


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_lifespan_is_run(backend: Any) -> None:
    app = Lifespan("lifespan.startup.complete", "lifespan.shutdown.complete")
    assert briefly(app, ["/"], backend=backend, lifespan=True).faults == ()
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]


def test_an_app_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lifespan, "_SECONDS_TO_END", 0.1)
    app = Lifespan("lifespan.startup.complete", "lifespan.shutdown.complete", "lifespan.startup.complete")
    assert briefly(app, ["/"], lifespan=True).faults == ()
    assert app.events == ["lifespan.startup", "lifespan.shutdown"]


def test_an_app_whose_start_fails_is_told() -> None:
    with pytest.raises(RuntimeError, match="the app's start-up has failed: no database$"):
        briefly(Lifespan("lifespan.startup.failed"), ["/"], lifespan=True)


def test_an_app_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(3600)

    monkeypatch.setattr(_lifespan, "_SECONDS_TO_START", 0.1)
    with pytest.raises(RuntimeError, match=r"not ended after 0.1 s, at tests/\S+, in app: .*: pass lifespan=False"):
        briefly(app, ["/"], lifespan=True)


def test_an_app_without_a_lifespan_is_left_alone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await answers(scope, receive, send)

    assert briefly(app, ["/"], lifespan=True).faults == ()
    assert briefly(Lifespan(), [HTTPClient("/", state={"word": b"own"})], lifespan=False).faults == ()


# OpenAPI


class Item(BaseModel):
    name: str
    price: float
    tags: list[str] = []


def documented() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{number}")
    async def item(number: int, kind: str, x_token: str = Header()) -> dict[str, Any]:
        return {"number": number, "kind": kind, "token": x_token}

    @app.post("/items")
    async def new(item: Item) -> Item:
        return item

    @app.post("/files")
    async def files(file: UploadFile) -> int:
        return len(await file.read())

    @app.get("/missing")
    async def missing() -> Response:
        return Response(status_code=404)

    @app.get("/forbidden")
    async def forbidden() -> Response:
        return Response(status_code=403)

    @app.get("/broken")
    async def broken() -> Response:
        raise ValueError("a bug")

    return app


def test_the_paths_of_an_openapi_document_are_tried_and_those_that_write_where_that_is_said() -> None:
    report = briefly(documented(), None, headers={"x-token": "secret"})
    assert (report.requests, report.departures) == (("GET /items/1?kind=check",), 4)
    assert report.notes[:2] == (
        "2 routes that write are not tried (POST, PUT, PATCH, DELETE): unsafe=True tries them, and they do write",
        "WebSockets are not in an OpenAPI document: name them by paths",
    )
    assert report.notes[2].startswith("GET /missing is answered 404: look for a misspelling, or give the method, ")
    assert report.notes[3].startswith("GET /forbidden is answered 403: name it in paths, with the headers and the body")
    assert report.notes[4].startswith("GET /broken raises ValueError: a bug, at tests/")
    report = briefly(documented(), None, unsafe=True)
    assert report.requests == ("GET /items/1?kind=check", "POST /items", "POST /files")
    assert (report.faults, report.departures) == ((), 16)


def test_what_has_no_example_is_left_out_and_told() -> None:
    async def document(request: Request) -> Response:
        return JSONResponse({"paths": {"/": {"get": {}}, "/{id}": {"get": {}}}})

    report = briefly(Starlette(routes=[Route("/openapi.json", document), Route("/", document)]), None)
    assert report.notes[0] == ("GET /{id} is not tried: a parameter of its path is not described; name it by paths")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", r"/openapi.json: the OpenAPI document is not JSON \(.*\): pass paths"),
        (b'{"paths": []}', '/openapi.json: the OpenAPI document has no "paths": pass paths'),
    ],
)
def test_a_document_that_is_none_is_told(body: bytes, words: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**FINAL, "body": body})

    with pytest.raises(ValueError, match=words):
        briefly(app, None)


def test_a_document_elsewhere_is_found() -> None:
    async def document(request: Request) -> Response:
        return JSONResponse({"paths": {"/": {"get": {}}}})

    async def never(request: Request) -> Response:
        await anyio.sleep(3600)
        raise AssertionError

    routes = [Route("/openapi.json", never), Route("/schema/openapi.json", document), Route("/", document)]
    report = briefly(Starlette(routes=routes), None)
    assert report.requests == ("GET /",)
    with pytest.raises(ValueError, match="no path could be tried: .*; WebSockets are not"):
        briefly(Starlette(routes=[Route("/openapi.json", lambda request: JSONResponse({"paths": {}}))]), None)


# When clients leave


def test_a_body_is_cut_into_parts_and_announced_as_before() -> None:
    client = in_parts(HTTPClient("/", body=b"abcdefg"))
    assert isinstance(client, HTTPClient)
    assert client.chunks() == (b"abc", b"def", b"g")
    assert client.scope()["headers"] == [(b"content-length", b"7")]
    for other in (
        HTTPClient("/"),
        HTTPClient("/", body=b"a"),
        HTTPClient("/", body=[b"a", b"b"]),
        WebSocketClient("/"),
    ):
        assert in_parts(other) is other


def moments(client: Any, count: int, is_whole: bool, first_after: float = 0, server: Server = FEW[0]) -> list[Any]:
    seen = Stay([CHUNK] * count, is_whole, 1, first_after, False, "", frozenset(), Seen())
    return [
        (
            departure.phase,
            next(
                getattr(departure.client, name)
                for name in (
                    "leaves_after_messages",
                    "leaves_after_seconds",
                    "leaves_after_chunks",
                    "leaves_before_accept",
                )
                if getattr(departure.client, name, None) is not None and getattr(departure.client, name) is not False
            ),
            departure.client.leaves_by,
        )
        for departure in departures(client, seen, [server], PHASES)
    ]


def test_clients_leave_in_each_phase_that_a_response_has() -> None:
    client = HTTPClient("/")
    before = ("before the response", 0, "fin")
    assert moments(client, 0, True) == [before]
    assert moments(client, 0, False, 2) == [before, ("before the response", 0.2, "fin")]
    assert moments(client, 2, True, 0.2) == [
        before,
        ("before the response", 0.1, "fin"),
        ("after the first bytes", 1, "fin"),
    ]
    assert moments(client, 3, True) == [before, ("after the first bytes", 2, "fin")]
    assert moments(client, 12, False)[1:] == [("after the first bytes", 2, "fin"), ("mid-stream", 6, "fin")]
    upload = HTTPClient("/", body=[b"a", b"b"])
    assert moments(upload, 0, True) == [("during the upload", 1, "fin"), before]
    assert moments(client, 0, True, server=servers.HYPERCORN_0_18_0_HTTP2) == [before, (before[0], 0, "rst")]
    socket = WebSocketClient("/")
    assert moments(socket, 0, False) == [("before the accept", True, "fin")]
    assert moments(socket, 3, True) == [
        ("before the accept", True, "fin"),
        ("while open", 1, "fin"),
        ("while open", 1, "close"),
        ("while open", 2, "fin"),
        ("while open", 2, "close"),
    ]
    assert [way for _, _, way in moments(socket, 1, False, server=servers.GRANIAN_1_7_6)] == [
        *("fin", "rst"),
        *("fin", "rst", "close") * 2,
    ]
    old = moments(socket, 1, True, server=servers.UVICORN_0_13_4_WSPROTO)
    assert old == [("before the accept", True, "rst")]


def test_servers_whose_behaviour_is_the_same_are_played_once_and_cancel_soon() -> None:
    seen = Stay([], True, 1, 0, False, "", frozenset(), Seen())
    found = list(departures(HTTPClient("/"), seen, servers.ALL, PHASES))
    assert ("uvicorn-0.20.0", "uvicorn-0.27.0", "uvicorn-0.34.3", "uvicorn-0.54.0") == tuple(
        name for name in found[3].servers if "wsproto" not in name and "sansio" not in name
    )
    assert {one.server.http.cancels_after for one in found} == {None, 0.1}
    assert sum(len(one.servers) for one in found if one.client.leaves_by == "fin") == len(servers.ALL)


def test_a_server_that_never_tells_is_left_out_and_named() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    report = briefly(app, [WebSocketClient("/")], servers=[servers.UVICORN_0_13_4_WSPROTO])
    assert report.notes == ("uvicorn-0.13.4-wsproto never tells of a WebSocket that was lost by FIN: not tried",)


# Pools


def test_a_connection_of_a_synchronous_pool_is_watched_too(tmp_path: Path) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        connection = engine.connect()
        connection.execute(text("select 1"))
        await send(START)
        if (await receive())["type"] == "http.disconnect" and scope["path"] == "/keeps":
            kept.append(connection)
            raise ValueError("and so it is never closed")
        connection.close()
        await send(FINAL)

    report = briefly(app, ["/keeps", "/gives"], phases=["after the first bytes"])
    assert kinds(report) == {("GET /keeps", "leaked connection"), ("GET /keeps", "traceback")}
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of a queue
    kept.clear()
    engine.dispose()


@pytest.mark.filterwarnings("ignore:The garbage collector is trying:sqlalchemy.exc.SAWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("by", ["by the app", "by another"])
def test_what_only_the_garbage_collector_gives_back_is_a_leak(tmp_path: Path, by: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    kept: list[Any] = []
    states = Lifespan("lifespan.startup.complete", "lifespan.shutdown.complete")

    def collect() -> None:
        kept.clear()
        gc.collect()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            async with AsyncSession(engine) as session:
                await session.execute(text("select 1"))  # in no exchange
                await states(scope, receive, send)
            await engine.dispose()
            return
        await receive()
        await send(START)
        kept.append(AsyncSession(engine))
        await kept[-1].execute(text("select 1"))
        if (await receive())["type"] == "http.disconnect":
            if by == "by the app":
                collect()
            else:
                asyncio.get_running_loop().call_later(0.05, collect, context=contextvars.Context())
        else:
            await kept.pop().close()
        await send(FINAL)

    faults = briefly(app, ["/"], phases=["after the first bytes"], lifespan=True).faults
    gc.collect()  # here, where its warnings of connections that were not closed are ignored
    assert [fault.kind for fault in faults] == ["leaked connection"]
    assert faults[0].sentence.endswith(", in app")


def test_a_connection_that_is_taken_in_no_exchange_is_none_of_its_business() -> None:
    from sqlalchemy import create_engine

    engine = create_engine("sqlite://")
    with _watch._watching_pools(), engine.connect():
        pass
    engine.dispose()


def test_what_another_exchange_gives_back_is_no_leak_of_this_one() -> None:
    seen = Seen()
    token = _watch.seen_now.set(seen)
    with _watch._watching_logs():
        logging.getLogger("tests").error("%s <connection>", _watch._COLLECTED)
    _watch.seen_now.reset(token)
    assert (seen.leaked_connections(), seen.logged) == ([], [])


def test_files_that_are_opened_to_be_written_are_noted() -> None:
    """Called by hand: nothing traces the code of an audit hook."""
    seen = Seen()
    events: list[tuple[str, tuple[Any, ...]]] = [
        ("import", ("os",)),
        ("open", ("a", "r", os.O_RDONLY)),
        ("open", ("b", "w", os.O_WRONLY)),
        ("open", (b"c", None, os.O_RDWR)),
        ("open", (7, "wb", os.O_WRONLY)),
        ("open", ("d", None, None)),
    ]
    with _watch._watching_files():
        for event in events:
            _watch._note_open(*event)
        token = _watch.seen_now.set(seen)
        for event in events:
            _watch._note_open(*event)
    _watch._note_open("open", ("e", "w", os.O_WRONLY))
    _watch.seen_now.reset(token)
    assert seen.files == {os.path.abspath("b"), os.path.abspath("c")}
