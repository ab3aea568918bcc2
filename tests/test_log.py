"""What the log says of a client that left: one INFO line, and the rest at DEBUG."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from starlette.requests import ClientDisconnect

from disconnect_mw import ClientDisconnected, Disconnect, DisconnectMiddleware, _middleware, _telling, connection

pytestmark = pytest.mark.anyio

App = Callable[[Any, Any, Any], Awaitable[Any]]

REQUEST = {"type": "http.request", "body": b"", "more_body": False}
PART = {"type": "http.request", "body": b"part", "more_body": True}
GONE = {"type": "http.disconnect"}

START = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK = {"type": "http.response.body", "body": b"chunk", "more_body": True}
END = {"type": "http.response.body", "body": b"end", "more_body": False}

CONNECT = {"type": "websocket.connect"}
LEFT = {"type": "websocket.disconnect", "code": 1001, "reason": ""}

ACCEPT = {"type": "websocket.accept"}
TEXT = {"type": "websocket.send", "text": "caf\u00e9"}  # of five bytes
BYTES = {"type": "websocket.send", "bytes": b"new"}
CLOSE = {"type": "websocket.close", "code": 1000}
DENIAL = {"type": "websocket.http.response.start", "status": 401, "headers": []}
DENIAL_END = {"type": "websocket.http.response.body", "body": b"no"}


def http_scope(**more: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/feed", "client": ("192.0.2.7", 5000)}
    return {**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}, **more}


def websocket_scope(**more: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {"type": "websocket", "path": "/feed", "client": ("192.0.2.7", 5000)}
    return {**scope, "asgi": {"version": "3.0", "spec_version": "2.4"}, **more}


def app_that(*steps: Any, returns: Any = None) -> App:
    """An app that takes the steps in turn: a message is sent, an exception raised, and `...` receives."""

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        for step in steps:
            if step is ...:
                await receive()
            elif isinstance(step, BaseException):
                raise step
            else:
                await send(step)
        return returns

    return app


async def serve(app: App, scope: Any, *incoming: Any, takes: int = 1000) -> None:
    """Be the server of one exchange; it delivers `incoming`, and its send raises after it took that many messages."""
    coming = iter(incoming)
    taken = 0

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        nonlocal taken
        taken += 1
        if taken > takes:
            raise BrokenPipeError

    await app(scope, receive, send)


Lines = Callable[[], list[tuple[str, str]]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """The level and the text of everything that any logger wrote at INFO or above, the time taken out."""

    def written() -> list[tuple[str, str]]:
        return [(level, re.sub(r"\d+\.\d{3} s", "N s", text)) for _, level, text in _named(caplog)]

    with caplog.at_level(logging.INFO):
        yield written


def _named(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    return [(record.name, record.levelname, record.getMessage()) for record in caplog.records]


RESPONDING, NOTHING, NONE_MUTED = "during the response", "nothing sent", "0 messages muted"


def plural(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def sent(messages: int, payload: int) -> str:
    return f"status 200, {plural(messages, 'message')} sent ({plural(payload, 'byte')})"


def muted(messages: int, payload: int) -> str:
    return f"{plural(messages, 'message')} muted ({plural(payload, 'byte')})"


def http_line(where: str, sent: str, muted: str, end: str = "returned") -> list[tuple[str, str]]:
    text = (
        f"client disconnected: GET /feed from 192.0.2.7:5000, {where}: {sent}, {muted}; "
        f"the app went on for N s and {end}"
    )
    return [("INFO", text)]


@pytest.mark.parametrize(
    ("steps", "incoming", "takes", "line"),
    [
        ([..., ...], [PART, GONE], 9, http_line("during the upload", NOTHING, NONE_MUTED)),
        ([..., ..., ..., START, END], [PART, PART, GONE], 9, http_line("during the upload", NOTHING, muted(2, 3))),
        ([...], [GONE], 9, http_line("before the response", NOTHING, NONE_MUTED)),
        ([..., ..., START, CHUNK, END], [REQUEST, GONE], 9, http_line("before the response", NOTHING, muted(3, 8))),
        ([..., ..., ...], [PART, REQUEST, GONE], 9, http_line("before the response", NOTHING, NONE_MUTED)),
        ([..., START, END], [REQUEST, GONE], 0, http_line("before the response", NOTHING, muted(2, 3))),
        ([..., START, ...], [REQUEST, GONE], 9, http_line(RESPONDING, sent(1, 0), NONE_MUTED)),
        ([..., START, CHUNK, ..., CHUNK, END], [REQUEST, GONE], 9, http_line(RESPONDING, sent(2, 5), muted(2, 8))),
        ([..., START, CHUNK, CHUNK, END], [REQUEST, GONE], 2, http_line(RESPONDING, sent(2, 5), muted(2, 8))),
        ([..., START, END], [REQUEST, GONE], 1, http_line(RESPONDING, sent(1, 0), muted(1, 3))),
        ([START, {**START, "status": 503}, ..., CHUNK], [GONE], 9, http_line(RESPONDING, sent(2, 0), muted(1, 5))),
    ],
)
async def test_one_line_tells_of_a_client_that_left(
    steps: Any, incoming: Any, takes: int, line: Any, lines: Lines
) -> None:
    await serve(DisconnectMiddleware(app_that(*steps)), http_scope(), *incoming, takes=takes)
    assert lines() == line


SUPPRESSED = "raised ClientDisconnected, which was suppressed"


def websocket_line(where: str, sent: str, muted: str, ended: str = "returned") -> list[tuple[str, str]]:
    text = (
        f"client disconnected: WEBSOCKET /feed from 192.0.2.7:5000, {where}: {sent} sent{muted}; "
        f"the app went on for N s and {ended}"
    )
    return [("INFO", text)]


@pytest.mark.parametrize(
    ("steps", "incoming", "takes", "line"),
    [
        ([..., ...], [CONNECT, LEFT], 9, websocket_line("before the handshake", "nothing", ", 0 messages muted")),
        (
            [..., ..., ACCEPT],
            [CONNECT, LEFT],
            9,
            websocket_line("before the handshake", "nothing", ", 1 message muted (0 bytes)", SUPPRESSED),
        ),
        (
            [..., ACCEPT, ..., CLOSE],
            [CONNECT, LEFT],
            9,
            websocket_line("while open", "1 message", " (0 bytes), 1 message muted (0 bytes)"),
        ),
        (
            [..., ACCEPT, TEXT, BYTES, ..., TEXT],
            [CONNECT, LEFT],
            9,
            websocket_line("while open", "3 messages", " (8 bytes), 1 message muted (5 bytes)", SUPPRESSED),
        ),
        (
            [..., ACCEPT, TEXT, TEXT],
            [CONNECT, LEFT],
            2,
            websocket_line("while open", "2 messages", " (5 bytes), 1 message muted (5 bytes)", SUPPRESSED),
        ),
        (
            [..., DENIAL, ..., DENIAL_END],
            [CONNECT, LEFT],
            9,
            websocket_line(RESPONDING, "status 401, 1 message", " (0 bytes), 1 message muted (2 bytes)"),
        ),
    ],
)
async def test_one_line_tells_of_a_websocket_client_that_left(
    steps: Any, incoming: Any, takes: int, line: Any, lines: Lines
) -> None:
    await serve(DisconnectMiddleware(app_that(*steps)), websocket_scope(), *incoming, takes=takes)
    assert lines() == line


async def test_the_line_says_what_the_app_raised_of_its_own(lines: Lines) -> None:
    with pytest.raises(FileNotFoundError):
        await serve(DisconnectMiddleware(app_that(..., FileNotFoundError("x"))), http_scope(), GONE)
    assert lines() == http_line("before the response", NOTHING, NONE_MUTED, "raised FileNotFoundError")


async def test_the_line_says_how_long_the_app_went_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await serve(DisconnectMiddleware(app_that(...)), http_scope(), GONE)
    assert re.search(r"; the app went on for 0\.0\d\d s and returned$", caplog.messages[0])


@pytest.mark.parametrize(
    ("client", "peer"),
    [
        (("192.0.2.7", 5000), "192.0.2.7:5000"),
        (["192.0.2.7", 5000], "192.0.2.7:5000"),
        (None, "an unknown peer"),
        ("a socket", "an unknown peer"),
        ((), "an unknown peer"),
        (("192.0.2.7",), "an unknown peer"),
        (("evil\n", 1), "evil%0A:1"),
        (("2001:db8::7", 5000), "[2001:db8::7]:5000"),
    ],
)
async def test_the_line_names_the_peer(client: Any, peer: str, lines: Lines) -> None:
    await serve(DisconnectMiddleware(app_that(...)), http_scope(client=client), GONE)
    assert [text.split(" from ")[1].split(",")[0] for _, text in lines()] == [peer]


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("/", "/"),
        ("/a b", "/a%20b"),
        ("/a\nERROR forged\r\n", "/a%0AERROR%20forged%0D%0A"),
        ("/\x1b[31m\x00\x7f", "/%1B%5B31m%00%7F"),
        ("/\u2028\x85", "/%E2%80%A8%C2%85"),
        ("/caf\u00e9", "/caf%C3%A9"),
        ("/\ud800\udcff", "/%3F%3F"),  # lone surrogates cannot be written to a log file in UTF-8
        ("/%n%s%(path)s", "/%25n%25s%25%28path%29s"),
        ("", ""),
    ],
)
async def test_a_path_cannot_break_the_line(path: str, quoted: str, lines: Lines) -> None:
    for scope, incoming in ((http_scope(path=path), GONE), (websocket_scope(path=path), LEFT)):
        await serve(DisconnectMiddleware(app_that(...)), scope, incoming)
    assert [re.split(" from ", text)[0] for _, text in lines()] == [
        f"client disconnected: GET {quoted}",
        f"client disconnected: WEBSOCKET {quoted}",
    ]
    assert all(text.isascii() and text.isprintable() for _, text in lines())


async def test_a_method_cannot_break_the_line(lines: Lines) -> None:
    await serve(DisconnectMiddleware(app_that(...)), http_scope(method="GE\nT"), GONE)
    assert [text.split(" /")[0] for _, text in lines()] == ["client disconnected: GE%0AT"]


async def test_a_scope_without_method_path_and_client_has_its_line_too(lines: Lines) -> None:
    """Daphne's scope of a WebSocket has no method, and a test client's may lack anything."""
    await serve(DisconnectMiddleware(app_that(...)), {"type": "http"}, GONE)
    assert [(level, text.split(",")[0]) for level, text in lines()] == [
        ("INFO", "client disconnected: None None from an unknown peer")
    ]


@pytest.mark.parametrize(
    ("steps", "scope", "incoming"),
    [
        ([..., START, CHUNK, END], http_scope(), [REQUEST]),
        ([START, END, ..., ...], http_scope(), [REQUEST, GONE]),
        ([..., START, END, ...], http_scope(), [REQUEST, GONE]),
        ([], http_scope(), []),
        ([..., ACCEPT, TEXT, CLOSE], websocket_scope(), [CONNECT]),
        ([..., ACCEPT, CLOSE, ...], websocket_scope(), [CONNECT, LEFT]),
        ([..., CLOSE, ...], websocket_scope(), [CONNECT, LEFT]),
    ],
)
async def test_nothing_is_written_of_a_client_that_stayed_to_the_end(
    steps: Any, scope: Any, incoming: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """P3: a disconnect after the last message is the normal end."""
    with caplog.at_level(logging.DEBUG, logger="disconnect_mw"):
        await serve(DisconnectMiddleware(app_that(*steps)), dict(scope), *incoming)
    assert [entry for entry in _named(caplog) if entry[0] == "disconnect_mw"] == []


async def test_an_error_of_the_app_while_the_client_is_there_is_not_logged_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, logger="disconnect_mw"), pytest.raises(ClientDisconnect):
        await serve(DisconnectMiddleware(app_that(..., ClientDisconnect())), http_scope(), REQUEST)
    assert [entry for entry in _named(caplog) if entry[0] == "disconnect_mw"] == []


@pytest.mark.parametrize("installs", [2, 3])
@pytest.mark.parametrize(
    ("scope", "incoming", "takes"),
    [
        (http_scope(), [REQUEST, GONE], 9),
        (http_scope(), [REQUEST, GONE, GONE, GONE], 1),
        (websocket_scope(), [CONNECT, LEFT], 9),
    ],
)
async def test_nested_installs_write_one_line(
    installs: int, scope: dict[str, Any], incoming: Any, takes: int, lines: Lines
) -> None:
    app = app_that(..., START, ..., CHUNK) if scope["type"] == "http" else app_that(..., ACCEPT, ...)
    for _ in range(installs):
        app = DisconnectMiddleware(app)
    await serve(app, dict(scope), *incoming, takes=takes)
    assert [level for level, _ in lines()] == ["INFO"]


async def test_each_client_has_its_own_line(lines: Lines) -> None:
    app = DisconnectMiddleware(app_that(...))
    await serve(app, http_scope(path="/one"), GONE)
    await serve(app, http_scope(path="/two"), GONE)
    assert [text.split(" from ")[0] for _, text in lines()] == [
        "client disconnected: GET /one",
        "client disconnected: GET /two",
    ]


async def test_a_swallowed_exception_is_shown_at_debug_only_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    swallowed = ClientDisconnect()
    with caplog.at_level(logging.DEBUG, logger="disconnect_mw"):
        await serve(DisconnectMiddleware(app_that(..., swallowed)), http_scope(), GONE)
    records = [record for record in caplog.records if record.name == "disconnect_mw"]
    assert [(record.levelname, record.exc_info and record.exc_info[1]) for record in records] == [
        ("DEBUG", swallowed),
        ("INFO", None),
    ]
    assert records[0].getMessage() == "caused by the disconnect of the client"
    assert caplog.text.count("Traceback (most recent call last)") == 1
    assert "starlette.requests.ClientDisconnect" in caplog.text


async def test_what_is_swallowed_of_a_websocket_is_shown_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="disconnect_mw"):
        await serve(DisconnectMiddleware(app_that(..., ACCEPT, TEXT)), websocket_scope(), CONNECT, LEFT, takes=1)
    shown = [record.exc_info for record in caplog.records if record.name == "disconnect_mw"]
    assert [exc_info and exc_info[0] for exc_info in shown] == [ClientDisconnected, None]


async def test_an_error_of_the_apps_own_is_not_shown_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever it is re-raised to logs it."""
    with caplog.at_level(logging.DEBUG, logger="disconnect_mw"), pytest.raises(ValueError):
        await serve(DisconnectMiddleware(app_that(..., ValueError())), http_scope(), GONE)
    assert [record.levelname for record in caplog.records if record.name == "disconnect_mw"] == ["INFO"]


@pytest.mark.parametrize(
    ("steps", "scope", "incoming", "takes"),
    [
        ([..., ..., START, END], http_scope(), [REQUEST, GONE], 9),
        ([..., START, CHUNK, END], http_scope(), [REQUEST, GONE], 1),
        ([..., ClientDisconnect()], http_scope(), [GONE], 9),
        ([..., ACCEPT, ..., TEXT], websocket_scope(), [CONNECT, LEFT], 9),
        ([..., ACCEPT, TEXT], websocket_scope(), [CONNECT, LEFT], 1),
    ],
)
async def test_at_the_default_level_nothing_is_written_anywhere(
    steps: Any, scope: Any, incoming: Any, takes: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await serve(DisconnectMiddleware(app_that(*steps)), dict(scope), *incoming, takes=takes)
    assert _named(caplog) == []


async def test_the_line_is_written_after_the_app_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen_by_the_app = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen_by_the_app.append(len(caplog.records))

    await serve(DisconnectMiddleware(app), http_scope(), GONE)
    assert (seen_by_the_app, len(caplog.records)) == ([0], 1)


@pytest.mark.parametrize("cache", ["logging's own", "none"])
@pytest.mark.parametrize("change", ["setLevel", "the root's setLevel", "disable", "disabled"])
async def test_the_level_may_change_at_any_time(
    cache: str, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cache of the levels is private to logging; without it the logger is asked for every exchange."""
    if cache == "none":
        monkeypatch.setattr(_middleware, "_LEVELS", {})
    logger = logging.getLogger("disconnect_mw")
    app = DisconnectMiddleware(app_that(..., ..., START, CHUNK))
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.INFO)

    async def counted() -> list[int | None]:
        caplog.clear()
        await serve(app, http_scope(), REQUEST, GONE)
        return [record.exchange.messages_sent for record in caplog.records]  # type: ignore[attr-defined]  # ours

    assert await counted() == [0]
    if change == "setLevel":
        logger.setLevel(logging.WARNING)
    elif change == "the root's setLevel":
        logger.setLevel(logging.NOTSET)
        root.setLevel(logging.WARNING)
    elif change == "disable":
        logging.disable(logging.INFO)
    else:
        logger.disabled = True
    try:
        assert await counted() == []
    finally:
        logging.disable(logging.NOTSET)
        logger.disabled = False
        logger.setLevel(logging.INFO)
        root.setLevel(logging.INFO)
    assert await counted() == [0], "what was sent is counted again"
    logger.setLevel(logging.NOTSET)


async def test_a_websocket_that_the_server_closes_when_it_shuts_down_is_told_as_that(lines: Lines) -> None:
    """P7. uvicorn gives the code 1012."""
    seen: list[Disconnect] = []
    shutdown = {"type": "websocket.disconnect", "code": 1012, "reason": ""}
    middleware = DisconnectMiddleware(app_that(..., ACCEPT, ...), on_disconnect=seen.append)
    await serve(middleware, websocket_scope(), CONNECT, shutdown)
    (level, text), *_ = lines()
    assert (level, text.partition(":")[0]) == ("INFO", "server shut down")
    assert [disconnect.is_shutdown for disconnect in seen] == [True]


@pytest.mark.parametrize("length", [200, 201, 65536])
async def test_a_long_path_is_cut_in_the_lines(length: int, lines: Lines) -> None:
    """A client chooses it. The record has all of it."""
    path = "/".ljust(length, "p")
    scope = {**http_scope(), "path": path}
    await serve(DisconnectMiddleware(app_that(..., ...)), scope, REQUEST, GONE)
    ((_, text),) = lines()
    shown = path if length == 200 else f"{path[:200]}… ({length} characters)"
    assert f"client disconnected: GET {shown} from" in text
    exchange = connection(scope).exchange
    assert exchange is not None
    assert exchange.disconnect.path == path


async def test_beyond_a_hundred_lines_a_second_the_rest_is_summed_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next second has lines again."""
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    second = [1000.0]
    monkeypatch.setattr(_telling, "monotonic", lambda: second[0])
    monkeypatch.setattr(_telling._lines, "_ends", 1000.3)  # on the clock that stands still
    for number in range(120):
        incoming = [PART, GONE] if number % 3 == 0 else [REQUEST, GONE]
        await serve(DisconnectMiddleware(app_that(..., ...)), http_scope(), *incoming)
    with anyio.fail_after(5):
        while not caplog.messages[-1].startswith("clients"):
            await anyio.sleep(0.001)
    texts = [record.getMessage() for record in caplog.records if record.name == "disconnect_mw"]
    assert len(texts) == 101
    assert texts[-1] == "clients disconnected: 20 more within a second, 14 before the response, 6 during the upload"
    second[0] += 1
    await serve(DisconnectMiddleware(app_that(..., ...)), http_scope(), REQUEST, GONE)
    assert caplog.messages[-1].startswith("client disconnected: GET /")


def test_without_an_event_loop_each_is_summed_up_by_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    monkeypatch.setattr(_telling, "_LINES_A_SECOND", 0)
    incoming = [dict(REQUEST), dict(GONE)]

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        raise NotImplementedError

    with contextlib.suppress(StopIteration):
        DisconnectMiddleware(app_that(..., ...))(http_scope(), receive, send).send(None)
    assert caplog.messages == ["clients disconnected: 1 more within a second, 1 before the response"]


@pytest.mark.parametrize(
    ("scope", "route"),
    [
        ({"route": types.SimpleNamespace(path="/items/{id}")}, "/items/{id}"),
        ({"route": types.SimpleNamespace(path="/items/{id}"), "root_path": "/v1/"}, "/v1/items/{id}"),
        (
            {
                "route": types.SimpleNamespace(path="/{id}"),
                "fastapi": {"effective_route_context": types.SimpleNamespace(path_format="/users/{id}")},
            },
            "/users/{id}",
        ),
        ({"route": types.SimpleNamespace(path="/{id}"), "fastapi": None}, "/{id}"),
        ({"route": None, "root_path": "/v1"}, "/v1/items/7"),
    ],
)
def test_the_route_has_the_prefix_of_its_router_and_of_its_mount(scope: Any, route: str) -> None:
    assert _telling.route_of(scope, "/v1/items/7") == route


def test_what_a_loop_that_ended_had_to_sum_up_is_summed_up_by_the_next_departure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="disconnect_mw")
    monkeypatch.setattr(_telling, "_LINES_A_SECOND", 1)
    second = 1000.0
    monkeypatch.setattr(_telling, "monotonic", lambda: second)

    async def leave() -> None:
        await serve(DisconnectMiddleware(app_that(..., ...)), http_scope(), REQUEST, GONE)

    for times in (3, 1):
        for _ in range(times):
            asyncio.run(leave())
        second += 1.5
    summed_up = [text for text in caplog.messages if text.startswith("clients")]
    assert summed_up == ["clients disconnected: 2 more within a second, 2 before the response"]
    _telling._lines._sum_up()  # nothing is left
    assert len(caplog.messages) == 3
