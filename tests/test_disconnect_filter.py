"""`DisconnectFilter` drops what only a departure has caused, and never anything else."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import logging
import logging.config
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, _middleware
from disconnect_mw.observe import _filter
from disconnect_mw.observe.logging import DisconnectFilter, install

from .support.messages import DISCONNECT, START, http_scope

LOGGER = logging.getLogger("uvicorn.error")


class Bug(Exception):
    """The app's own."""


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.told: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record)


@pytest.fixture(autouse=True)
def filters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a filter behind."""
    monkeypatch.setattr(_middleware, "inside", None)
    loggers = [logging.getLogger(None if name == "root" else name) for name in _filter.LOGGERS]
    before = [list(logger.filters) for logger in loggers]
    yield
    for logger, filters in zip(loggers, before, strict=True):
        logger.filters[:] = filters


@pytest.fixture
def records() -> Iterator[Records]:
    """What handlers get of the filtered logger."""
    handler = Records()
    LOGGER.addHandler(handler)
    yield handler
    LOGGER.removeHandler(handler)


def leave(during: Callable[[Any, Any, Any], Any], **options: Any) -> None:
    """Call an app by hand, whose client has left when it first receives; `during` is what it does from then on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == DISCONNECT
        await during(scope, receive, send)

    exchange(app, **options)


def exchange(app: Any, message: Any = DISCONNECT, **options: Any) -> None:
    async def receive() -> Any:
        return message

    async def send(message: Any) -> None:
        pass

    call = DisconnectMiddleware(app, **options)(http_scope(), receive, send)
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(call.send, None)


def raised(exception: BaseException, cause: BaseException | None = None) -> BaseException:
    """The exception, as it is when it was raised."""
    try:
        if cause is None:
            raise exception
        raise exception from cause
    except BaseException as caught:
        return caught


def log(exception: BaseException | None) -> None:
    LOGGER.error("Exception in ASGI application", exc_info=exception)


async def refused(send: Any) -> ClientDisconnected:
    """What `send` raises under the policy `raise`."""
    with pytest.raises(ClientDisconnected) as caught:
        await send(START)
    return caught.value


def test_a_framework_s_word_for_a_client_that_left_is_dropped(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    LOGGER.addFilter(DisconnectFilter())
    caplog.set_level(logging.DEBUG, logger="disconnect_mw")
    word = raised(ClientDisconnect())

    async def logs(scope: Any, receive: Any, send: Any) -> None:
        log(word)

    leave(logs)
    assert records.told == []
    told = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert [record.getMessage() for record in told] == [
        "dropped from logger uvicorn.error: Exception in ASGI application"
    ]
    assert told[0].exc_info is not None and told[0].exc_info[1] is word


def test_the_same_is_told_while_the_client_is_there(records: Records) -> None:
    LOGGER.addFilter(DisconnectFilter())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        log(raised(ClientDisconnect()))

    exchange(app, {"type": "http.request", "body": b"part", "more_body": True})
    assert len(records.told) == 1


def test_it_is_told_outside_of_any_exchange(records: Records) -> None:
    LOGGER.addFilter(DisconnectFilter())
    log(raised(ClientDisconnect()))
    log(raised(ClientDisconnected(DISCONNECT)))
    assert len(records.told) == 2


def test_a_record_without_an_exception_passes(records: Records) -> None:
    LOGGER.addFilter(DisconnectFilter())

    async def logs(scope: Any, receive: Any, send: Any) -> None:
        log(None)
        LOGGER.error("no exception", exc_info=True)

    leave(logs)
    assert len(records.told) == 2


def test_what_send_raised_is_dropped_in_another_context_too(records: Records) -> None:
    """As asyncio logs the exception of a task that nobody has asked for: by the frames that it came through."""
    LOGGER.addFilter(DisconnectFilter())
    refusals: list[ClientDisconnected] = []

    async def sends(scope: Any, receive: Any, send: Any) -> None:
        refusals.append(await refused(send))

    leave(sends, policy="raise")
    contextvars.Context().run(log, refusals[0])
    contextvars.Context().run(log, raised(Bug(), refusals[0]))
    contextvars.Context().run(log, ExceptionGroup("", [refusals[0], ExceptionGroup("", [refusals[0]])]))
    assert records.told == []
    contextvars.Context().run(log, refusals[0].with_traceback(None))
    assert len(records.told) == 1, "of no exchange"


def test_another_exchange_s_refusal_passes(records: Records) -> None:
    LOGGER.addFilter(DisconnectFilter())

    async def logs(scope: Any, receive: Any, send: Any) -> None:
        log(raised(ClientDisconnected(DISCONNECT.copy())))

    leave(logs, policy="raise")
    assert len(records.told) == 1


# Random trees of exceptions

LEAVES = st.sampled_from(["ours", "word", "bug", "file", "cancelled"])
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda trees: st.one_of(
        st.tuples(st.just("group"), st.lists(trees, min_size=1, max_size=4)),
        st.tuples(st.sampled_from(["bug", "word"]), trees),  # raised from another
    ),
    max_leaves=12,
)


def is_caused(tree: Any) -> bool:
    """Whether the departure has caused all of it."""
    match tree:
        case "ours" | "word":
            return True
        case ("word", cause):
            return not has_bug(cause)
        case ("bug", cause):
            return is_caused(cause)
        case ("group", members):
            return all(map(is_caused, members))
    return False


def has_bug(tree: Any) -> bool:
    """Whether the traceback of what was raised from it shows an exception of the app's own."""
    match tree:
        case "cancelled":
            return False
        case ("group", members):
            return any(map(has_bug, members))
    return not is_caused(tree)


def grown(tree: Any, ours: ClientDisconnected) -> BaseException:
    """The exceptions of a tree, each raised in its turn."""
    match tree:
        case "ours":
            return raised(ClientDisconnected(ours.message))  # by whose identity the connection knows it
        case "word":
            return raised(WebSocketDisconnect(1006))
        case "bug":
            return raised(Bug())
        case "file":
            return raised(FileNotFoundError(2, "no such file"))
        case "cancelled":
            return raised(asyncio.CancelledError())
        case ("group", members):
            return raised(BaseExceptionGroup("", [grown(member, ours) for member in members]))
    kind, cause = tree
    return raised(Bug() if kind == "bug" else WebSocketDisconnect(1006), grown(cause, ours))


@settings(deadline=None, database=None)
@given(tree=TREES)
def test_no_leaf_that_the_connection_did_not_cause_is_ever_lost(tree: Any) -> None:
    """And where it has caused all of them nothing is logged."""
    disconnect_filter = DisconnectFilter()
    verdicts: list[bool] = []

    async def logs(scope: Any, receive: Any, send: Any) -> None:
        exception = grown(tree, await refused(send))
        exc_info = (type(exception), exception, exception.__traceback__)
        record = logging.LogRecord("falcon", logging.ERROR, __file__, 1, "unhandled", (), exc_info)
        verdicts.append(disconnect_filter.filter(record))

    leave(logs, policy="raise")
    assert verdicts == [not is_caused(tree)]


def test_an_exception_that_is_its_own_cause_ends_the_search(records: Records) -> None:
    LOGGER.addFilter(DisconnectFilter())
    bug = Bug()
    bug.__cause__ = raised(Bug(), bug)
    log(bug)
    assert len(records.told) == 1


# The root logger, which the app uses as well


def test_on_the_root_logger_only_a_framework_s_records_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    framework = types.ModuleType("blacksheep")
    framework.__file__ = "/site-packages/blacksheep/__init__.py"
    monkeypatch.setitem(sys.modules, "blacksheep", framework)
    disconnect_filter = DisconnectFilter()
    verdicts = []

    async def logs(scope: Any, receive: Any, send: Any) -> None:
        word = raised(ClientDisconnect())
        for path in ("/site-packages/blacksheep/server/application.py", "/site-packages/blacksheep_app.py"):
            record = logging.LogRecord("root", logging.ERROR, path, 1, "", (), (type(word), word, word.__traceback__))
            verdicts.append(disconnect_filter.filter(record))

    leave(logs)
    assert verdicts == [False, True]
    framework.__file__ = None
    verdicts.clear()
    leave(logs)
    assert verdicts == [True, True]


# Litestar, whose word for a cut body is an exception of many uses

PART = {"type": "http.request", "body": b"part", "more_body": True}


def of_litestar(handler: Any) -> Any:
    litestar = pytest.importorskip("litestar")
    logging_config = pytest.importorskip("litestar.logging").LoggingConfig(
        log_exceptions="always", configure_root_logger=False
    )
    return litestar.Litestar([litestar.post("/")(handler)], logging_config=logging_config)


async def upload_to(app: Any) -> None:
    messages = [DISCONNECT, PART]

    async def receive() -> Any:
        return messages.pop() if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-length", b"1000"), (b"content-type", b"text/plain")]
    await DisconnectMiddleware(app)(http_scope(method="POST", headers=headers), receive, send)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
@pytest.mark.parametrize("is_bug", [False, True])
async def test_a_body_that_is_cut_is_no_error_of_litestar(is_bug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from litestar import Request
    from litestar.exceptions import InternalServerException

    async def handler(request: Request[Any, Any, Any]) -> None:
        try:
            await request.body()
        except InternalServerException:
            if is_bug:
                raise InternalServerException("client disconnected prematurely")  # noqa: B904  # the app's own words
            raise

    handler.__annotations__ = {"request": Request, "return": None}  # which Litestar reads
    app = of_litestar(handler)
    told = Records()
    logger = logging.getLogger("litestar")
    monkeypatch.setattr(logger, "handlers", [told])
    assert "litestar" in install()
    await upload_to(app)
    assert len(told.told) == is_bug


# Socket.IO over long polling, which takes a cut POST for a whole one


async def ask_socketio(app: Any, method: str, session: str, messages: list[Any]) -> bytes:
    """Make one request of a session, and return the body of the response."""
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = http_scope(
        method=method,
        path="/socket.io/",
        query_string=f"EIO=4&transport=polling{session}".encode(),
        headers=[(b"content-length", b"1000")],
        client=("127.0.0.1", 1234),
        server=("127.0.0.1", 80),
    )
    await DisconnectMiddleware(app)(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


class OwnJSON:
    """A decoder of the app's own, with a bug."""

    dumps = staticmethod(json.dumps)

    @staticmethod
    def loads(text: str, **options: Any) -> Any:
        raise Bug(text)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("part", "ends", "decoder", "told"),
    [
        (b'42["work",{"a"', DISCONNECT, json, 0),
        ('42["wörk'.encode()[:6], DISCONNECT, json, 0),
        (b'42["work",{"a"', DISCONNECT, OwnJSON, 1),
        (b'42["work",{"a"', {"type": "http.request", "body": b"}"}, json, 1),
    ],
    ids=["a packet", "a letter", "the app's decoder", "a client that is there"],
)
async def test_a_post_that_is_cut_is_no_error_of_socketio(
    part: bytes, ends: Any, decoder: Any, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socketio  # type: ignore[import-untyped]  # it has no types

    server = socketio.AsyncServer(async_mode="asgi", json=decoder, async_handlers=False, monitor_clients=False)
    app = socketio.ASGIApp(server)
    records = Records()
    monkeypatch.setattr(logging.getLogger("engineio.server"), "handlers", [records])
    assert "engineio.server" in install()
    whole = {"type": "http.request", "body": b"", "more_body": False}
    opened = await ask_socketio(app, "GET", "", [whole])
    session = "&sid=" + json.loads(opened[1:])["sid"]
    await ask_socketio(app, "POST", session, [{**whole, "body": b"40"}])
    records.told.clear()
    await ask_socketio(app, "POST", session, [{"type": "http.request", "body": part, "more_body": True}, ends])
    await asyncio.sleep(0)
    assert [record.levelname for record in records.told if record.exc_info] == ["ERROR"] * told
    await server.shutdown()


# BlackSheep, one of whose tasks sends after another one has received the disconnect

GONE = {"type": "websocket.disconnect", "code": 1006}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
@pytest.mark.parametrize("waits", [True, False])
async def test_a_message_after_the_disconnect_is_no_error_of_blacksheep(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one that is sent before the accept is."""
    from blacksheep import Application, Router, WebSocket

    app = Application(router=Router())

    async def handler(websocket: WebSocket) -> None:
        if waits:
            await websocket.accept()
            with pytest.raises(Exception, match="closed the connection"):
                await websocket.receive_text()
        await websocket.send_text("to nobody")

    handler.__annotations__ = {"websocket": WebSocket, "return": None}  # which BlackSheep reads
    app.router.ws("/")(handler)
    await app.start()  # type: ignore[no-untyped-call]  # untyped
    told = Records()
    monkeypatch.setattr(logging.root, "handlers", [told])
    assert "root" in install()
    messages = [GONE, {"type": "websocket.connect"}]

    async def receive() -> Any:
        return messages.pop() if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        pass

    scope = http_scope(type="websocket", subprotocols=[])
    del scope["method"]
    await DisconnectMiddleware(app)(scope, receive, send)
    assert [record.name for record in told.told if record.levelno == logging.ERROR] == ([] if waits else ["root"])


# Installing


def filtered() -> list[str]:
    return [
        name
        for name in _filter.LOGGERS
        if any(isinstance(one, DisconnectFilter) for one in logging.getLogger(None if name == "root" else name).filters)
    ]


def test_install_filters_each_known_logger_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"uvicorn.error": "uvicorn", "root": "there_is_no_such_package", "falcon.no": "falcon_no"}
    monkeypatch.setattr(_filter, "LOGGERS", names)
    assert install() == ("uvicorn.error",), "which this test has used"
    monkeypatch.setitem(sys.modules, "there_is_no_such_package", types.ModuleType("there_is_no_such_package"))
    assert install() == ("uvicorn.error", "root")
    assert filtered() == ["uvicorn.error", "root"]
    assert [sum(isinstance(one, DisconnectFilter) for one in logger.filters) for logger in (LOGGER, logging.root)] == [
        1,
        1,
    ]


def test_install_says_so_where_no_logger_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="disconnect_mw")
    monkeypatch.setattr(_filter, "LOGGERS", {"nowhere.error": "nowhere"})
    assert install() == ()
    assert _middleware.inside is None, "nothing happens"
    assert [record.getMessage() for record in caplog.records] == ["no logger to filter: none of nowhere.error is there"]


def test_it_is_a_filter_of_a_logging_configuration(records: Records) -> None:
    stream = io.StringIO()
    configuration = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"left": {"()": "disconnect_mw.observe.logging.DisconnectFilter"}},
        "handlers": {"stream": {"class": "logging.StreamHandler", "stream": stream}},
        "loggers": {"uvicorn.error": {"filters": ["left"], "handlers": ["stream"]}},
    }
    logging.config.dictConfig(configuration)

    async def logs(scope: Any, receive: Any, send: Any) -> None:
        log(raised(ClientDisconnect()))
        log(raised(Bug("told")))

    leave(logs)
    assert stream.getvalue().count("Traceback") == 1 and "told" in stream.getvalue()


def test_no_context_variable_is_set_without_a_filter() -> None:
    names: list[str] = []

    async def looks(scope: Any, receive: Any, send: Any) -> None:
        names.extend(variable.name for variable in contextvars.copy_context())

    leave(looks)
    assert "disconnect_mw" not in names
    DisconnectFilter()
    leave(looks)
    assert "disconnect_mw" in names


def test_the_middleware_is_told_once_and_the_test_kit_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def of_test_kit(scope: Any, receive: Any, send: Any) -> tuple[Any, Any]:
        calls.append(scope["path"])
        return receive, send

    monkeypatch.setattr(_middleware, "inside", of_test_kit)
    DisconnectFilter()
    hook = _middleware.inside
    DisconnectFilter()
    assert _middleware.inside is hook is not of_test_kit

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        pass

    leave(nothing)
    assert calls == ["/"]
