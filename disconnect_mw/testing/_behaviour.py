"""Records: what servers do when a client disconnects, as data."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final, Literal, TypeAlias

from ._fields import check_choice, check_close_code, check_count, check_flag, check_seconds, check_sequence, check_text


@dataclasses.dataclass(frozen=True)
class Raises:
    """An exception that a server raises: its class and its text.

    `{type}` in the text stands for the type of the message that was sent. `exception_class` makes a class that stands
    for one of the server's own, so that the server need not be installed. Raises `TypeError` for anything but a class
    of exceptions and a str.
    """

    kind: type[Exception]
    text: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.kind, type) or not issubclass(self.kind, Exception):
            raise TypeError(f"kind must be a class of exceptions, not {self.kind!r}: pass the class, not its name")
        check_text("text", self.text)

    def make(self, message: Any = None) -> Exception:
        """Return a new exception, about `message`."""
        if not self.text:
            return self.kind()
        return self.kind(self.text.replace("{type}", str((message or {}).get("type"))))

    def __str__(self) -> str:
        return f"raises {qualified_name(self.kind)}"


def qualified_name(kind: type[BaseException]) -> str:
    """Module and class, as a traceback has it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def exception_class(name: str, *bases: type[Exception]) -> type[Exception]:
    """Make a class of the same `name` as a server's own ("uvicorn.protocols.utils.ClientDisconnected").

    It has the same module, name and bases, and is not the same object. So the server need not be installed, and an
    `except` clause that names the server's class does not catch it. Raises `ValueError` for a name without a module.
    """
    module, _, qualname = name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"an exception is named by module and class ('package.module.Class'), not {name!r}")
    return type(qualname, bases or (Exception,), {"__module__": module})


Outcome: TypeAlias = Literal["silent", "blocks"] | Raises
"""What `send` does with a message: it returns None and the message is lost, it never returns, or it raises."""

CLIENTS_CODE: Final = "the client's"
"""Stands for the close code that the client sent."""


def _check_outcome(name: str, value: object, *more: str) -> None:
    if not isinstance(value, Raises):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be 'silent', 'blocks' or Raises(...), not {value!r}")
        check_choice(name, value, ("silent", "blocks", *more))


def _check_version(value: object) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9]+\.[0-9]+", value)):
        raise ValueError(
            f"spec_version must be a version like '2.3', or None where the server gives none, not {value!r}"
        )


@dataclasses.dataclass(frozen=True)
class ServerBehaviour:
    """What HTTP and WebSocket have in common."""

    spec_version: str | None = "2.3"
    """What the scope claims; None: the scope has no such key (Daphne). It does not predict what `send` does."""

    extensions: tuple[str, ...] = ()
    """The keys of the scope's `extensions`. The scope has no `extensions` where there are none."""

    drops_unread: bool = False
    """Whether the disconnect comes before messages that the app has not read, which are lost then.

    HTTP: uvicorn and gunicorn's `asgi` worker, a GET's only `http.request` included. WebSocket: uvicorn 0.13.4
    with `websockets`.
    """

    blocked_send: Literal["silent", "blocks", "never blocks"] | Raises = "silent"
    """What a `send` that flow control has blocked does when the client leaves.

    It returns (uvicorn, granian), raises, or stays blocked (gunicorn's `asgi` worker; uvicorn up to 0.34.3 with
    wsproto). "never blocks": the server has no flow control (Daphne, Hypercorn's HTTP/2).
    """

    stays_blocked: bool = False
    """Whether every later `send` blocks as well: uvicorn up to 0.34.3 with wsproto."""

    half_close: Literal["disconnect", "delivers"] = "disconnect"
    """What the server does about a client that shuts its sending side and reads on.

    "disconnect": it reports a disconnect and sends nothing more. "delivers": it reports a disconnect as well, and
    still sends (Hypercorn's HTTP/1.1 and granian's WebSocket).
    """

    cancels_after: float | None = None
    """Seconds from the disconnect until the server cancels the app; None: never.

    gunicorn's `asgi` worker 3, Daphne 10.
    """

    def __post_init__(self) -> None:
        _check_version(self.spec_version)
        object.__setattr__(self, "extensions", check_sequence("extensions", self.extensions, (str,)))
        _check_outcome("blocked_send", self.blocked_send, "never blocks")
        check_choice("half_close", self.half_close, ("disconnect", "delivers"))
        for name in ("drops_unread", "stays_blocked"):
            check_flag(name, getattr(self, name))
        if self.stays_blocked and self.blocked_send != "blocks":
            raise ValueError(
                f"stays_blocked contradicts blocked_send {self.blocked_send!r}: only a send that 'blocks' stays blocked"
            )
        if self.cancels_after is not None:
            check_seconds("cancels_after", self.cancels_after)


@dataclasses.dataclass(frozen=True)
class HTTPServerBehaviour(ServerBehaviour):
    """What a server does in an HTTP exchange whose client leaves.

    The defaults are the simplest server that follows the ASGI specification. Raises `ValueError` or `TypeError` for a
    record that no server could have.
    """

    http_version: Literal["1.1", "2"] = "1.1"

    send: Outcome = "silent"
    """What `send` does after the client has left. uvicorn 0.28.0 raises. Hypercorn's HTTP/2 blocks when the connection
    is lost. The others are silent."""

    buffer_size: int = 0
    """Bytes of body that a lost connection takes silently before a `send` that "blocks" does so.

    The last message blocks as soon as any are buffered. Hypercorn's HTTP/2: 32 KiB.
    """

    send_after_reset: Outcome | None = None
    """The same after an HTTP/2 client has reset its stream ("rst"); None: as after a lost connection.

    The last message blocks all the same if the client had not read some of the body before.
    """

    disconnect_comes: Literal["at once", "after a send"] = "at once"
    """When a waiting `receive` gets the disconnect. granian 1.7.6 notices it by a `send` (or an upload that is cut)."""

    disconnects: int | None = None
    """How many disconnects `receive` delivers before it blocks for ever; None: one for every call.

    One: Hypercorn, Daphne, granian 1.7.6 (and there one more after each `send` that failed).
    """

    disconnects_of_cut_upload: int | None = None
    """The same where the client left in the middle of its request body; None: no difference. granian 1.7.6: two."""

    wakes_all: bool = True
    """Whether all tasks that wait in `receive` wake. gunicorn's `asgi` worker wakes one, although it delivers the
    disconnect to every later call."""

    read_ahead: int | None = None
    """Bytes of unread body above which the server stops reading, and so does not notice that the client has left.

    Only where unread messages are dropped; elsewhere they are delivered anyway. uvicorn: 64 KiB. A second `send` finds
    that the connection is lost.
    """

    buffers_upload: bool = False
    """Whether the server calls the app only with the whole request body, in one message: Daphne."""

    disconnect_after_end: bool = True
    """Whether `receive` answers `http.disconnect` after a complete response. gunicorn's `asgi` worker waits instead."""

    send_after_end: Outcome = "silent"
    """What `send` does after a complete response. uvicorn, Hypercorn and granian raise."""

    false_disconnect: bool = False
    """Whether a `receive` that is cancelled after the body has been read causes a disconnect, although the client has
    not left: gunicorn's `asgi` worker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("http_version", self.http_version, ("1.1", "2"))
        _check_outcome("send", self.send)
        _check_outcome("send_after_end", self.send_after_end)
        check_choice("disconnect_comes", self.disconnect_comes, ("at once", "after a send"))
        for name in ("wakes_all", "buffers_upload", "disconnect_after_end", "false_disconnect"):
            check_flag(name, getattr(self, name))
        for name in ("disconnects", "disconnects_of_cut_upload"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=1)
        if self.send_after_reset is not None:
            _check_outcome("send_after_reset", self.send_after_reset)
            if self.http_version != "2":
                raise ValueError("send_after_reset contradicts http_version '1.1', which has no streams to reset")
        check_count("buffer_size", self.buffer_size)
        if self.buffer_size and self.send != "blocks":
            raise ValueError(
                f"buffer_size contradicts send {self.send!r}: only a send that 'blocks' fills a buffer before"
            )
        if self.read_ahead is not None:
            check_count("read_ahead", self.read_ahead)
            if not self.drops_unread:
                raise ValueError("read_ahead contradicts drops_unread False: unread messages are delivered anyway")
        if self.buffers_upload and self.disconnects_of_cut_upload is not None:
            raise ValueError(
                "disconnects_of_cut_upload contradicts buffers_upload: such a server calls no app for a cut upload"
            )


@dataclasses.dataclass(frozen=True)
class Answers:
    """What `send` does with each of the app's messages on a WebSocket whose client has left."""

    send: Outcome = "silent"
    """`websocket.send`."""

    close: Outcome = "silent"
    """`websocket.close`, after an accept."""

    accept: Outcome = "silent"
    """`websocket.accept`."""

    refuse: Outcome = "silent"
    """`websocket.close` instead of an accept."""

    denial_start: Outcome = "silent"
    """`websocket.http.response.start`."""

    denial_body: Outcome = "silent"
    """`websocket.http.response.body`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_outcome(field.name, getattr(self, field.name))


NOTHING_MORE: Final = "nothing more"
"""Ends a list of codes after which `receive` waits for ever, even where `then` says otherwise."""

Code: TypeAlias = int | Literal["the client's", "nothing more"] | None
"""A close code: a number, the client's own, or None for a disconnect without `code`; or NOTHING_MORE."""


@dataclasses.dataclass(frozen=True)
class WebSocketServerBehaviour(ServerBehaviour):
    """What a server does on a WebSocket whose client leaves.

    The defaults are the simplest server that follows the ASGI specification. A field `codes_…` lists the codes of the
    disconnects that `receive` delivers, one per call; `then` says what the calls after those do. Raises `ValueError`
    or `TypeError` for a record that no server could have.
    """

    lost: Answers = Answers()
    """After the connection was lost without a close frame."""

    closed: Answers | None = None
    """After the client's close frame; None: as when the connection was lost."""

    received: Answers | None = None
    """Once the app has received the disconnect; None: no difference. uvicorn raises another exception then."""

    before_accept: Answers = Answers()
    """When the client left before the app accepted."""

    after_end: Answers = Answers()
    """After the app's own close, and the client's answer to it."""

    after_refusal: Answers | None = None
    """After the app's `websocket.close` instead of an accept; None: as after its own close."""

    unread_hides_disconnect: bool = False
    """Whether messages that the app has not read keep the server from noticing that the client has left, so that sends
    are silent: uvicorn 0.54.0 with wsproto or websockets-sansio."""

    second_reader: Literal["waits"] | Raises = "waits"
    """What a `receive` does while another one waits. uvicorn raises with `websockets`."""

    sends_until_noticed: int = 0
    """How many messages `send` takes silently after the client has left; none after an RST. granian 1.7.6: one."""

    codes_of_loss: tuple[Code, ...] = (1006,)
    """After a lost connection. Empty: `receive` never reports it (uvicorn 0.13.4 with wsproto)."""

    codes_of_reset: tuple[Code, ...] | None = None
    """After an RST; None: as after a lost connection."""

    codes_of_close: tuple[Code, ...] = (CLIENTS_CODE,)
    """After the client's close frame."""

    codes_before_accept: tuple[Code, ...] | None = None
    """When the client left before the app accepted; None: as after a lost connection."""

    codes_after_end: tuple[Code, ...] = (1000,)
    """After the app's own close."""

    codes_after_refusal: tuple[Code, ...] | None = None
    """After the app's `websocket.close` instead of an accept; None: as after its own close."""

    codes_after_denial: tuple[Code, ...] | None = None
    """After the app's `websocket.http.response.body` instead of an accept; None: as after a refusal."""

    late_close_code: int | None = None
    """The code of one more disconnect, which the app's own `websocket.close` after the client has left adds; None: no
    more.

    uvicorn with wsproto up to 0.34.3. A server that repeats its last disconnect repeats this one from then on (uvicorn
    with `websockets`).
    """

    late_refusal_codes: tuple[Code, ...] | None = None
    """The same for a `websocket.close` instead of an accept; None: no difference."""

    then: Literal["repeats", "waits"] | Raises = "repeats"
    """What `receive` does after the last code: it repeats it, waits for ever, or raises (granian 1.7.6)."""

    receive_before_accept: Literal["disconnect", "waits", "connect"] = "disconnect"
    """What `receive` does when the client left before the app accepted. granian 2.8.7 waits, granian 1.7.6 repeats
    `websocket.connect`."""

    gives_reason: bool = True
    """Whether the disconnect has the client's reason."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lost", "closed", "received", "before_accept", "after_end", "after_refusal"):
            value = getattr(self, name)
            if not isinstance(value, Answers) and (
                value is not None or name not in ("closed", "received", "after_refusal")
            ):
                raise TypeError(f"{name} must be Answers(...), not {value!r}")
        for name in ("codes_of_loss", "codes_of_close", "codes_after_end", *_OPTIONAL_CODES):
            if getattr(self, name) is not None or name not in _OPTIONAL_CODES:
                codes = check_sequence(name, getattr(self, name), (int, str, type(None)))
                for code in codes:
                    _check_code(name, code)
                object.__setattr__(self, name, codes)
        check_count("sends_until_noticed", self.sends_until_noticed)
        if self.late_close_code is not None:
            check_close_code("late_close_code", self.late_close_code)
        if not isinstance(self.then, Raises):
            check_choice("then", self.then, ("repeats", "waits"))
        if not isinstance(self.second_reader, Raises):
            check_choice("second_reader", self.second_reader, ("waits",))
        check_flag("unread_hides_disconnect", self.unread_hides_disconnect)
        check_choice("receive_before_accept", self.receive_before_accept, ("disconnect", "waits", "connect"))
        check_flag("gives_reason", self.gives_reason)
        if self.then == "repeats" and not self.codes_of_loss:
            raise ValueError("then 'repeats' contradicts codes_of_loss, which is empty: there is nothing to repeat")
        if self.sends_until_noticed and self.lost.send == "silent":
            raise ValueError("sends_until_noticed contradicts lost.send 'silent': there is nothing to notice")


_OPTIONAL_CODES = (
    "codes_of_reset",
    "codes_before_accept",
    "codes_after_refusal",
    "codes_after_denial",
    "late_refusal_codes",
)


def _check_code(name: str, code: object) -> None:
    if isinstance(code, str):
        check_choice(name, code, (CLIENTS_CODE, NOTHING_MORE))
    elif code is not None:
        check_close_code(name, code)


@dataclasses.dataclass(frozen=True, repr=False)
class Server:
    """A server: its `name`, and its behaviour for each protocol.

    To vary a measured one: `dataclasses.replace(server, name=…, http=dataclasses.replace(server.http, …))`. Raises
    `ValueError` for an empty name, `TypeError` for a field of another type.
    """

    name: str
    http: HTTPServerBehaviour = HTTPServerBehaviour()
    websocket: WebSocketServerBehaviour = WebSocketServerBehaviour()

    def __post_init__(self) -> None:
        check_text("name", self.name)
        if not self.name:
            raise ValueError("name must not be empty: it is what a test report prints")
        for name, kind in (("http", HTTPServerBehaviour), ("websocket", WebSocketServerBehaviour)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be {kind.__name__}(...), not {getattr(self, name)!r}")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Server {self.name}>"
