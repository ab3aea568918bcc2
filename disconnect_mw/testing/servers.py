"""The servers as they were measured (Python 3.11, Linux, November 2026), and the two extremes of the specification.

One constant for each server and version. A definition states only the differences to the one that it refers to.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ._behaviour import (
    CLIENTS_CODE,
    NOTHING_MORE,
    Answers,
    HTTPServerBehaviour,
    Raises,
    Server,
    WebSocketServerBehaviour,
    exception_class,
)


def _derive(server: Server, name: str, *, http: Any = None, websocket: Any = None) -> Server:
    """Return `server` under another name, with these fields of its behaviour replaced."""
    return Server(
        name,
        dataclasses.replace(server.http, **(http or {})),
        dataclasses.replace(server.websocket, **(websocket or {})),
    )


# The extremes of the specification

_CONNECTION_CLOSED = Raises(exception_class("server.ConnectionClosed", OSError), "the client has disconnected")

SPEC_SILENT = Server(
    "spec-silent",
    HTTPServerBehaviour(spec_version="2.3"),
    WebSocketServerBehaviour(spec_version="2.3"),
)
"""ASGI up to 2.3: a `send` after the client has left is a no-op."""

SPEC_RAISING = Server(
    "spec-raising",
    HTTPServerBehaviour(spec_version="2.4", send=_CONNECTION_CLOSED, blocked_send=_CONNECTION_CLOSED),
    WebSocketServerBehaviour(
        spec_version="2.4",
        lost=Answers(send=_CONNECTION_CLOSED),
        before_accept=Answers(send=_CONNECTION_CLOSED),
        after_end=Answers(send=_CONNECTION_CLOSED),
        blocked_send=_CONNECTION_CLOSED,
    ),
)
"""ASGI 2.4 and later: `send` "should raise a server-specific subclass of OSError"."""

# uvicorn. On a WebSocket whose client has left, `send` raises ClientDisconnected; once the app has received the
# disconnect, RuntimeError.

_DENIAL = "websocket.http.response"

_AFTER_END = Raises(RuntimeError, "Unexpected ASGI message '{type}' sent, after response already completed.")
_AFTER_CLOSE = Raises(RuntimeError, "Unexpected ASGI message '{type}', after sending 'websocket.close'.")
_AFTER_CLOSE_OR_RESPONSE = Raises(
    RuntimeError, "Unexpected ASGI message '{type}', after sending 'websocket.close' or response already completed."
)
_CLIENT_DISCONNECTED = Raises(exception_class("uvicorn.protocols.utils.ClientDisconnected", OSError))
_WEBSOCKETS_CLOSED = exception_class(
    "websockets.exceptions.ConnectionClosed", exception_class("websockets.exceptions.WebSocketException", Exception)
)
_WEBSOCKETS_ERROR = Raises(
    exception_class("websockets.exceptions.ConnectionClosedError", _WEBSOCKETS_CLOSED),
    "no close frame received or sent",
)
_WEBSOCKETS_OK = Raises(
    exception_class("websockets.exceptions.ConnectionClosedOK", _WEBSOCKETS_CLOSED),
    "received 1001 (going away) bye; then sent 1001 (going away) bye",
)
_TWO_READERS = Raises(RuntimeError, "cannot call recv while another coroutine is already waiting for the next message")
_NO_FUTURE = Raises(TypeError, "An asyncio.Future, a coroutine or an awaitable is required")
_NO_ATTRIBUTE = Raises(AttributeError, "'WebSocketProtocol' object has no attribute 'transfer_data_task'")

UVICORN_0_13_4 = Server(
    "uvicorn-0.13.4",
    HTTPServerBehaviour(spec_version="2.1", drops_unread=True, read_ahead=65536, send_after_end=_AFTER_END),
    WebSocketServerBehaviour(
        spec_version="2.1",
        drops_unread=True,
        lost=Answers(send=_WEBSOCKETS_ERROR),
        closed=Answers(send=_WEBSOCKETS_OK),
        before_accept=Answers(send=_WEBSOCKETS_ERROR, close=_NO_FUTURE),
        after_end=Answers(send=_AFTER_CLOSE, close=_AFTER_CLOSE),
        codes_after_refusal=(1006,),
        second_reader=_TWO_READERS,
        blocked_send=_WEBSOCKETS_ERROR,
        gives_reason=False,
    ),
)
UVICORN_0_20_0 = _derive(
    UVICORN_0_13_4,
    "uvicorn-0.20.0",
    http={"spec_version": "2.3"},
    websocket={
        "spec_version": "2.3",
        "drops_unread": False,
        "received": Answers(send=_AFTER_CLOSE_OR_RESPONSE, close=_AFTER_CLOSE_OR_RESPONSE),
        "codes_of_loss": (1006, 1005),
        "codes_of_close": (CLIENTS_CODE, 1005),
        "codes_before_accept": (1006,),
        "codes_after_end": (1005,),
        "late_close_code": 1005,
    },
)
UVICORN_0_27_0 = _derive(
    UVICORN_0_20_0,
    "uvicorn-0.27.0",
    websocket={
        "spec_version": "2.4",
        "extensions": (_DENIAL,),
        "lost": Answers(send=_CLIENT_DISCONNECTED),
        "closed": None,
        "before_accept": Answers(send=_CLIENT_DISCONNECTED, close=_NO_ATTRIBUTE),
        "after_end": Answers(send=_AFTER_CLOSE_OR_RESPONSE, close=_AFTER_CLOSE_OR_RESPONSE),
        "blocked_send": _CLIENT_DISCONNECTED,
    },
)
UVICORN_0_28_0 = _derive(
    UVICORN_0_27_0,
    "uvicorn-0.28.0",
    http={"spec_version": "2.4", "send": _CLIENT_DISCONNECTED, "blocked_send": _CLIENT_DISCONNECTED},
)
"""The one version whose HTTP `send` raises."""

UVICORN_0_28_1 = _derive(UVICORN_0_27_0, "uvicorn-0.28.1", http={"spec_version": "2.4"})
"""It claims 2.4, as all versions to 0.32.0 do, and its `send` is silent."""

UVICORN_0_30_6 = _derive(UVICORN_0_28_1, "uvicorn-0.30.6", websocket={"gives_reason": True})
UVICORN_0_34_3 = _derive(UVICORN_0_30_6, "uvicorn-0.34.3", http={"spec_version": "2.3"})
UVICORN_0_54_0 = _derive(UVICORN_0_34_3, "uvicorn-0.54.0")

# uvicorn with wsproto: HTTP is the same.

_WSPROTO_ERROR = Raises(
    exception_class(
        "wsproto.utilities.LocalProtocolError", exception_class("wsproto.utilities.ProtocolError", Exception)
    ),
    "the event cannot be sent in state ConnectionState.CLOSED.",
)
_NO_ACCEPT = Raises(RuntimeError, "Expected ASGI message 'websocket.send' or 'websocket.close', but got '{type}'.")

UVICORN_0_13_4_WSPROTO = Server(
    "uvicorn-0.13.4-wsproto",
    UVICORN_0_13_4.http,
    WebSocketServerBehaviour(
        spec_version="2.1",
        closed=Answers(send=_WSPROTO_ERROR, close=_WSPROTO_ERROR),
        after_end=Answers(send=_AFTER_CLOSE, close=_AFTER_CLOSE),
        codes_of_loss=(),
        codes_of_reset=(None,),
        codes_after_refusal=(None,),
        late_refusal_codes=(None,),
        late_close_code=1000,
        then="waits",
        blocked_send="blocks",
        stays_blocked=True,
        gives_reason=False,
    ),
)
"""`receive` reports a lost connection only after an RST, without a code."""

UVICORN_0_20_0_WSPROTO = Server(
    "uvicorn-0.20.0-wsproto",
    UVICORN_0_20_0.http,
    dataclasses.replace(
        UVICORN_0_13_4_WSPROTO.websocket,
        spec_version="2.3",
        before_accept=Answers(send=_WSPROTO_ERROR, close=_WSPROTO_ERROR, accept=_NO_ACCEPT, refuse=_WSPROTO_ERROR),
        codes_of_loss=(1005,),
        codes_of_reset=None,
        codes_of_close=(CLIENTS_CODE, 1005),
        codes_before_accept=(1006,),
        codes_after_end=(1000, 1005),
        codes_after_refusal=(1006, 1005),
        late_refusal_codes=None,
    ),
)
UVICORN_0_27_0_WSPROTO = Server(
    "uvicorn-0.27.0-wsproto",
    UVICORN_0_27_0.http,
    dataclasses.replace(
        UVICORN_0_20_0_WSPROTO.websocket,
        spec_version="2.4",
        extensions=(_DENIAL,),
        closed=Answers(send=_CLIENT_DISCONNECTED, close=_CLIENT_DISCONNECTED),
        before_accept=Answers(
            send=_CLIENT_DISCONNECTED,
            close=_CLIENT_DISCONNECTED,
            accept=_NO_ACCEPT,
            refuse=_CLIENT_DISCONNECTED,
            denial_start=_NO_ACCEPT,
            denial_body=_NO_ACCEPT,
        ),
        after_refusal=Answers(send=_AFTER_CLOSE, refuse=_AFTER_CLOSE, denial_body=_WSPROTO_ERROR),
    ),
)
UVICORN_0_28_0_WSPROTO = Server("uvicorn-0.28.0-wsproto", UVICORN_0_28_0.http, UVICORN_0_27_0_WSPROTO.websocket)
UVICORN_0_28_1_WSPROTO = Server("uvicorn-0.28.1-wsproto", UVICORN_0_28_1.http, UVICORN_0_27_0_WSPROTO.websocket)
UVICORN_0_30_6_WSPROTO = Server(
    "uvicorn-0.30.6-wsproto",
    UVICORN_0_30_6.http,
    dataclasses.replace(UVICORN_0_27_0_WSPROTO.websocket, gives_reason=True),
)
UVICORN_0_34_3_WSPROTO = Server("uvicorn-0.34.3-wsproto", UVICORN_0_34_3.http, UVICORN_0_30_6_WSPROTO.websocket)

_ALL_RAISE = Answers(
    send=_CLIENT_DISCONNECTED,
    close=_CLIENT_DISCONNECTED,
    accept=_CLIENT_DISCONNECTED,
    refuse=_CLIENT_DISCONNECTED,
    denial_start=_CLIENT_DISCONNECTED,
    denial_body=_CLIENT_DISCONNECTED,
)

UVICORN_0_54_0_WSPROTO = Server(
    "uvicorn-0.54.0-wsproto",
    UVICORN_0_54_0.http,
    dataclasses.replace(
        UVICORN_0_34_3_WSPROTO.websocket,
        lost=_ALL_RAISE,
        closed=None,
        before_accept=_ALL_RAISE,
        after_end=_ALL_RAISE,
        after_refusal=None,
        late_close_code=None,
        unread_hides_disconnect=True,
        blocked_send=_CLIENT_DISCONNECTED,
        stays_blocked=False,
    ),
)
UVICORN_0_54_0_SANSIO = _derive(
    UVICORN_0_54_0_WSPROTO, "uvicorn-0.54.0-sansio", websocket={"codes_after_denial": (1006, 1006, 1005)}
)
"""With the WebSocket implementation that uvicorn calls websockets-sansio."""

# Hypercorn: `send` is silent, and `receive` delivers one disconnect.

_UNEXPECTED = Raises(
    exception_class("hypercorn.utils.UnexpectedMessageError", Exception),
    "Unexpected message type, {type} given the state ASGIHTTPState.CLOSED",
)

_UNEXPECTED_WEBSOCKET = Raises(
    _UNEXPECTED.kind, "Unexpected message type, {type} given the state ASGIWebsocketState.HTTPCLOSED"
)
_NO_TIMING = Raises(AttributeError, "'WSStream' object has no attribute 'start_time'")

HYPERCORN_0_14_4 = Server(
    "hypercorn-0.14.4",
    HTTPServerBehaviour(spec_version="2.1", disconnects=1, send_after_end=_UNEXPECTED, half_close="delivers"),
    WebSocketServerBehaviour(
        spec_version="2.3",
        extensions=(_DENIAL,),
        after_refusal=Answers(send=_UNEXPECTED_WEBSOCKET, refuse=_NO_TIMING, denial_body=_UNEXPECTED_WEBSOCKET),
        codes_of_close=(1006,),
        codes_after_refusal=(),
        then="waits",
        gives_reason=False,
    ),
)
HYPERCORN_0_16_0 = _derive(HYPERCORN_0_14_4, "hypercorn-0.16.0")
HYPERCORN_0_18_0 = _derive(HYPERCORN_0_16_0, "hypercorn-0.18.0")

HYPERCORN_0_14_4_HTTP2 = _derive(
    HYPERCORN_0_14_4,
    "hypercorn-0.14.4-http2",
    http={
        "http_version": "2",
        "extensions": ("http.response.early_hint", "http.response.push"),
        "send": "blocks",
        "buffer_size": 32768,
        "send_after_reset": "silent",
        "blocked_send": "never blocks",
        "half_close": "disconnect",
    },
)
"""`send` blocks for ever when the connection is lost ("fin"), and is silent after a reset of the stream ("rst")."""

HYPERCORN_0_16_0_HTTP2 = _derive(HYPERCORN_0_14_4_HTTP2, "hypercorn-0.16.0-http2")
HYPERCORN_0_18_0_HTTP2 = _derive(
    HYPERCORN_0_16_0_HTTP2,
    "hypercorn-0.18.0-http2",
    http={"extensions": ("http.response.early_hint", "http.response.push", "http.response.trailers")},
)

# anycorn: a fork of Hypercorn, on anyio. It keeps the client's close code, and over HTTP/2 it holds back what a client
# does not read.

_PATHSEND = "http.response.pathsend"
_UNEXPECTED_BY_ANYCORN = Raises(exception_class("anycorn.utils.UnexpectedMessageError", Exception), _UNEXPECTED.text)

ANYCORN_0_20_1 = _derive(
    HYPERCORN_0_18_0,
    "anycorn-0.20.1",
    http={
        "extensions": (_PATHSEND, "http.response.zerocopysend"),
        "send_after_end": _UNEXPECTED_BY_ANYCORN,
    },
    websocket={
        "after_refusal": Answers(denial_body=_UNEXPECTED_BY_ANYCORN),
        "codes_of_close": (CLIENTS_CODE,),
        "codes_after_refusal": (1000,),
        "codes_after_denial": (),
    },
)
ANYCORN_0_20_1_HTTP2 = Server(
    "anycorn-0.20.1-http2",
    dataclasses.replace(
        HYPERCORN_0_18_0_HTTP2.http,
        extensions=("http.response.early_hint", _PATHSEND, "http.response.push", "http.response.trailers"),
        send_after_end=_UNEXPECTED_BY_ANYCORN,
        blocked_send="silent",
    ),
    ANYCORN_0_20_1.websocket,
)

# Daphne: `send` is silent, `receive` delivers one disconnect, uploads and responses of any size are held in memory.

DAPHNE_3_0_2 = Server(
    "daphne-3.0.2",
    HTTPServerBehaviour(
        spec_version=None, disconnects=1, buffers_upload=True, blocked_send="never blocks", cancels_after=10
    ),
    WebSocketServerBehaviour(
        spec_version=None,
        codes_after_refusal=(1006,),
        then="waits",
        blocked_send="never blocks",
        cancels_after=10,
        gives_reason=False,
    ),
)
DAPHNE_4_2_3 = _derive(DAPHNE_3_0_2, "daphne-4.2.3")

# granian

_FLOW_ERROR = Raises(RuntimeError, "ASGI flow error")

GRANIAN_1_7_6 = Server(
    "granian-1.7.6",
    HTTPServerBehaviour(
        spec_version="2.3",
        extensions=(_PATHSEND,),
        disconnect_comes="after a send",
        disconnects=1,
        disconnects_of_cut_upload=2,
        send_after_end=_FLOW_ERROR,
    ),
    WebSocketServerBehaviour(
        spec_version="2.3",
        extensions=(_PATHSEND,),
        sends_until_noticed=1,
        lost=Answers(send=_FLOW_ERROR),
        received=Answers(),
        before_accept=Answers(send=_FLOW_ERROR, accept=_FLOW_ERROR),
        after_end=Answers(send=_FLOW_ERROR),
        codes_of_loss=(),
        codes_after_end=(),
        then=_FLOW_ERROR,
        receive_before_accept="connect",
        half_close="delivers",
        blocked_send=_FLOW_ERROR,
        gives_reason=False,
    ),
)
"""It notices that an HTTP client has left only when a `send` fails. On a WebSocket `receive` raises."""

_NOT_INITIALIZED = Raises(RuntimeError, "ASGI flow error: Transport not initialized or closed")

GRANIAN_2_8_7 = Server(
    "granian-2.8.7",
    HTTPServerBehaviour(
        spec_version="2.3",
        extensions=(_PATHSEND, _DENIAL),
        send_after_end=_NOT_INITIALIZED,
    ),
    WebSocketServerBehaviour(
        spec_version="2.3",
        extensions=(_PATHSEND, _DENIAL),
        codes_of_loss=(1005,),
        codes_of_close=(CLIENTS_CODE, 1005),
        codes_after_end=(1005,),
        codes_after_refusal=(1005, NOTHING_MORE),
        late_refusal_codes=(1005, NOTHING_MORE),
        half_close="delivers",
        codes_after_denial=(NOTHING_MORE,),
        before_accept=Answers(denial_body=_NOT_INITIALIZED),
        after_refusal=Answers(denial_body=_NOT_INITIALIZED),
        late_close_code=1005,
        receive_before_accept="waits",
        gives_reason=False,
    ),
)

# gunicorn

_WEBSOCKET_DISCONNECTED = Raises(
    exception_class(
        "gunicorn.asgi.websocket.WebSocketDisconnected",
        exception_class("gunicorn.asgi.protocol.ClientDisconnected", OSError),
        RuntimeError,
    ),
    "WebSocket closed",
)

_NOT_ACCEPTED = Raises(RuntimeError, "WebSocket not accepted")

GUNICORN_27_0_1 = Server(
    "gunicorn-27.0.1",
    HTTPServerBehaviour(
        spec_version="2.4",
        drops_unread=True,
        wakes_all=False,
        disconnect_after_end=False,
        blocked_send="blocks",
        false_disconnect=True,
        cancels_after=3,
    ),
    WebSocketServerBehaviour(
        spec_version="2.4",
        lost=Answers(send=_WEBSOCKET_DISCONNECTED, close="blocks"),
        closed=Answers(send=_WEBSOCKET_DISCONNECTED),
        before_accept=Answers(send=_WEBSOCKET_DISCONNECTED, close="blocks"),
        after_end=Answers(send=_WEBSOCKET_DISCONNECTED),
        after_refusal=Answers(send=_NOT_ACCEPTED),
        codes_after_refusal=(1006,),
        then="waits",
        blocked_send="blocks",
        cancels_after=3,
        gives_reason=False,
    ),
)
"""With its worker class `asgi`. With uvicorn's worker class it behaves as uvicorn does."""

ALL = (
    SPEC_SILENT,
    SPEC_RAISING,
    UVICORN_0_13_4,
    UVICORN_0_20_0,
    UVICORN_0_27_0,
    UVICORN_0_28_0,
    UVICORN_0_28_1,
    UVICORN_0_30_6,
    UVICORN_0_34_3,
    UVICORN_0_54_0,
    UVICORN_0_13_4_WSPROTO,
    UVICORN_0_20_0_WSPROTO,
    UVICORN_0_27_0_WSPROTO,
    UVICORN_0_28_0_WSPROTO,
    UVICORN_0_28_1_WSPROTO,
    UVICORN_0_30_6_WSPROTO,
    UVICORN_0_34_3_WSPROTO,
    UVICORN_0_54_0_WSPROTO,
    UVICORN_0_54_0_SANSIO,
    HYPERCORN_0_14_4,
    HYPERCORN_0_16_0,
    HYPERCORN_0_18_0,
    HYPERCORN_0_14_4_HTTP2,
    HYPERCORN_0_16_0_HTTP2,
    HYPERCORN_0_18_0_HTTP2,
    ANYCORN_0_20_1,
    ANYCORN_0_20_1_HTTP2,
    DAPHNE_3_0_2,
    DAPHNE_4_2_3,
    GRANIAN_1_7_6,
    GRANIAN_2_8_7,
    GUNICORN_27_0_1,
)
"""All servers of this module, the two extremes first."""
