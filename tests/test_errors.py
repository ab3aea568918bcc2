"""P5: whose exception is it? The app's own errors are never hidden."""

from __future__ import annotations

import asyncio
import copy
import errno
import pickle
import queue
import socket
import ssl
import traceback
import types
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import websockets.exceptions
from asgiref.wsgi import WsgiToAsgi
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket, WebSocketDisconnect

from disconnect_mw import ClientDisconnected, DisconnectMiddleware
from disconnect_mw._errors import is_disconnect_error, is_lost_websocket_error, remove_disconnect_errors

from .support.messages import http_scope

DISCONNECT = {"type": "websocket.disconnect", "code": 1001, "reason": "bye"}


# ClientDisconnected


def test_client_disconnected_is_an_oserror_as_asgi_2_4_asks() -> None:
    raised = ClientDisconnected(DISCONNECT)
    assert isinstance(raised, OSError)
    assert (raised.errno, raised.strerror, str(raised)) == (
        errno.EPIPE,
        "the client has disconnected",
        f"[Errno {errno.EPIPE}] the client has disconnected",
    )


def test_client_disconnected_brings_the_message() -> None:
    assert ClientDisconnected(DISCONNECT).message is DISCONNECT


@pytest.mark.parametrize("transport", [copy.copy, lambda raised: pickle.loads(pickle.dumps(raised))])
def test_client_disconnected_can_be_copied_and_pickled(transport: Callable[[Any], Any]) -> None:
    """A process pool or a task queue sends exceptions home that way."""
    raised = transport(ClientDisconnected(DISCONNECT))
    assert (type(raised), raised.message, raised.errno, raised.strerror) == (
        ClientDisconnected,
        DISCONNECT,
        errno.EPIPE,
        "the client has disconnected",
    )


# The server's send


class ServersWord(OSError):
    """As Hypercorn's and uvicorn's own."""


class ServersClosed(ConnectionResetError):
    """A subclass of a subclass."""


UVLOOPS_WORDS = "unable to perform operation on <{} closed={} reading=False 0x1>; the handler is closed"


@pytest.mark.parametrize(
    "exception",
    [
        OSError(),
        OSError(errno.EBADF, "the descriptor is closed"),
        ServersWord(),
        ConnectionError(),
        ConnectionResetError(),
        ConnectionAbortedError(),
        BrokenPipeError(errno.EPIPE, "broken pipe"),
        ServersClosed(),
        ClientDisconnected(DISCONNECT),  # of another install, between here and the server
        ssl.SSLEOFError(),
        TimeoutError(errno.ETIMEDOUT, "the kernel gave up"),
        OSError(errno.ETIMEDOUT, "the kernel gave up"),
        RuntimeError(UVLOOPS_WORDS.format("TCPTransport", True)),
        RuntimeError(UVLOOPS_WORDS.format("UnixTransport", True)),
        websockets.exceptions.ConnectionClosed(None, None),
        websockets.exceptions.ConnectionClosedOK(None, None),
        websockets.exceptions.ConnectionClosedError(None, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("message_type", ["http.response.body", "websocket.send", None])
def test_send_says_by_itself_that_the_client_has_gone(exception: Exception, message_type: str | None) -> None:
    assert is_disconnect_error(exception, message_type) is True


NOT_BY_ITSELF = [
    FileNotFoundError(errno.ENOENT, "no such file"),
    FileExistsError(),
    IsADirectoryError(),
    NotADirectoryError(),
    PermissionError(errno.EACCES, "denied"),
    ProcessLookupError(),
    ChildProcessError(),
    ConnectionRefusedError(errno.ECONNREFUSED, "an outbound connection"),
    socket.gaierror(socket.EAI_NONAME, "an outbound connection"),
    socket.herror(),
    ssl.SSLCertVerificationError(),
    TimeoutError(),  # asyncio.timeout's
    TimeoutError("timed out"),  # socket.settimeout's
    TimeoutError(errno.EAGAIN, "another"),
    RuntimeError(UVLOOPS_WORDS.format("TCPTransport", False)),
    RuntimeError("Response content longer than Content-Length"),
    RuntimeError("Unexpected ASGI message 'websocket.send'"),
    AttributeError("'NoneType' object has no attribute 'resume'"),
    TypeError(),
    ValueError(),
    KeyError("type"),
    EOFError(),
    websockets.exceptions.InvalidState(),
    websockets.exceptions.WebSocketException(),
]


@pytest.mark.parametrize("exception", NOT_BY_ITSELF, ids=repr)
@pytest.mark.parametrize("message_type", ["http.response.body", "websocket.send", "http.response.pathsend", None])
def test_send_does_not_say_so_by_itself(exception: Exception, message_type: str | None) -> None:
    """Somebody has to ask the server whether the client has gone."""
    assert is_disconnect_error(exception, message_type) is False


@pytest.mark.parametrize("message_type", ["http.response.pathsend", "http.response.zerocopysend"])
@pytest.mark.parametrize(
    ("exception", "says_so"),
    [
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (ServersClosed(), True),
        (ConnectionError(), True),
        (ConnectionRefusedError(), False),
        (OSError(errno.EIO, "the disk"), False),
        (OSError(), False),
        (ServersWord(), False),
    ],
    ids=repr,
)
def test_where_the_server_reads_a_file_only_a_connection_error_says_so(
    message_type: str, exception: Exception, says_so: bool
) -> None:
    assert is_disconnect_error(exception, message_type) is says_so


@pytest.mark.parametrize("message_type", ["http.response.pathsend", "http.response.zerocopysend"])
def test_a_timeout_of_the_file_does_not_say_so(message_type: str) -> None:
    assert is_disconnect_error(TimeoutError(errno.ETIMEDOUT, "timed out"), message_type) is False


class ConnectionClosed(Exception):
    """Of the app or of a library of its own, and called like the one of `websockets`."""


def test_a_class_is_known_by_its_module_too() -> None:
    assert is_disconnect_error(ConnectionClosed(), "websocket.send") is False


# The edge. OWN is what this connection raised; everything else has to speak for itself.

OWN = ClientDisconnected(DISCONNECT)


def left_of(exception: BaseException) -> BaseException | None:
    return remove_disconnect_errors(exception, lambda candidate: candidate is OWN)


def named(module: str, name: str, base: type[Exception] = Exception) -> type[Exception]:
    """A stand-in for the class of a framework that is not installed here."""
    return type(name, (base,), {"__module__": module})


class Subclass(ClientDisconnect):
    """An app's own word for it."""


WORDS = [
    OWN,
    ClientDisconnect(),
    Subclass(),
    WebSocketDisconnect(code=1001),
    named("django.core.exceptions", "RequestAborted")(),
    named("quart.wrappers.base", "ClientDisconnectedError")(),
    named("werkzeug.exceptions", "ClientDisconnected", named("werkzeug.exceptions", "HTTPException"))(),
]


@pytest.mark.parametrize("exception", WORDS, ids=repr)
def test_what_the_disconnect_caused_ends_at_the_edge(exception: Exception) -> None:
    assert left_of(exception) is None


OTHERS = [
    ClientDisconnected(DISCONNECT),  # another connection's: an app may be a client or a proxy itself
    named("myapp.errors", "ClientDisconnect")(),
    named("django.core.exceptions", "BadRequest")(),
    OSError(),
    FileNotFoundError(errno.ENOENT, "no such file"),
    ConnectionResetError(errno.ECONNRESET, "by the database"),
    BrokenPipeError(errno.EPIPE, "of a subprocess"),
    ConnectionRefusedError(),
    TimeoutError(),
    websockets.exceptions.ConnectionClosedOK(None, None),  # of an outbound WebSocket
    RuntimeError("No response returned."),
    ValueError(),
    KeyboardInterrupt(),
    SystemExit(),
    GeneratorExit(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("exception", OTHERS, ids=repr)
def test_what_the_app_raised_itself_is_left_as_it_is(exception: BaseException) -> None:
    assert left_of(exception) is exception


# Chains


def raised(exception: BaseException, cause: BaseException | None = None) -> BaseException:
    """`exception`, after `raise exception from cause`."""
    with pytest.raises(BaseException) as caught:
        raise exception from cause
    return caught.value


def raised_while(handled: BaseException, exception: BaseException, *, suppress: bool = False) -> BaseException:
    """`exception`, raised in the `except` block of `handled`."""
    with pytest.raises(BaseException) as caught:
        try:
            raise handled
        except type(handled):
            if suppress:
                raise exception from None
            raise exception
    assert caught.value.__context__ is handled
    return caught.value


@pytest.mark.parametrize("word", WORDS, ids=repr)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_chain_of_causes_is_walked(word: Exception, length: int) -> None:
    exception: BaseException = word
    for i in range(length):
        exception = raised(RuntimeError(f"link {i}"), exception)
    assert left_of(exception) is None


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_what_the_handler_of_the_disconnect_raises_from_it_ends_at_the_edge(word: Exception) -> None:
    """`except ClientDisconnected as gone: raise ExportFailed from gone`."""
    with pytest.raises(ValueError) as caught:
        try:
            raise word
        except type(word) as gone:
            raise ValueError from gone
    assert caught.value.__context__ is caught.value.__cause__ is word
    assert left_of(caught.value) is None


def test_a_chain_that_ends_elsewhere_is_the_apps_own() -> None:
    exception = raised(RuntimeError(), raised(ValueError(), OSError()))
    assert left_of(exception) is exception


@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_an_exception_of_the_handler_of_the_disconnect_is_the_apps_own(word: Exception, suppress: bool) -> None:
    """`except ClientDisconnected: save()`, and the disk is full: that must be heard."""
    exception = raised_while(word, OSError(errno.ENOSPC, "the disk is full"), suppress=suppress)
    assert left_of(exception) is exception


def test_a_chain_that_goes_round_ends() -> None:
    one, two, three = ValueError(), KeyError(), TypeError()
    one.__cause__, two.__cause__, three.__cause__ = two, three, one
    assert left_of(one) is one


def test_an_exception_that_is_its_own_cause_ends() -> None:
    exception = ValueError()
    exception.__cause__ = exception
    assert left_of(exception) is exception


def test_a_word_in_a_chain_that_goes_round_is_found() -> None:
    exception = ValueError()
    word = ClientDisconnect()
    exception.__cause__, word.__cause__ = word, exception
    assert left_of(exception) is None


def test_a_cause_that_is_a_group_explains_only_as_a_whole() -> None:
    whole = raised(RuntimeError(), ExceptionGroup("all ours", [OWN, ClientDisconnect()]))
    mixed = raised(RuntimeError(), ExceptionGroup("mixed", [OWN, ValueError()]))
    assert (left_of(whole), left_of(mixed)) == (None, mixed)


@pytest.mark.parametrize("whole", [False, True])
def test_a_leaf_raised_from_its_own_group_is_the_apps_own(whole: bool) -> None:
    """`except ExceptionGroup as group: raise group.exceptions[0] from group`."""
    leaf = ValueError()
    group = ExceptionGroup("tasks", [leaf])
    leaf.__cause__ = group
    exception = group if whole else leaf
    assert left_of(exception) is exception


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_the_task_or_the_process_passes_whatever_its_cause(kind: type[BaseException]) -> None:
    """P6."""
    exception = raised(kind(), OWN)
    assert left_of(exception) is exception


# Groups


def shape(exception: Any) -> Any:
    """A group as its message and parts, a leaf as itself: exceptions are equal only to themselves."""
    if isinstance(exception, BaseExceptionGroup):
        return (type(exception), exception.message, [shape(part) for part in exception.exceptions])
    return exception


def group(message: str, *parts: BaseException) -> Any:
    return BaseExceptionGroup(message, parts)  # an ExceptionGroup, if all the parts are Exceptions


ONE, TWO, THREE = ValueError(1), FileNotFoundError(2), RuntimeError(3)
STOP = asyncio.CancelledError()
EXCEPTIONS, BASES = ExceptionGroup, BaseExceptionGroup


@pytest.mark.parametrize(
    ("exception", "left"),
    [
        (group("all", OWN), None),
        (group("all", OWN, ClientDisconnect(), raised(ValueError(), OWN)), None),
        (group("all", group("deep", group("deeper", OWN)), ClientDisconnect()), None),
        (group("some", OWN, ONE), (EXCEPTIONS, "some", [ONE])),
        (group("some", ONE, OWN, TWO, ClientDisconnect(), THREE), (EXCEPTIONS, "some", [ONE, TWO, THREE])),
        (
            group("a", ONE, group("b", OWN, TWO, group("c", THREE, OWN)), OWN),
            (EXCEPTIONS, "a", [ONE, (EXCEPTIONS, "b", [TWO, (EXCEPTIONS, "c", [THREE])])]),
        ),
        (group("a", group("gone", OWN), ONE, group("gone too", OWN)), (EXCEPTIONS, "a", [ONE])),
        (group("stop", OWN, STOP), (BASES, "stop", [STOP])),
        (group("stop", STOP, group("b", OWN, ONE)), (BASES, "stop", [STOP, (EXCEPTIONS, "b", [ONE])])),
    ],
    ids=lambda value: repr(shape(value)) if isinstance(value, BaseException) else "",
)
def test_groups_are_split_at_every_depth(exception: BaseException, left: Any) -> None:
    assert shape(left_of(exception)) == left


@pytest.mark.parametrize(
    "exception",
    [
        group("a", ONE),
        group("a", ONE, group("b", TWO, group("c", THREE)), STOP),
        group("a", raised_while(OWN, OSError())),
        group("a", raised(ValueError(), group("mixed", OWN, OSError()))),
    ],
    ids=shape,
)
def test_a_group_without_a_part_of_ours_is_the_same_object(exception: BaseException) -> None:
    assert left_of(exception) is exception


class Tasks(ExceptionGroup):
    """A kind of its own, which says how to make another of it."""

    def derive(self, parts: Any) -> Tasks:  # type: ignore[override]  # as loose as users write it
        return Tasks(self.message, parts)


def test_what_is_left_of_a_group_is_of_its_kind() -> None:
    assert shape(left_of(Tasks("tasks", [OWN, ONE]))) == (Tasks, "tasks", [ONE])


def test_what_is_left_of_a_group_keeps_its_traceback_cause_context_and_notes() -> None:
    cause, context = KeyError("cause"), KeyError("context")
    exception = ExceptionGroup("tasks", [OWN, ONE])
    exception.add_note("while exporting")
    caught = raised_while(context, raised(exception, cause))
    caught.__cause__ = cause
    left = left_of(caught)
    assert left is not None and left is not caught
    assert (
        left.__cause__,
        left.__context__,
        getattr(left, "__notes__", None),
        traceback.extract_tb(left.__traceback__),
    ) == (cause, context, ["while exporting"], traceback.extract_tb(caught.__traceback__))
    assert len(traceback.extract_tb(left.__traceback__)) > 1


@pytest.mark.anyio
async def test_at_the_edge_the_rest_of_a_group_is_raised() -> None:
    """What the app awaits in a task group after its client has gone: the word ends here, the failed commit does not."""
    failed = OSError(errno.ECONNRESET, "by the database")
    cause = KeyError("cause")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ExceptionGroup("tasks", [ClientDisconnect(), failed]) from cause

    with pytest.raises(ExceptionGroup) as caught:
        await DisconnectMiddleware(app)({"type": "http"}, nothing_more, nowhere)
    rest: Any = caught.value
    assert (shape(rest), rest.__cause__, rest.__context__) == ((EXCEPTIONS, "tasks", [failed]), cause, None)
    assert traceback.extract_tb(rest.__traceback__)[-1].name == "app"


def test_the_group_that_was_raised_is_not_changed() -> None:
    exception = group("a", ONE, group("b", OWN, TWO))
    left_of(exception)
    assert shape(exception) == (EXCEPTIONS, "a", [ONE, (EXCEPTIONS, "b", [OWN, TWO])])


# What the app was handling when its client left


class Bug(Exception):
    pass


def raised_in(*handled: BaseException) -> BaseException:
    """A word for the disconnect, raised in the `except` block of the last; each was raised in that of another."""

    def run(*left: BaseException) -> None:
        if not left:
            raise ClientDisconnect
        try:
            raise left[0]
        except type(left[0]):
            run(*left[1:])

    with pytest.raises(ClientDisconnect) as caught:
        run(*handled)
    return caught.value


@pytest.mark.parametrize("word", WORDS, ids=repr)
def test_a_bug_that_is_being_handled_when_the_client_leaves_passes(word: Exception) -> None:
    """`except KeyError: report(await request.body())`: the report finds that the client has left."""
    with pytest.raises(type(word)) as caught:
        try:
            raise Bug
        except Bug:
            raise copy.copy(word)
    assert remove_disconnect_errors(caught.value, lambda one: one is caught.value) is caught.value


@pytest.mark.parametrize("word", [ClientDisconnect(), WebSocketDisconnect(code=1011)], ids=repr)
def test_a_bug_from_which_the_app_says_that_the_client_left_passes(word: Exception) -> None:
    """`except Bug as bug: raise WebSocketDisconnect(1011) from bug`."""
    exception = raised(copy.copy(word), raised(Bug()))
    assert left_of(exception) is exception


def test_a_bug_passes_however_far_behind_it_is() -> None:
    for exception in (
        raised_in(Bug(), TimeoutError(), ClientDisconnect()),
        raised_in(asyncio.CancelledError(), Bug(), TimeoutError()),
        raised(RuntimeError("read failed"), raised_in(Bug())),
        raised_in(raised(RuntimeError(), Bug())),
        raised_in(ExceptionGroup("tasks", [ClientDisconnect(), Bug()])),
        raised_in(group("tasks", ClientDisconnect(), raised_in(Bug()))),
        raised_in(raised(ExceptionGroup("tasks", [ClientDisconnect()]), Bug())),
    ):
        assert left_of(exception) is exception


def test_in_a_group_the_one_that_hides_a_bug_is_left() -> None:
    hides = raised_in(Bug())
    assert shape(left_of(group("tasks", OWN, hides, ClientDisconnect()))) == (EXCEPTIONS, "tasks", [hides])


@pytest.mark.parametrize("deep", [False, True])
def test_a_group_that_was_raised_while_a_bug_was_handled_passes(deep: bool) -> None:
    """`except Bug: async with TaskGroup(): …`."""
    exception = raised_while(Bug(), group("tasks", OWN, ClientDisconnect()))
    if deep:
        exception = group("all", ONE, exception)
    assert left_of(exception) is exception


def test_a_bug_that_the_author_leaves_out_of_the_traceback_is_left_out() -> None:
    assert left_of(raised_while(Bug(), ClientDisconnect(), suppress=True)) is None


ANSWERS = [
    HTTPException(404),
    WebSocketException(1008),
    RequestValidationError([]),
    named("django.http.response", "Http404")(),
    named("werkzeug.exceptions", "NotFound", named("werkzeug.exceptions", "HTTPException"))(),
    named("litestar.exceptions.http_exceptions", "HTTPException")(),
]
WAITS = [
    TimeoutError(),  # asyncio.timeout's
    StopAsyncIteration(),
    asyncio.QueueEmpty(),
    queue.Empty(),
    anyio.EndOfStream(),
    anyio.WouldBlock(),
    trio.TooSlowError(),
    trio.WouldBlock(),
    trio.EndOfChannel(),
    asyncio.CancelledError(),
    GeneratorExit(),
]


@pytest.mark.parametrize("handled", [*ANSWERS, *WAITS], ids=repr)
def test_what_an_app_handles_that_is_no_bug_does_not_pass(handled: BaseException) -> None:
    """A framework answers a 404, a WebSocket sends its heartbeat, and finds that the client has left."""
    assert left_of(raised_in(copy.copy(handled))) is None
    assert left_of(raised_in(ExceptionGroup("", [handled]) if isinstance(handled, Exception) else handled)) is None


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_what_an_answer_was_raised_from_has_been_answered(answer: Exception) -> None:
    """`except KeyError: raise HTTPException(404)`."""
    assert left_of(raised_in(KeyError("item"), answer)) is None


def test_another_timeout_is_a_bug() -> None:
    exception = raised_in(TimeoutError("the database"))
    assert left_of(exception) is exception


def test_what_the_server_raised_is_no_bug() -> None:
    """uvicorn's comes from that of `websockets`, which comes from one that was read long before."""
    servers = raised(OSError(), raised(websockets.exceptions.ConnectionClosedError(None, None), EOFError()))
    ours = raised(ClientDisconnected(DISCONNECT), servers)
    assert remove_disconnect_errors(ours, lambda one: one is ours) is None


@pytest.mark.parametrize("raises_from", [False, True])
@pytest.mark.anyio
async def test_at_the_edge_a_bug_passes_whose_handler_sends_what_the_server_does_not_take(raises_from: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            raise Bug
        except Bug:
            await send({"type": "http.response.body", "body": b"sorry", "more_body": True})

    async def receive() -> Any:
        return {"type": "http.request"} if not received.is_set() else await nothing_more()

    async def lost(message: Any) -> None:
        if message["type"] == "http.response.body":
            received.set()
            raise BrokenPipeError(errno.EPIPE, "broken pipe") from (EOFError() if raises_from else None)

    received = anyio.Event()
    with pytest.raises(ClientDisconnected) as caught:
        await DisconnectMiddleware(app, policy="raise")(http_scope(), receive, lost)
    assert "Bug" in "".join(traceback.format_exception(caught.value))


def test_contexts_that_go_round_end() -> None:
    """`except* …: raise group.exceptions[0]` makes the group the context of its own part."""
    word = ClientDisconnect()
    word.__context__ = ExceptionGroup("tasks", [word])
    assert left_of(word) is None


@pytest.mark.anyio
@pytest.mark.parametrize("policy", ["mute", "finish", "cancel", "raise"])
@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_at_the_edge_a_bug_passes_whose_report_meets_the_disconnect(layers: int, policy: Any) -> None:
    async def upload(request: Request) -> Response:
        try:
            raise Bug
        except Bug:
            await request.body()  # to report it
            raise

    app = Starlette(routes=[Route("/", upload)], middleware=[Middleware(Passing)] * layers)
    exception = await raised_by(DisconnectMiddleware(app, policy=policy))
    assert "Bug" in "".join(traceback.format_exception(exception))


@pytest.mark.anyio
async def test_at_the_edge_a_bug_passes_whose_handler_sends() -> None:
    """Policy `raise`: nothing of the bug is left out of the traceback."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            raise Bug
        except Bug:
            await send({"type": "http.response.start", "status": 400, "headers": []})

    exception = await raised_by(DisconnectMiddleware(app, policy="raise"))
    assert isinstance(exception, ClientDisconnected) and isinstance(exception.__context__, Bug)
    assert not exception.__suppress_context__


@pytest.mark.anyio
async def test_a_heartbeat_that_meets_the_disconnect_ends_at_the_edge(caplog: pytest.LogCaptureFixture) -> None:
    """It is sent when a wait is over, in the block of the `TimeoutError`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        while True:
            try:
                with anyio.fail_after(0):
                    await anyio.sleep_forever()
            except TimeoutError:
                await websocket.send_text("are you there?")

    async def lost(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise BrokenPipeError(errno.EPIPE, "broken pipe")

    received = iter([{"type": "websocket.connect"}])

    async def receive() -> Any:
        return next(received, {"type": "websocket.disconnect", "code": 1006})

    scope = {"type": "websocket", "path": "/", "headers": []}
    with anyio.fail_after(10):
        await DisconnectMiddleware(app)(scope, receive, lost)
    assert not caplog.records


# BaseHTTPMiddleware


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


async def nothing_more() -> Any:
    return {"type": "http.disconnect"}


async def nowhere(message: Any) -> None:
    pass


async def raised_by(app: Any) -> BaseException:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(Exception) as caught:
        await app(scope, nothing_more, nowhere)
    return caught.value


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """An app that ends without a response, as one does whose client has gone."""


@pytest.mark.anyio
@pytest.mark.parametrize("layers", [1, 2, 3])
async def test_no_response_returned_by_basehttpmiddleware_ends_at_the_edge(layers: int) -> None:
    app: Any = silent
    for _ in range(layers):
        app = Passing(app)
    exception: Any = await raised_by(app)
    while isinstance(exception, BaseExceptionGroup):
        exception = exception.exceptions[0]
    assert (type(exception), str(exception)) == (RuntimeError, "No response returned.")
    assert left_of(exception) is None


@pytest.mark.anyio
async def test_the_same_words_raised_by_the_app_are_its_own() -> None:
    """Behind a BaseHTTPMiddleware too, where they pass the same frames."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("No response returned.")

    for exception in (await raised_by(app), await raised_by(Passing(app))):
        assert left_of(exception) is exception


@pytest.mark.anyio
async def test_another_error_of_basehttpmiddlewares_is_the_apps_own() -> None:
    class Careless(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return None  # type: ignore[return-value]  # the mistake

    exception = await raised_by(Careless(silent))
    assert left_of(exception) is exception


@pytest.mark.anyio
async def test_a_cut_upload_to_asgirefs_wsgi_adapter_ends_at_the_edge() -> None:
    def wsgi_app(environ: Any, start_response: Any) -> Any:
        raise NotImplementedError

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {**http_scope(), "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "query_string": b""}
    with pytest.raises(ValueError, match="non-HTTP-request") as caught:
        await WsgiToAsgi(wsgi_app)(scope, receive, None)  # type: ignore[no-untyped-call]  # untyped
    assert left_of(caught.value) is None


def test_an_exception_that_two_tasks_hand_on_is_explained_twice() -> None:
    ours = ClientDisconnect()
    assert left_of(raised(ValueError(), cause=ExceptionGroup("of two tasks", [ours, ours]))) is None


def end(exception: Exception) -> None:
    raise exception


def test_the_birthplace_decides_and_not_the_text() -> None:
    """The same code in modules of two names: known by its name alone, since Starlette is never imported."""
    kinds: list[type[Exception]] = [RuntimeError, named("builtins", "RuntimeError", RuntimeError)]
    left = {}
    for module in ("starlette.middleware.base", "starlette.middleware.cors", "myapp"):
        for kind in kinds:
            for text in ("No response returned.", "no response"):
                exception = kind(text)
                with pytest.raises(RuntimeError):
                    types.FunctionType(end.__code__, {"__name__": module})(exception)
                left[module, kind is RuntimeError, text] = left_of(exception) is exception
    assert [key for key, is_kept in left.items() if not is_kept] == [
        ("starlette.middleware.base", True, "No response returned.")
    ]


@pytest.mark.anyio
@pytest.mark.parametrize("layers", [0, 1, 2])
async def test_an_error_raised_while_the_disconnect_was_handled_is_the_apps_own(layers: int) -> None:
    """Starlette's BaseHTTPMiddleware re-raises what the app raised `from` its `__context__`."""

    async def upload(request: Request) -> Response:
        try:
            return Response(await request.body())
        except ClientDisconnect:
            raise OSError(errno.ENOSPC, "the disk is full")

    app = Starlette(routes=[Route("/", upload)], middleware=[Middleware(Passing)] * layers)
    exception = await raised_by(app)
    assert isinstance(exception, OSError)
    assert left_of(exception) is exception


def test_the_word_of_granian_for_a_lost_websocket_is_a_runtime_error() -> None:
    assert is_lost_websocket_error(RuntimeError("ASGI flow error"))
    assert not is_lost_websocket_error(ValueError("ASGI flow error"))
    assert not is_lost_websocket_error(RuntimeError("another"))
