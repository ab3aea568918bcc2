"""What distinguishes servers once a client has gone, as data."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final, Literal, TypeAlias

from . import _checks


@dataclasses.dataclass(frozen=True)
class Raises:
    """The exception that a server raises: its class, and its text, where `{type}` stands for the message's type.

    A class of the server's own is made by `exception_class`, so that the server need not be installed.
    """

    kind: type[Exception]
    text: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.kind, type) or not issubclass(self.kind, Exception):
            raise TypeError(f"kind must be a class of exceptions, not {self.kind!r}: pass the class, not its name")
        _checks.text("text", self.text)

    def make(self, message: Any = None) -> Exception:
        """A new exception, about `message`."""
        if not self.text:
            return self.kind()
        return self.kind(self.text.replace("{type}", str((message or {}).get("type"))))

    def __str__(self) -> str:
        return f"raises {name_of(self.kind)}"


def name_of(kind: type[BaseException]) -> str:
    """Module and class, as a traceback has it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def exception_class(name: str, *bases: type[Exception]) -> type[Exception]:
    """A class that goes by the `name` of a server's own ("uvicorn.protocols.utils.ClientDisconnected").

    The same module, the same name, the same bases, but not the same object: the server need not be there, and an
    `except` clause that names the real class does not catch it.
    """
    module, _, qualname = name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"an exception is named by module and class ('package.module.Class'), not {name!r}")
    return type(qualname, bases or (Exception,), {"__module__": module})


Outcome: TypeAlias = Literal["silent", "blocks"] | Raises
"""What becomes of a message: `send` returns None, or it never returns, or it raises."""

THE_CLIENTS: Final = "the client's"
"""Stands for the close code that the client sent."""


def _an_outcome(name: str, value: object, *more: str) -> None:
    if not isinstance(value, Raises):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be 'silent', 'blocks' or Raises(...), not {value!r}")
        _checks.a_choice(name, value, ("silent", "blocks", *more))


def _a_version(value: object) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9]+\.[0-9]+", value)):
        raise ValueError(
            f"spec_version must be a version like '2.3', or None where the server gives none, not {value!r}"
        )


@dataclasses.dataclass(frozen=True)
class ServerBehaviour:
    """What both protocols have."""

    spec_version: str | None = "2.3"
    """What the scope claims. Absent: Daphne. It does not predict what `send` does."""

    extensions: tuple[str, ...] = ()
    """The keys of the scope's `extensions`; no such key where there are none."""

    drops_unread: bool = False
    """Does a disconnect come before what the app has not read yet, which is then lost?

    HTTP: uvicorn and gunicorn's `asgi` worker, a GET's only `http.request` included. WebSocket: uvicorn 0.13.4
    with `websockets`.
    """

    blocked_send: Literal["silent", "blocks", "never blocks"] | Raises = "silent"
    """What becomes of a `send` that flow control has blocked, when the client leaves.

    It wakes (uvicorn, granian), wakes with an exception, or stays blocked (gunicorn's `asgi` worker; uvicorn up to
    0.34.3 with wsproto). Daphne and Hypercorn's HTTP/2 have no flow control: no `send` ever blocks.
    """

    stays_blocked: bool = False
    """Does every later `send` block as well? uvicorn up to 0.34.3 with wsproto."""

    half_close: Literal["departure", "delivers"] = "departure"
    """What a client that shuts its sending side and reads on is taken for: it has left, and gets nothing more.

    Hypercorn's HTTP/1.1 and granian's WebSocket tell of a departure as well, and still deliver.
    """

    cancels_after: float | None = None
    """Seconds from the departure to the server's cancellation of the app. gunicorn's `asgi` worker 3, Daphne 10."""

    def __post_init__(self) -> None:
        _a_version(self.spec_version)
        object.__setattr__(self, "extensions", _checks.a_sequence("extensions", self.extensions, (str,)))
        _an_outcome("blocked_send", self.blocked_send, "never blocks")
        _checks.a_choice("half_close", self.half_close, ("departure", "delivers"))
        for name in ("drops_unread", "stays_blocked"):
            _checks.a_flag(name, getattr(self, name))
        if self.stays_blocked and self.blocked_send != "blocks":
            raise ValueError(
                f"stays_blocked contradicts blocked_send {self.blocked_send!r}: only a send that 'blocks' stays blocked"
            )
        if self.cancels_after is not None:
            _checks.seconds("cancels_after", self.cancels_after)


@dataclasses.dataclass(frozen=True)
class HTTPServerBehaviour(ServerBehaviour):
    """How a server treats an HTTP exchange whose client leaves.

    The defaults are the plainest server that keeps the spec. Raises `ValueError` or `TypeError` for what no server
    could do.
    """

    http_version: Literal["1.1", "2"] = "1.1"

    send: Outcome = "silent"
    """What becomes of a message after the departure. uvicorn 0.28.0 raises; Hypercorn's HTTP/2 blocks, when the
    connection is lost; the others are silent."""

    buffers: int = 0
    """How many bytes of body a lost connection takes in silence before a `send` that "blocks" does. The last message
    blocks as soon as there are any. Hypercorn's HTTP/2: 32 KiB."""

    send_after_reset: Outcome | None = None
    """The same where an HTTP/2 client leaves by a reset of its stream ("rst") instead; None: no difference.

    The last message blocks even so, if the client has left some of the body before unread.
    """

    tells: Literal["at once", "after a send"] = "at once"
    """When a waiting `receive` gets the disconnect. granian 1.7.6 finds out by a `send` (or an upload that is cut)."""

    times_told: int | None = None
    """How often the disconnect is delivered; the next `receive` then blocks for ever. None: always.

    Once: Hypercorn, Daphne, granian 1.7.6 (there once more after each `send` that failed).
    """

    times_told_of_cut_upload: int | None = None
    """The same where the client left in the middle of its request body; None: no difference. granian 1.7.6: twice."""

    wakes_all: bool = True
    """Do all tasks that wait in `receive` wake? gunicorn's `asgi` worker wakes one, although it repeats itself."""

    read_ahead: int | None = None
    """How much unread body (in bytes) keeps the server from reading on, and so from noticing the departure.

    Only where the unread is dropped, and so would not be delivered otherwise: uvicorn, 64 KiB. A second `send` finds
    the connection lost.
    """

    buffers_upload: bool = False
    """Is the app called only when the whole request has come, and then given it in one piece? Daphne."""

    disconnect_after_end: bool = True
    """Does `receive` answer `http.disconnect` after a complete response? gunicorn's `asgi` worker waits instead."""

    send_after_end: Outcome = "silent"
    """What becomes of a message after a complete response. uvicorn, Hypercorn and granian raise."""

    false_disconnect: bool = False
    """Is there a disconnect, although the client has not left, after a `receive` that was cancelled once the body had
    been read? gunicorn's `asgi` worker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.a_choice("http_version", self.http_version, ("1.1", "2"))
        _an_outcome("send", self.send)
        _an_outcome("send_after_end", self.send_after_end)
        _checks.a_choice("tells", self.tells, ("at once", "after a send"))
        for name in ("wakes_all", "buffers_upload", "disconnect_after_end", "false_disconnect"):
            _checks.a_flag(name, getattr(self, name))
        for name in ("times_told", "times_told_of_cut_upload"):
            if getattr(self, name) is not None:
                _checks.a_count(name, getattr(self, name), least=1)
        if self.send_after_reset is not None:
            _an_outcome("send_after_reset", self.send_after_reset)
            if self.http_version != "2":
                raise ValueError("send_after_reset contradicts http_version '1.1', which has no streams to reset")
        _checks.a_count("buffers", self.buffers)
        if self.buffers and self.send != "blocks":
            raise ValueError(f"buffers contradicts send {self.send!r}: only a send that 'blocks' fills one before")
        if self.read_ahead is not None:
            _checks.a_count("read_ahead", self.read_ahead)
            if not self.drops_unread:
                raise ValueError("read_ahead contradicts drops_unread False: what is unread is delivered in any case")
        if self.buffers_upload and self.times_told_of_cut_upload is not None:
            raise ValueError(
                "times_told_of_cut_upload contradicts buffers_upload, where no app is called for a cut upload"
            )


@dataclasses.dataclass(frozen=True)
class Answers:
    """What becomes of each message of the app's on a WebSocket whose client has gone."""

    send: Outcome = "silent"
    """`websocket.send`."""

    close: Outcome = "silent"
    """`websocket.close`, after an accept."""

    accept: Outcome = "silent"
    """`websocket.accept`."""

    refuse: Outcome = "silent"
    """`websocket.close` in place of an accept."""

    deny: Outcome = "silent"
    """`websocket.http.response.start`."""

    denied: Outcome = "silent"
    """`websocket.http.response.body`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _an_outcome(field.name, getattr(self, field.name))


NOTHING_MORE: Final = "nothing more"
"""Stands after the codes of those disconnects after which `receive` waits for ever, even if `then` says otherwise."""

Code: TypeAlias = int | Literal["the client's", "nothing more"] | None
"""A close code: a number, the client's own, or None where the disconnect has no `code` at all; or NOTHING_MORE."""


@dataclasses.dataclass(frozen=True)
class WebSocketServerBehaviour(ServerBehaviour):
    """How a server treats a WebSocket whose client leaves.

    The defaults are the plainest server that keeps the spec. A field of `codes_…` names the codes of the disconnects
    that `receive` delivers one after the other; `then` says what comes when they have all been told. Raises
    `ValueError` or `TypeError` for what no server could do.
    """

    lost: Answers = Answers()
    """After the connection was lost without a close frame."""

    closed: Answers | None = None
    """After the client's close frame; None: as when the connection was lost."""

    told: Answers | None = None
    """Once the app has received the disconnect; None: no difference. uvicorn raises another exception then."""

    before_accept: Answers = Answers()
    """When the client left before the app accepted."""

    after_end: Answers = Answers()
    """After the app's own close, which its client has answered."""

    after_refusal: Answers | None = None
    """After the app has refused its client; None: as after its own close."""

    unread_hides: bool = False
    """Do messages that the app has not read keep the server from noticing the departure, so that sends are silent?
    uvicorn 0.54.0 with wsproto or websockets-sansio."""

    second_reader: Literal["waits"] | Raises = "waits"
    """What a `receive` comes to while another one waits. uvicorn raises with `websockets`."""

    sends_until_noticed: int = 0
    """How many messages the server takes in silence after the departure; none after an RST. granian 1.7.6: one."""

    codes_of_loss: tuple[Code, ...] = (1006,)
    """None at all: a loss is never told (uvicorn 0.13.4 with wsproto)."""

    codes_of_reset: tuple[Code, ...] | None = None
    """The same by an RST; None: no difference."""

    codes_of_close: tuple[Code, ...] = (THE_CLIENTS,)
    codes_before_accept: tuple[Code, ...] | None = None
    """None: as of a loss."""

    codes_after_end: tuple[Code, ...] = (1000,)
    """After the app's own close."""

    codes_after_refusal: tuple[Code, ...] | None = None
    """After the app's `websocket.close` in place of an accept; None: as after its own close."""

    codes_after_denial: tuple[Code, ...] | None = None
    """After the app's `websocket.http.response.body` in place of an accept; None: as after a refusal."""

    late_close_code: int | None = None
    """What the app's own `websocket.close` after the departure leaves to tell; None: nothing.

    uvicorn with wsproto up to 0.34.3 tells it as one disconnect more. A server that repeats itself tells nothing else
    from then on (uvicorn with `websockets`).
    """

    late_refusal_codes: tuple[Code, ...] | None = None
    """The same of a `websocket.close` in place of an accept; None: no difference."""

    then: Literal["repeats", "waits"] | Raises = "repeats"
    """What `receive` does when all has been told: the last again, or wait for ever, or raise (granian 1.7.6)."""

    receive_before_accept: Literal["disconnect", "waits", "connect"] = "disconnect"
    """What `receive` gives when the client left before the app accepted. granian 2.8.7 waits, granian 1.7.6 repeats
    `websocket.connect`."""

    tells_reason: bool = True
    """Does the disconnect bring the client's reason?"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lost", "closed", "told", "before_accept", "after_end", "after_refusal"):
            value = getattr(self, name)
            if not isinstance(value, Answers) and (
                value is not None or name not in ("closed", "told", "after_refusal")
            ):
                raise TypeError(f"{name} must be Answers(...), not {value!r}")
        for name in ("codes_of_loss", "codes_of_close", "codes_after_end", *_CODES_THAT_MAY_BE_THE_SAME):
            if getattr(self, name) is not None or name not in _CODES_THAT_MAY_BE_THE_SAME:
                codes = _checks.a_sequence(name, getattr(self, name), (int, str, type(None)))
                for code in codes:
                    _a_code(name, code)
                object.__setattr__(self, name, codes)
        _checks.a_count("sends_until_noticed", self.sends_until_noticed)
        if self.late_close_code is not None:
            _checks.a_close_code("late_close_code", self.late_close_code)
        if not isinstance(self.then, Raises):
            _checks.a_choice("then", self.then, ("repeats", "waits"))
        if not isinstance(self.second_reader, Raises):
            _checks.a_choice("second_reader", self.second_reader, ("waits",))
        _checks.a_flag("unread_hides", self.unread_hides)
        _checks.a_choice("receive_before_accept", self.receive_before_accept, ("disconnect", "waits", "connect"))
        _checks.a_flag("tells_reason", self.tells_reason)
        if self.then == "repeats" and not self.codes_of_loss:
            raise ValueError("then 'repeats' contradicts codes_of_loss, which is empty: there is nothing to repeat")
        if self.sends_until_noticed and self.lost.send == "silent":
            raise ValueError("sends_until_noticed contradicts lost.send 'silent': there is nothing to notice")


_CODES_THAT_MAY_BE_THE_SAME = (
    "codes_of_reset",
    "codes_before_accept",
    "codes_after_refusal",
    "codes_after_denial",
    "late_refusal_codes",
)


def _a_code(name: str, code: object) -> None:
    if isinstance(code, str):
        _checks.a_choice(name, code, (THE_CLIENTS, NOTHING_MORE))
    elif code is not None:
        _checks.a_close_code(name, code)


@dataclasses.dataclass(frozen=True, repr=False)
class Server:
    """A server by its `name`, with its behaviour for each protocol.

    A variation of a measured one is `dataclasses.replace(server, name=…, http=dataclasses.replace(server.http, …))`.
    """

    name: str
    http: HTTPServerBehaviour = HTTPServerBehaviour()
    websocket: WebSocketServerBehaviour = WebSocketServerBehaviour()

    def __post_init__(self) -> None:
        _checks.text("name", self.name)
        if not self.name:
            raise ValueError("name must not be empty: it is what a test report prints")
        for name, kind in (("http", HTTPServerBehaviour), ("websocket", WebSocketServerBehaviour)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be {kind.__name__}(...), not {getattr(self, name)!r}")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<Server {self.name}>"
