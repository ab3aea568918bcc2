"""What the probe of `disconnect-mw check` tells from within a server's process; here the server is the test."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from disconnect_mw import DisconnectMiddleware, _frames, _middleware
from disconnect_mw._check import _exchange, _places, _probe
from disconnect_mw._check._exchange import Exchange, current
from disconnect_mw._check._loading import NotLoaded, load
from disconnect_mw._check._probe import VARIABLE, Probe

SECONDS = 20.0  # no wait here is longer

pytestmark = pytest.mark.anyio

Fact = dict[str, Any]


class Check:
    """The other end of the probe's connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.facts: list[Fact] = []
        self._news = threading.Condition()
        self._connection: socket.socket | None = None
        self._asked = 0
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with self._news:
                self._connection = connection
                self._news.notify_all()
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    with self._news:
                        self.facts.append(json.loads(line))
                        self._news.notify_all()

    def wait(self, wanted: Callable[[Fact], Any]) -> Fact:
        with self._news:
            assert self._news.wait_for(lambda: any(map(wanted, self.facts)), SECONDS), self.facts
            return next(fact for fact in self.facts if wanted(fact))

    def ask(self, do: str, **arguments: Any) -> Any:
        self._asked += 1
        asked = self._asked
        with self._news:
            assert self._news.wait_for(lambda: self._connection is not None, SECONDS)
        assert self._connection is not None
        self._connection.sendall(json.dumps({"id": asked, "do": do, **arguments}).encode() + b"\n")
        return self.wait(lambda fact: fact.get("answer") == asked)["found"]

    async def ask_in_loop(self, do: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(self.ask, do, **arguments)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()
        self._listener.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # of which the servers' probe speaks


@pytest.fixture
def check() -> Iterator[Check]:
    check = Check()
    yield check
    check.close()


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The probe is made for a process of its own: what it changes there is put back here."""
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)
    monkeypatch.setattr(DisconnectMiddleware, "__init__", DisconnectMiddleware.__init__)
    monkeypatch.setattr(DisconnectMiddleware, "__call__", DisconnectMiddleware.__call__)
    monkeypatch.setattr(_middleware, "inside", None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(_places, "bases", [])
    monkeypatch.setattr(_probe, "bases", _places.bases)
    yield
    logging.captureWarnings(False)
    tracemalloc.stop()


@pytest.fixture
def ended() -> list[int]:
    return []


@pytest.fixture
def make(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: list[int]
) -> Iterator[Callable[..., Probe]]:
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    made: list[Probe] = []
    listeners: list[tuple[Any, ...]] = []
    listen = event.listen

    def noted_listen(*listener: Any, **options: Any) -> None:
        listeners.extend([listener] if listener[0] is Pool else [])
        listen(*listener, **options)

    monkeypatch.setattr(event, "listen", noted_listen)

    def make(app: Any, *, is_wrapped: bool = False, **options: Any) -> Probe:
        module = types.ModuleType("probed")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "probed", module)
        settings = {"port": check.port, "token": "t", "app": "probed:app", "app_dir": str(tmp_path), "factory": False}
        probe = Probe({**settings, "is_wrapped": is_wrapped, "options": options}, ended.append)
        made.append(probe)
        return probe

    yield make
    for probe in made:
        probe.channel.close()
    for listener in listeners:  # which a probe never removes: its process ends
        event.remove(*listener)


def scope(port: int = 5, **more: Any) -> Any:
    return {
        "type": "http",
        "client": ("127.0.0.1", port),
        "asgi": {},
        "path": "/",
        "method": "GET",
        "headers": [],
        **more,
    }


async def nothing(scope: Any, receive: Any, send: Any) -> None: ...


class Server:
    """A server of one exchange: what it delivers, and what it is sent."""

    def __init__(self, *delivered: Any) -> None:
        self._delivered = [*delivered]
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if not self._delivered:
            await asyncio.Event().wait()
        return self._delivered.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)


START = {"type": "http.response.start", "status": 201, "headers": []}
BODY = {"type": "http.response.body", "body": b"body"}
REQUEST = {"type": "http.request", "body": b"half", "more_body": True}
DISCONNECT = {"type": "http.disconnect"}


async def test_an_exchange_is_noted_and_told(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> str:
        await receive()
        await receive()
        await send(START)
        await send(BODY)
        return "result"

    probe, server = make(app), Server(REQUEST, DISCONNECT)
    assert await probe(scope(port=7), server.receive, server.send) == "result"
    assert server.sent == [START, BODY]
    assert check.wait(lambda fact: fact.get("begin") == 7)["has_own"] is False
    assert check.wait(lambda fact: fact.get("end") == 7)["token"] == "t"
    record = await check.ask_in_loop("record", port=7)
    assert [message[1:] for message in record["messages"]] == [
        ["receive", "http.request", 4],
        ["receive", "http.disconnect", 0],
        ["send", "http.response.start", 0],
        ["send", "http.response.body", 4],
    ]
    assert record["began"] <= record["told_at"] <= record["status_at"] <= record["ended"]
    assert (record["how"], record["raised"], record["status"], record["sent"]) == ("returned", None, 201, 2)
    assert (record["bytes_received"], record["has_whole_body"], record["tasks"], record["files"]) == (4, False, [], [])
    assert await check.ask_in_loop("record", port=8) is None


async def test_of_a_long_exchange_the_first_messages_are_kept(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(100):
            await send(BODY)

    server = Server()
    await make(app)(scope(), server.receive, server.send)
    record = await check.ask_in_loop("record", port=5)
    assert (len(record["messages"]), len(record["sends"]), record["sent"]) == (60, 100, 100)


async def test_wrapped_what_is_muted_is_seen_too(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send(START)
        await send({**BODY, "more_body": True})
        await send({**BODY, "more_body": True})

    probe, server = make(app, is_wrapped=True), Server(DISCONNECT)
    await probe(scope(), server.receive, server.send)
    assert [message.get("body", b"") for message in server.sent] == [b"", b""]  # the orderly end
    record = await check.ask_in_loop("record", port=5)
    assert record["sent"] == 3
    assert _probe._around_current({}, "receive", "send")[0] != "receive"  # in the context of an exchange
    with_none = asyncio.get_running_loop().create_task(_outside(_probe._around_current, {}, "receive", "send"))
    assert await with_none == ("receive", "send")


async def _outside(function: Callable[..., Any], *arguments: Any) -> Any:
    current.set(None)
    return function(*arguments)


async def test_an_app_with_the_middleware_is_not_wrapped_again(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not own:
            own.append(DisconnectMiddleware(inner, policy="cancel"))
        await own[0](scope, receive, send)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    own: list[DisconnectMiddleware] = []
    probe, server = make(app, is_wrapped=True), Server()
    for port in (5, 6):
        await probe(scope(port), server.receive, server.send)
    assert check.wait(lambda fact: fact.get("begin") == 5)["has_own"] is False
    assert check.wait(lambda fact: fact.get("begin") == 6)["has_own"] is True
    assert (await check.ask_in_loop("record", port=6))["sent"] == 1


async def test_bare_the_middleware_that_an_app_has_is_passed_by(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        await send(BODY)

    seen: list[str] = []
    probe, server = make(DisconnectMiddleware(app, policy="cancel")), Server(DISCONNECT)
    await probe(scope(), server.receive, server.send)
    assert (seen, server.sent) == (["http.disconnect"], [BODY])


async def test_how_an_app_ends_is_told(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/raises":
            raise ValueError("a bug")
        await receive()

    probe, server = make(app), Server()
    with pytest.raises(ValueError, match="a bug"):
        await probe(scope(5, path="/raises"), server.receive, server.send)
    task = asyncio.create_task(probe(scope(6), server.receive, server.send))
    await asyncio.to_thread(check.wait, lambda fact: fact.get("begin") == 6)
    where = await check.ask_in_loop("where", port=6)
    assert (
        where["place"].startswith(os.path.relpath(__file__)) and where["source"] == "await receive()" or where["source"]
    )
    assert where["in_thread"] is False
    await check.ask_in_loop("cancel", port=6)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await check.ask_in_loop("cancel", port=99) is None
    raised = (await check.ask_in_loop("record", port=5))["raised"]
    assert (raised["kind"], raised["text"], raised["is_of_departure"]) == ("ValueError", "a bug", False)
    assert ", in app" in raised["place"] and raised["traceback"][-1] == "ValueError: a bug"
    cancelled = await check.ask_in_loop("record", port=6)
    assert (cancelled["how"], cancelled["raised"]["is_of_departure"]) == ("cancelled", True)


@pytest.mark.parametrize("has_context", [True, False])
async def test_tasks_that_are_left_are_told(
    check: Check, make: Callable[..., Probe], has_context: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.12 a task does not tell its context, and each is noted as it is made."""
    if has_context and sys.version_info < (3, 12):
        pytest.skip("tasks tell their context from Python 3.12 on")
    if not has_context:
        monkeypatch.setattr(_exchange, "TASKS_TELL_THEIR_CONTEXT", False)
        monkeypatch.setattr(_probe, "TASKS_TELL_THEIR_CONTEXT", False)

    async def heartbeat() -> None:
        await asyncio.Event().wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left.append(asyncio.create_task(heartbeat()))
        await asyncio.create_task(asyncio.sleep(0))

    left: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    try:
        probe, server = make(app), Server()
        before = asyncio.create_task(heartbeat())
        await probe(scope(), server.receive, server.send)
        record = await check.ask_in_loop("record", port=5)
        (told,) = record["tasks"]
        assert told.startswith("test_tasks_that_are_left_are_told.<locals>.heartbeat, ") and ".py:" in told
        for task in (before, *left):
            task.cancel()
        await asyncio.gather(before, *left, return_exceptions=True)
        assert (await check.ask_in_loop("record", port=5))["tasks"] == []
    finally:
        loop.set_task_factory(factory)


async def test_a_factory_of_tasks_that_is_there_is_kept(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    try:
        _probe._note_tasks(loop)
        await asyncio.create_task(asyncio.sleep(0))
        assert len(made) == 1
    finally:
        loop.set_task_factory(before)


def test_a_task_that_a_server_runs_is_none_of_the_app_s() -> None:
    frame: Any = types.SimpleNamespace(f_globals={"__name__": "hypercorn.asyncio.tcp_server"})
    task: Any = types.SimpleNamespace(get_coro=lambda: None)
    assert not _exchange.is_servers_task(task)
    assert _frames.package_of(frame) == "hypercorn"


async def test_files_that_a_handler_writes_are_told(check: Check, make: Callable[..., Probe], tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        (tmp_path / "kept").write_bytes(b"12345")
        (tmp_path / "kept").write_bytes(b"1234")
        with (tmp_path / "removed").open("xb"):
            (tmp_path / "removed").unlink()
        (tmp_path / "kept").read_bytes()
        with (tmp_path / "log").open("a"):
            pass
        os.close(os.open(tmp_path / "low", os.O_WRONLY | os.O_CREAT))
        with open(os.open(tmp_path / "low", os.O_RDONLY)):  # a descriptor is no path
            pass

    server = Server()
    await make(app)(scope(), server.receive, server.send)
    record = await check.ask_in_loop("record", port=5)
    assert record["files"] == [[str(tmp_path / "kept"), 4], [str(tmp_path / "low"), 0]]


async def test_connections_of_a_pool_that_are_not_given_back_are_told(
    check: Check, make: Callable[..., Probe], tmp_path: Path
) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/shop.db")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with engine.connect():
            pass
        kept.append(engine.connect())

    kept: list[Any] = []
    probe, server = make(app), Server()
    outside = engine.connect()  # of no exchange
    await probe(scope(5), server.receive, server.send)
    await probe(scope(6), server.receive, server.send)
    outside.close()
    assert [(await check.ask_in_loop("record", port=port))["connections"] for port in (5, 6)] == [1, 1]
    current.set(None)
    for connection in kept:
        connection.close()
    assert [(await check.ask_in_loop("record", port=port))["connections"] for port in (5, 6)] == [0, 0]
    engine.dispose()


async def test_without_sqlalchemy_no_pool_is_watched(
    check: Check, make: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sqlalchemy.pool", raising=False)
    make(nothing)
    assert check.wait(lambda fact: "loaded" in fact)["loaded"]["framework"] is None


# The log


async def test_log_records_are_told_once_and_with_their_exchange(check: Check, make: Callable[..., Probe]) -> None:
    logger = logging.getLogger("shop")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        logger.info("not told")
        logger.warning("told %s", "once")
        raise ConnectionResetError("gone")

    probe, server = make(app), Server()
    handled: list[Any] = []
    handler: Any = logging.Handler()
    handler.emit = handled.append
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with pytest.raises(ConnectionResetError) as raised:
            await probe(scope(), server.receive, server.send)
        current.set(None)
        logging.getLogger("server").error("logged elsewhere", exc_info=raised.value)
        logging.getLogger("server").error("of none", exc_info=ValueError())
        logging.getLogger("asyncio").error("Task was destroyed but it is pending!")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert handled == []
    check.wait(lambda fact: fact.get("text", "").startswith("Task was destroyed"))
    logs = [(fact["text"], fact["port"]) for fact in check.facts if "log" in fact]
    assert logs == [
        ("told once", 5),
        ("logged elsewhere", 5),
        ("of none", None),
        ("Task was destroyed but it is pending!", None),
    ]
    elsewhere = check.wait(lambda fact: fact.get("text") == "logged elsewhere")
    assert elsewhere["exception"]["kind"] == "ConnectionResetError"
    assert elsewhere["exception"]["is_of_departure"] is True


def test_what_a_departure_causes() -> None:
    def raised(exception: BaseException) -> BaseException:
        try:
            raise exception
        except BaseException as caught:
            return caught

    starlette: Any = type("ClientDisconnect", (Exception,), {"__module__": "starlette.requests"})
    assert _places.is_of_departure(raised(asyncio.CancelledError()))
    assert _places.is_of_departure(raised(starlette()))
    assert _places.is_of_departure(raised(BrokenPipeError(32, "Broken pipe")))
    assert not _places.is_of_departure(raised(ValueError()))
    assert not _places.is_of_departure(raised(FileNotFoundError(2, "none")))
    assert not _places.is_of_departure(raised(ConnectionRefusedError(111, "refused")))
    # What a server's own code raises.
    code = compile("raise RuntimeError('Unexpected ASGI message')", "x.py", "exec")
    with pytest.raises(RuntimeError) as of_server:
        exec(code, {"__name__": "uvicorn.protocols.http"})
    assert _places.is_of_departure(of_server.value)
    group = BaseExceptionGroup("two", [raised(starlette()), raised(KeyError("mine"))])
    assert not _places.is_of_departure(group)
    assert (_places.place_of(group) or "").endswith(", in raised")
    assert _places.place_of(ValueError()) is None
    assert _places.describe(starlette("x"))["kind"] == "starlette.requests.ClientDisconnect"


# Commands


async def test_an_answer_comes_though_a_command_fails(check: Check, make: Callable[..., Probe]) -> None:
    make(nothing)
    check.wait(lambda fact: "loaded" in fact)
    assert await check.ask_in_loop("ping") is None
    assert (await check.ask_in_loop("no such"))["failed"] == "KeyError: 'no such'"


async def test_memory_is_told_with_the_place_of_its_growth(check: Check, make: Callable[..., Probe]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        hoard.append(bytes(500_000))

    hoard: list[bytes] = []
    probe, server = make(app), Server()
    await probe(scope(4), server.receive, server.send)
    await check.ask_in_loop("measure", on=True)
    assert await check.ask_in_loop("record", port=4) is None
    before = await check.ask_in_loop("memory", mark=True)
    await probe(scope(), server.receive, server.send)
    assert await check.ask_in_loop("record", port=5) is None  # nothing of the probe's own may grow meanwhile
    after = await check.ask_in_loop("memory", compare=True)
    assert 500_000 <= after["bytes"] - before["bytes"] < 600_000
    assert Path(__file__).name in after["place"]
    assert (await check.ask_in_loop("memory"))["place"] is None
    await check.ask_in_loop("measure", on=False)
    assert not tracemalloc.is_tracing()


def test_without_growth_there_is_no_place() -> None:
    tracemalloc.start()
    snapshot = tracemalloc.take_snapshot()
    assert _probe._place_of_growth(snapshot, snapshot) is None


async def test_the_table_of_routes_is_told(check: Check, make: Callable[..., Probe]) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route, WebSocketRoute

    async def endpoint(request: Any) -> None: ...

    inner = Starlette(routes=[Route("/b", endpoint, methods=["POST"])])
    make(Starlette(routes=[Route("/a", endpoint), WebSocketRoute("/ws", endpoint), Mount("/in", inner)]))
    facts = check.wait(lambda fact: "loaded" in fact)["loaded"]
    assert facts["framework"] == "starlette" and "uvicorn" in facts["versions"]
    assert await check.ask_in_loop("routes") == [
        {"path": "/a", "methods": ["GET", "HEAD"], "is_websocket": False},
        {"path": "/ws", "methods": [], "is_websocket": True},
        {"path": "/in/b", "methods": ["POST"], "is_websocket": False},
    ]


async def test_a_loop_that_has_ended_gives_no_answer(check: Check, make: Callable[..., Probe]) -> None:
    probe = make(nothing)

    def serve() -> None:
        server = Server()
        asyncio.run(probe(scope(), server.receive, server.send))

    await asyncio.to_thread(serve)
    assert check._connection is not None
    check._connection.sendall(b'{"id": 1, "do": "ping"}\n')
    await asyncio.to_thread(check.wait, lambda fact: "end" in fact)
    assert not any("answer" in fact for fact in check.facts)


def test_the_process_ends_with_the_check(check: Check, make: Callable[..., Probe], ended: list[int]) -> None:
    """Also where the check was killed: no server is left behind."""
    probe = make(nothing)
    check.wait(lambda fact: "loaded" in fact)
    check.close()
    limit = time.monotonic() + SECONDS
    while not ended:
        assert time.monotonic() < limit
        time.sleep(0.01)
    for _ in range(100):
        probe.channel.tell(nothing="more")  # which raises nothing, and may take a while to be refused


# The lifespan


@pytest.mark.parametrize(
    ("sends", "told"),
    [
        ([{"type": "lifespan.startup.complete"}], {"started": True}),
        (
            [{"type": "lifespan.startup.failed", "message": "Traceback\nKeyError: 'url'"}],
            {"failed": "its start-up fails: KeyError: 'url'", "traceback": ["Traceback", "KeyError: 'url'"]},
        ),
        ([{"type": "lifespan.startup.failed"}], {"failed": "its start-up fails: it gives no reason"}),
        ([{"type": "lifespan.shutdown.complete"}], {"started": True}),
    ],
)
async def test_whether_the_app_has_started_is_told(
    sends: list[Any], told: Fact, check: Check, make: Callable[..., Probe]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in sends:
            await send(message)

    server = Server()
    await make(app)({"type": "lifespan"}, server.receive, server.send)
    assert server.sent == sends
    check.wait(lambda fact: told.items() <= fact.items())


# The import


def written(directory: Path, name: str, text: str) -> str:
    (directory / f"{name}.py").write_text(text)
    return str(directory)


@pytest.mark.parametrize(
    ("text", "path", "told"),
    [
        ("", "none_of_{0}:app", "there is no module 'none_of_{0}' in "),
        ("import no_such_thing", "{0}:app", "{0} cannot be imported: No module named 'no_such_thing'"),
        ("1 / 0", "{0}:app", "{0} cannot be imported: ZeroDivisionError: division by zero"),
        ("raise SystemExit('usage')", "{0}:app", "{0} cannot be imported: SystemExit: usage"),
        ("def my_app(a, b, c): ...\nimport os", "{0}", "there is no 'app' in {0}: it has my_app"),
        ("x = 1", "{0}:app.y", "there is no 'app' in {0}: name the app"),
        ("x = 1", "{0}:x", "{0}:x is no ASGI application but 1: name the app, as module:app"),
        (
            "class App:\n  def __init__(self, x): ...\n  def __call__(self, a, b, c): ...",
            "{0}:App",
            "{0}:App is no ASGI application but <class",
        ),
        ("def make(): raise KeyError('url')", "{0}:make", "the factory {0}:make fails: KeyError: 'url'"),
    ],
)
def test_an_app_that_cannot_be_loaded_says_why(text: str, path: str, told: str, tmp_path: Path) -> None:
    name = f"loaded_{abs(hash((text, path)))}"
    directory = written(tmp_path, name, text)
    with pytest.raises(NotLoaded) as raised:
        load(path.format(name), directory, is_factory=False)
    assert raised.value.sentence.startswith(told.format(name)), raised.value.sentence
    assert "^" not in "".join(raised.value.lines)
    assert not any("importlib" in line for line in raised.value.lines)


def test_apps_and_factories_are_loaded(tmp_path: Path) -> None:
    text = "def make(size=1): return lambda a, b, c: size\nclass Sites:\n  app = make(2)"
    directory = written(tmp_path, "loaded_factories", text)
    assert load("loaded_factories:make", directory, is_factory=True)(1, 2, 3) == 1
    assert load("loaded_factories:make", directory, is_factory=False)(1, 2, 3) == 1
    assert load("loaded_factories:Sites.app", directory, is_factory=False)(1, 2, 3) == 2


def test_the_check_is_told_why_there_is_no_app(check: Check, make: Callable[..., Probe]) -> None:
    with pytest.raises(SystemExit, match="is no ASGI application"):
        make(1)
    assert "is no ASGI application" in check.wait(lambda fact: "failed" in fact)["failed"]


def test_options_that_the_middleware_refuses_are_told(check: Check, make: Callable[..., Probe]) -> None:
    with pytest.raises(SystemExit, match="the middleware refuses these options"):
        make(nothing, is_wrapped=True, policy="ignore")


def test_what_the_servers_import_is_a_probe(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = written(tmp_path, "served_by_check", "async def app(scope, receive, send): ...")
    settings = {"port": check.port, "token": "t", "app": "served_by_check:app", "app_dir": directory, "factory": False}
    monkeypatch.setenv(VARIABLE, json.dumps({**settings, "is_wrapped": True, "options": {}}))
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    module = importlib.import_module("disconnect_mw._check._served")
    assert isinstance(module.app, Probe)
    module.app.channel.close()
    limit = time.monotonic() + SECONDS
    while not ended:
        assert time.monotonic() < limit
        time.sleep(0.01)
    del sys.modules["disconnect_mw._check._served"]


async def test_an_exchange_without_a_client_has_no_port() -> None:
    assert Exchange({"type": "http"}).port is None
    assert Exchange({"client": ("127.0.0.1", "7")}).port == 7


async def test_of_several_on_the_way_the_innermost_notes() -> None:
    exchange, server = Exchange(scope()), Server({"type": "websocket.receive", "text": "hi"}, REQUEST)
    outer = exchange.around(server.receive, server.send)
    receive, send = exchange.around(*outer)
    await receive()
    await receive()
    await send(BODY)
    messages = [message[1:] for message in exchange.record()["messages"]]
    assert messages == [
        ("receive", "websocket.receive", 2),
        ("receive", "http.request", 4),
        ("send", "http.response.body", 4),
    ]


async def test_an_open_is_noted_in_an_exchange_alone(tmp_path: Path) -> None:
    """Called by hand as well: what an audit hook runs, no tool traces."""
    exchange = Exchange(scope())
    _probe._note_open("open", (str(tmp_path / "a"), "w", 0))
    current.set(exchange)
    for arguments in (
        ("open", (str(tmp_path / "a"), "w", 0)),
        ("open", (os.fsencode(tmp_path / "a"), None, os.O_CREAT)),
        ("open", (str(tmp_path / "b"), "r", 0)),
        ("open", (str(tmp_path / "c"), None, None)),
        ("open", (5, "w", 0)),
        ("import", ()),
    ):
        _probe._note_open(*arguments)
    assert exchange.files == [str(tmp_path / "a")]


def test_twisted_s_log_is_seen_where_it_is(make: Callable[..., Probe]) -> None:
    from twisted.logger import STDLibLogObserver, globalLogPublisher

    before = [*globalLogPublisher._observers]
    make(nothing)
    (added,) = [one for one in globalLogPublisher._observers if one not in before]
    assert isinstance(added, STDLibLogObserver)
    globalLogPublisher.removeObserver(added)
