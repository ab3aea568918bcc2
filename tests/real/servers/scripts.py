"""Scripts for a bare app and its client, as data, and the app that plays them: on a real server and in memory alike.

A script is a row of steps.

- `receive` is one call of `receive`. `body` is as many as it takes to get the request's body; `some` is the same where
  it is certain only whether there is any of it. `receive+` leaves a `receive` waiting.
- `start`, `chunk`, `final`, `accept`, `text`, `close` and the others of `MESSAGES` are messages for `send`. `much` is a
  larger one. `pour` sends very large ones until one blocks, and leaves that waiting.
- `join` notes the outcomes of all calls that wait.
- `fin`, `rst`, `half` and `clean`: the client leaves, and the server has time to notice.
- `pause` lets the client answer. `linger` waits for a cancellation by the server.
- `scope` notes what the scope claims, `got` what the client has got.

Each step is bounded: one that does not return in time "hangs", and is cancelled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

from disconnect_mw.testing import HTTPClient, WebSocketClient

CLOSE_CODE, CLOSE_REASON = 1001, "bye"
"""The close frame of a client that leaves by `clean`."""

LARGE = 1 << 20
POURED = 24
"""After so many messages of that size a server has no flow control."""

BEFORE, AFTER = b"before", b"after"
"""The content of messages that are sent before the client leaves, and after that."""

KIB = 1024

WAYS = ("fin", "rst", "half", "clean")

MESSAGES: dict[str, dict[str, Any]] = {
    "start": {"type": "http.response.start", "status": 200, "headers": []},
    "chunk": {"type": "http.response.body", "body": BEFORE, "more_body": True},
    "final": {"type": "http.response.body", "body": BEFORE},
    "end": {"type": "http.response.body", "body": b""},
    "accept": {"type": "websocket.accept"},
    "text": {"type": "websocket.send", "text": BEFORE.decode()},
    "close": {"type": "websocket.close", "code": 1000},
    "refuse": {"type": "websocket.close", "code": 1000},
    "deny": {"type": "websocket.http.response.start", "status": 401, "headers": []},
    "denied": {"type": "websocket.http.response.body", "body": b"no"},
}

Seconds = float
Leave = Callable[[str], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Script:
    """What a bare app does, step by step, with a client that leaves where a step says so.

    `client` has the request's body, or the messages of a WebSocket's. `http2` is False for a body that is larger than
    the window of an HTTP/2 stream.
    """

    name: str
    steps: str
    client: HTTPClient | WebSocketClient = HTTPClient()
    needs: str = ""  # an extension of the scope
    http2: bool = True

    @property
    def protocol(self) -> Literal["http", "websocket"]:
        return "websocket" if isinstance(self.client, WebSocketClient) else "http"

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.steps.split())

    @property
    def way(self) -> str | None:
        """How the client leaves; None if it stays."""
        return next((word for word in self.words if word in WAYS), None)

    def __str__(self) -> str:
        return f"{self.protocol}, {self.name}: {self.steps}"


def _http() -> Iterator[Script]:
    yield Script("what the scope claims", "scope")
    for way in ("fin", "rst"):
        yield Script("gone before the response, unheard", f"receive {way} start chunk chunk final receive*3")
        yield Script("gone before the response, heard", f"receive {way} receive start chunk final receive*2")
        yield Script("gone while it waits", f"receive receive+ {way} join receive*2")
        yield Script("gone during the response, heard", f"receive start chunk receive+ {way} join chunk*4 receive")
        yield Script("gone during the response, unheard", f"receive start chunk {way} chunk*4 receive*2")
        yield Script("gone before the last message", f"receive start chunk {way} receive final receive")
        yield Script("gone before an empty last message", f"receive start chunk {way} end receive")
        yield Script("gone before it reads", f"{way} receive*3")
        yield Script("gone before it reads, and it sends first", f"{way} start chunk receive*2")
        yield Script("cut upload, read live", f"receive {way} receive*3 start final", UPLOAD_CUT)
        yield Script("cut upload, unread", f"{way} body receive*2", UPLOAD_CUT)
    yield Script("two wait", "receive receive+ receive+ rst join receive")
    yield Script("much is sent after it has gone", "receive start rst much*3 receive")
    yield Script("large cut upload, unread", "fin body receive*2", LARGE_UPLOAD_CUT, http2=False)
    yield Script("cut upload, and it sends first", "fin start chunk body receive", UPLOAD_CUT)
    yield Script("large cut upload, and it sends first", "fin start chunk some receive", LARGE_UPLOAD_CUT, http2=False)
    yield Script("whole upload, unread", "fin body receive*2", UPLOAD)
    yield Script("large whole upload, unread", "fin body receive*2", LARGE_UPLOAD, http2=False)
    yield Script("whole upload, and it sends first", "fin start chunk body receive", UPLOAD)
    # The response is not in one piece: after one a body makes granian 1.7.6's worker panic and exit.
    yield Script("after the end, the client stays", "receive start chunk final receive*2 chunk start receive")
    yield Script("after the end, it sends", "receive start chunk final chunk start")
    yield Script("after the end, unread", "start final receive*2")
    yield Script("after the end, the client goes", "receive start chunk final fin receive*2 chunk")
    yield Script("a cancelled receive, the client stays", "receive receive*2 start chunk final got")
    yield Script("half-closed before the response", "receive half receive start final got")
    yield Script("half-closed during the response", "receive start chunk receive+ half join final got")
    yield Script("a send blocked", "receive start pour rst join chunk receive final")
    yield Script("a send blocked, and it listens", "receive start receive+ pour rst join chunk receive")
    yield Script("much is sent into a lost connection", "receive start fin much*3 receive")
    yield Script("it lingers", "receive start chunk fin linger")


UPLOAD = HTTPClient(body=b"x" * KIB)
LARGE_UPLOAD = HTTPClient(body=b"x" * 200 * KIB)
UPLOAD_CUT = HTTPClient(body=[b"x" * KIB, b"x"], leaves_after_chunks=1)
LARGE_UPLOAD_CUT = HTTPClient(body=[b"x" * 200 * KIB, b"x"], leaves_after_chunks=1)

SOCKET = WebSocketClient()
TALKER = WebSocketClient(messages=["one", b"two"])


def _websocket() -> Iterator[Script]:
    def script(name: str, steps: str, client: WebSocketClient = SOCKET, needs: str = "") -> Script:
        return Script(name, steps, client, needs)

    yield script("what the scope claims", "scope")
    for way in ("fin", "rst", "clean", "half"):
        yield script("gone, unheard", f"receive accept {way} text text close receive*3")
        yield script("gone, heard", f"receive accept {way} receive text close receive*3")
        yield script("gone, again and again", f"receive accept {way} receive*4")
        yield script("gone while it waits", f"receive accept receive+ {way} join text receive*2")
    yield script("two wait", "receive accept receive+ receive+ rst join receive")
    yield script("two wait for a close", "receive accept receive+ receive+ clean join receive")
    for way in ("fin", "rst"):
        yield script("gone before the accept, unheard", f"receive {way} accept text close receive*3")
        yield script("gone before the accept, heard", f"receive {way} receive accept text close receive")
        yield script("gone before the accept, while it waits", f"receive receive+ {way} join receive")
        yield script("gone before it is refused", f"receive {way} refuse receive*2")
        yield script("gone before it is denied", f"receive {way} deny denied receive", needs="websocket.http.response")
    yield script("half-closed, and it sends", "receive accept half text text got")
    yield script("gone before it reads", "fin receive*2")
    yield script("its messages wait", "receive accept fin receive*4", TALKER)
    yield script("its messages wait, and it sends first", "receive accept fin text receive*4 text", TALKER)
    yield script("its messages wait, and it closes", "receive accept clean receive*4", TALKER)
    yield script("the app's own close", "receive accept text close pause text close receive*3")
    yield script("the app's own close, read at once", "receive accept close receive*3 text")
    yield script("the app's own refusal", "receive refuse pause receive*2 text refuse")
    yield script("the app's own denial", "receive deny denied pause receive*2 denied", needs="websocket.http.response")
    yield script("a cancelled receive, the client stays", "receive accept receive*2 text got")
    yield script("a send blocked", "receive accept pour rst join text receive close")
    yield script("a send blocked, and it listens", "receive accept receive+ pour rst join text receive")
    yield script("it lingers", "receive accept text fin linger")


def _unrolled(script: Script) -> Script:
    words = []
    for word in script.words:
        name, _, times = word.partition("*")
        words += [name] * int(times or 1)
    return dataclasses.replace(script, steps=" ".join(words))


SCRIPTS = tuple(map(_unrolled, (*_http(), *_websocket())))


class Performance:
    """An app that plays one script; `lines` is its transcript."""

    def __init__(self, script: Script, leave: Leave, patience: Seconds, lingers: Seconds) -> None:
        self.script = script
        self.lines: list[str] = []
        self._leave = leave
        self._patience = patience
        self._lingers = lingers
        self._waiting: list[_Call] = []
        self._has_left = False
        self._left_at = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for word in self.script.words:
                await self._step(word, tasks, scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _step(self, word: str, tasks: TaskGroup, scope: Any, receive: Any, send: Any) -> None:
        if word in WAYS:
            self._left_at = anyio.current_time()
            await self._leave(word)
            self._has_left = True
        elif word == "scope":
            self._note(f"scope: {claims(scope)}")
        elif word == "receive":
            self._note(f"receive: {(await self._bounded(receive, tasks)).outcome}")
        elif word == "receive+":
            waiting = await self._started("receive", receive, tasks)
            await waiting.ended_within(self._patience / 2)
        elif word == "body":
            self._note(f"body: {await self._body(receive, tasks)}")
        elif word == "some":
            self._note(f"some: {await self._some(receive, tasks)}")
        elif word == "pour":
            await self._pour(send, tasks)
        elif word == "join":
            await self._join()
        elif word == "linger":
            await self._linger()
        elif word == "pause":
            await anyio.sleep(self._patience / 2)
        elif word == "got":
            pass  # the client's side notes it
        else:
            message = self._message(word)
            self._note(f"{word}: {(await self._bounded(lambda: send(message), tasks)).outcome}")

    def _note(self, line: str) -> None:
        self.lines.append(line)

    def _message(self, word: str) -> dict[str, Any]:
        if word == "much":
            return {"type": "http.response.body", "body": bytes(20 * KIB), "more_body": True}
        message = dict(MESSAGES[word])
        if self._has_left and message.get("body"):
            message["body"] = AFTER
        if self._has_left and message.get("text"):
            message["text"] = AFTER.decode()
        return message

    async def _bounded(self, call: Callable[[], Awaitable[Any]], tasks: TaskGroup) -> _Call:
        waiting = await self._started("", call, tasks)
        self._waiting.remove(waiting)
        await waiting.ended_within(self._patience)
        await waiting.end()
        return waiting

    async def _body(self, receive: Any, tasks: TaskGroup) -> str:
        """Return the size of the request's body; its pieces differ with the moment at which they come."""
        size = 0
        while True:
            waiting = await self._bounded(receive, tasks)
            message = waiting.answer
            if message is None or message["type"] != "http.request":
                return f"{size} bytes, then {waiting.outcome}"
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                return f"{size} bytes, all"

    async def _some(self, receive: Any, tasks: TaskGroup) -> str:
        """Return whether any of the body came; how much of a large one depends on buffers and moments."""
        size, _, rest = (await self._body(receive, tasks)).partition(" bytes")
        return f"{'none' if size == '0' else 'some'} of the body{rest}"

    async def _started(self, name: str, call: Callable[[], Awaitable[Any]], tasks: TaskGroup) -> _Call:
        waiting = _Call(name, call)
        self._waiting.append(waiting)
        tasks.start_soon(waiting.run)
        await waiting.begun.wait()
        return waiting

    async def _pour(self, send: Any, tasks: TaskGroup) -> None:
        if self.script.protocol == "http":
            message: dict[str, Any] = {"type": "http.response.body", "body": bytes(LARGE), "more_body": True}
        else:
            message = {"type": "websocket.send", "bytes": bytes(LARGE)}
        for _ in range(POURED):
            waiting = await self._started("blocked send", lambda: send(message), tasks)
            if not await waiting.ended_within(self._patience):
                return
            self._waiting.remove(waiting)
            if waiting.outcome != "None":
                self._note(f"pour: {waiting.outcome}")
                return
        self._note("pour: never blocks")

    async def _join(self) -> None:
        """Note the outcomes of all calls that wait; sorted, because readers may wake in any order."""
        with anyio.move_on_after(self._patience):
            for waiting in self._waiting:
                await waiting.ended.wait()
        for line in sorted(f"waiting {waiting.name}: {waiting.outcome}" for waiting in self._waiting):
            self._note(line)
        for waiting in self._waiting:
            await waiting.end()
        self._waiting.clear()

    async def _linger(self) -> None:
        try:
            await anyio.sleep(self._lingers)
        except BaseException:
            seconds = anyio.current_time() - self._left_at
            self._note(f"linger: cancelled{' too early' if seconds < 0.7 else ''}")
            raise
        self._note("linger: goes on")


class _Call:
    """A call of `receive` or `send` in a task of its own."""

    def __init__(self, name: str, call: Callable[[], Awaitable[Any]]) -> None:
        self.name = name
        self.answer: Any = None
        self.outcome = "hangs"
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self._call = call
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        self.begun.set()
        try:
            with self._scope:
                self.answer = await self._call()
                self.outcome = described(self.answer)
        except anyio.get_cancelled_exc_class():
            if not self._scope.cancel_called:
                raise
            # granian 1 cancels its own future in turn, which anyio does not take for its own cancellation
        except Exception as exception:
            self.outcome = f"raises {named(exception)}"
        finally:
            self.ended.set()

    async def ended_within(self, seconds: Seconds) -> bool:
        with anyio.move_on_after(seconds):
            await self.ended.wait()
        return self.ended.is_set()

    async def end(self) -> None:
        if not self.ended.is_set():
            self._scope.cancel()
            await self.ended.wait()


def described(answer: Any) -> str:
    """Return what `receive` or `send` returned, without what servers may choose."""
    if not isinstance(answer, dict):
        return repr(answer)
    kind = answer["type"]
    if kind == "http.request":
        return f"{kind} ({len(answer.get('body', b''))} bytes{', more' if answer.get('more_body') else ''})"
    if kind == "websocket.receive":
        return f"{kind} {answer.get('bytes') if answer.get('text') is None else answer['text']!r}"
    if kind == "websocket.disconnect":
        code = "no code" if answer.get("code") is None else answer["code"]  # or None for one: uvicorn 0.13.4, wsproto
        return f"{kind} ({code}{', ' + repr(answer['reason']) if answer.get('reason') else ''})"
    return str(kind)


def named(exception: BaseException) -> str:
    """Return module and class, and the base classes among Python's own, which an `except` clause may name."""
    kind = type(exception)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    known = [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]
    bases = [name for name in known if name not in ("Exception", "BaseException", "object")]
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(bases)})"


def claims(scope: Any) -> str:
    extensions = ", ".join(sorted(scope.get("extensions") or ())) or "no extensions"
    spec_version = scope["asgi"].get("spec_version", "absent")
    version = f"http_version {scope['http_version']}, " if scope["type"] == "http" else ""
    return f"{version}spec_version {spec_version}, {extensions}"
