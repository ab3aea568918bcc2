"""`disconnect_mw.testing.SimulatedServer`: each server's behaviour as it was measured, without an event loop.

The tables have the notation of the measurements: `R:x` is what `receive` answers; the others are what `send` does with
a message. Where two patterns fit a server, the longer one counts.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import Any

import pytest

from disconnect_mw.testing import (
    HTTPClient,
    HTTPServerBehaviour,
    HTTPSimulatedServer,
    Server,
    SimulatedServer,
    WebSocketClient,
    WebSocketSimulatedServer,
    servers,
)
from disconnect_mw.testing._simulated_server import block_forever

from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, REQUEST, START

MESSAGES: dict[str, dict[str, Any]] = {
    "start": START,
    "body": CHUNK,
    "final": FINAL,
    "accept": {"type": "websocket.accept"},
    "send": {"type": "websocket.send", "text": "hello"},
    "close": {"type": "websocket.close", "code": 1000},
}


def outcome(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a call comes to that has one step to do it in: an answer, an exception, or "HANG"."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    except Exception as exception:
        return exception
    coroutine.close()
    return "HANG"


def shown(answer: Any) -> str:
    if isinstance(answer, Exception):
        return f"!{type(answer).__name__}"
    if not isinstance(answer, dict):
        return "ok" if answer is None else str(answer)
    kind = answer["type"]
    if kind == "http.request":
        return "req"
    if kind == "websocket.receive":
        return "msg"
    if kind == "websocket.disconnect":
        reason = f",{answer['reason']}" if answer.get("reason") else ""
        return f"DISC({answer.get('code')}{reason})"
    return {"http.disconnect": "DISC", "websocket.connect": "connect"}[kind]


def play(server_side: SimulatedServer, script: str) -> str:
    seen = []
    for step in script.split():
        if step in ("fin", "rst", "half", "clean"):
            server_side.leave("close" if step == "clean" else step)  # type: ignore[arg-type]  # a way to leave
        elif step == "R":
            seen.append(f"R:{shown(outcome(server_side.receive()))}")
        else:
            answer = outcome(server_side.send(MESSAGES[step]))
            seen.append(f"{step}:{shown(answer)}")
    return " ".join(seen)


def expected_of(server: Server, table: dict[str, str]) -> str:
    """The line of the table that names the server; the longest pattern counts."""
    name, best = str(server), ("", "")
    for outcomes, names in table.items():
        for prefix in names.split():
            if re.match(prefix.replace(".", r"\.").replace("*", ".*") + "$", name) and len(prefix) > len(best[0]):
                best = prefix, outcomes
    assert best[0], f"no line for {name}"
    return best[1]


GONE, CLOSED = "!ClientDisconnected", "!RuntimeError"

MEASURED = [server for server in servers.ALL if not str(server).startswith("spec")]

HTTP: dict[str, tuple[str, dict[str, str]]] = {
    "the client leaves before the response, unseen (a.fin)": (
        "R fin start body body final R R",
        {
            "R:req start:ok body:ok body:ok final:ok R:DISC R:DISC": "uvicorn* granian-2* gunicorn*",
            "R:req start:!ClientDisconnected body:!ClientDisconnected body:!ClientDisconnected "
            "final:!ClientDisconnected R:DISC R:DISC": "uvicorn-0.28.0*",
            "R:req start:ok body:ok body:ok final:ok R:DISC R:HANG": "hypercorn* anycorn* daphne* granian-1*",
            "R:req start:ok body:ok body:ok final:HANG R:DISC R:HANG": "hypercorn*http2 anycorn*http2",
        },
    ),
    "the client leaves before the response, seen (a2.rst_seen)": (
        "R rst R start body final R R",
        {
            "R:req R:DISC start:ok body:ok final:ok R:DISC R:DISC": "uvicorn* granian-2* gunicorn*",
            "R:req R:DISC start:!ClientDisconnected body:!ClientDisconnected final:!ClientDisconnected "
            "R:DISC R:DISC": "uvicorn-0.28.0*",
            "R:req R:DISC start:ok body:ok final:ok R:HANG R:HANG": "hypercorn* anycorn* daphne*",
            "R:req R:HANG start:ok body:ok final:ok R:DISC R:HANG": "granian-1*",
        },
    ),
    "the client leaves during the response (c2.tcp_fin)": (
        "R start body fin R body body body final R",
        {
            "R:req start:ok body:ok R:DISC body:ok body:ok body:ok final:ok R:DISC": "uvicorn* granian-2* gunicorn*",
            "R:req start:ok body:ok R:DISC body:!ClientDisconnected body:!ClientDisconnected "
            "body:!ClientDisconnected final:!ClientDisconnected R:DISC": "uvicorn-0.28.0*",
            "R:req start:ok body:ok R:DISC body:ok body:ok body:ok final:ok R:HANG": "hypercorn* anycorn* daphne*",
            "R:req start:ok body:ok R:DISC body:ok body:ok body:ok final:HANG R:HANG": "hypercorn*http2 anycorn*http2",
            "R:req start:ok body:ok R:HANG body:ok body:ok body:ok final:ok R:DISC": "granian-1*",
        },
    ),
    "the app has not read (h.norecv_fin)": (
        "fin R R R",
        {
            "R:DISC R:DISC R:DISC": "uvicorn* gunicorn*",
            "R:req R:DISC R:HANG": "hypercorn* anycorn* daphne*",
            "R:req R:HANG R:HANG": "granian-1*",
            "R:req R:DISC R:DISC": "granian-2*",
        },
    ),
    "after a complete response (i.after_end)": (
        "R start body final R R body start R",
        {
            "R:req start:ok body:ok final:ok R:DISC R:DISC body:!RuntimeError start:!RuntimeError R:DISC": "uvicorn* "
            "granian-2*",
            "R:req start:ok body:ok final:ok R:DISC R:HANG body:!UnexpectedMessageError "
            "start:!UnexpectedMessageError R:HANG": "hypercorn* anycorn*",
            "R:req start:ok body:ok final:ok R:DISC R:HANG body:ok start:ok R:HANG": "daphne*",
            "R:req start:ok body:ok final:ok R:DISC R:HANG body:!RuntimeError start:!RuntimeError R:HANG": "granian-1*",
            "R:req start:ok body:ok final:ok R:HANG R:DISC body:ok start:ok R:DISC": "gunicorn*",
        },
    ),
    "a cancelled receive (r1.recv_cancelled)": (
        "R R R start body final",
        {
            "R:req R:HANG R:HANG start:ok body:ok final:ok": "*",
            "R:req R:HANG R:DISC start:ok body:ok final:ok": "gunicorn*",
        },
    ),
    "after a complete response, and it has not read": (
        "start final R R",
        {
            "start:ok final:ok R:DISC R:DISC": "uvicorn*",
            "start:ok final:ok R:req R:DISC": "hypercorn* anycorn* daphne* granian*",
            "start:ok final:ok R:req R:HANG": "gunicorn*",
        },
    ),
    "half-close (e.halfclose)": (
        "R half R start body final",
        {
            "R:req R:DISC start:ok body:ok final:ok": "*",
            f"R:req R:DISC start:{GONE} body:{GONE} final:{GONE}": "uvicorn-0.28.0*",
            "R:req R:HANG start:ok body:ok final:ok": "granian-1*",
            "R:req R:DISC start:ok body:ok final:HANG": "hypercorn*http2 anycorn*http2",
        },
    ),
}


@pytest.mark.parametrize("server", MEASURED, ids=str)
@pytest.mark.parametrize("scenario", HTTP)
def test_http_behaviour_is_the_measured_one(scenario: str, server: Server) -> None:
    script, table = HTTP[scenario]
    assert play(HTTPSimulatedServer(server.http), script) == expected_of(server, table)


KIB = 1024
BIG = {"type": "http.request", "body": b"x" * 100 * KIB, "more_body": True}

UPLOADS: dict[str, tuple[str, dict[str, str]]] = {
    "cut, read live (f.post_live)": (
        "R fin R R R start final",
        {
            "R:req R:DISC R:DISC R:DISC start:ok final:ok": "uvicorn* granian-2* gunicorn*",
            "R:req R:DISC R:DISC R:DISC start:!ClientDisconnected final:!ClientDisconnected": "uvicorn-0.28.0*",
            "R:req R:DISC R:HANG R:HANG start:ok final:ok": "hypercorn* anycorn* daphne*",
            "R:req R:DISC R:HANG R:HANG start:ok final:HANG": "hypercorn*http2 anycorn*http2",
            "R:req R:DISC R:DISC R:HANG start:ok final:ok": "granian-1*",
        },
    ),
    "cut, read late (f2.post_late)": (
        "fin R R R",
        {
            "R:req R:DISC R:DISC": "uvicorn* granian*",
            "R:req R:DISC R:HANG": "hypercorn* anycorn* daphne*",
            "R:DISC R:DISC R:DISC": "gunicorn*",
        },
    ),
    "cut, unread, and the client seen to have gone only by that (f3.post_noread)": (
        "fin start body R",
        {
            "start:ok body:ok R:req": "*",
            "start:ok body:ok R:DISC": "uvicorn* gunicorn*",
        },
    ),
}


@pytest.mark.parametrize("server", MEASURED, ids=str)
@pytest.mark.parametrize("scenario", UPLOADS)
def test_behaviour_with_a_big_upload_is_the_measured_one(scenario: str, server: Server) -> None:
    script, table = UPLOADS[scenario]
    assert play(HTTPSimulatedServer(server.http, [BIG]), script) == expected_of(server, table)


NO_MORE = "!WebSocketDisconnected"

WEBSOCKET: dict[str, tuple[str, dict[str, str]]] = {
    "clean close, unseen (m.clean)": (
        "R accept clean send send close R R R",
        {
            "send:!ConnectionClosedOK send:!ConnectionClosedOK close:ok R:DISC(1001) R:DISC(1001) R:DISC(1001)": (
                "uvicorn-0.13.4"
            ),
            "send:!LocalProtocolError send:!LocalProtocolError close:!LocalProtocolError "
            "R:DISC(1001) R:DISC(1000) R:HANG": "uvicorn-0.13.4-wsproto",
            "send:!ConnectionClosedOK send:!ConnectionClosedOK close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": (
                "uvicorn-0.20.0"
            ),
            "send:!LocalProtocolError send:!LocalProtocolError close:!LocalProtocolError "
            "R:DISC(1001) R:DISC(1005) R:DISC(1000)": "uvicorn-0.20.0-wsproto",
            f"send:{GONE} send:{GONE} close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "uvicorn*",
            f"send:{GONE} send:{GONE} close:{GONE} R:DISC(1001) R:DISC(1005) R:DISC(1000)": (
                "uvicorn-0.27.0-wsproto uvicorn-0.28.*-wsproto"
            ),
            f"send:{GONE} send:{GONE} close:{GONE} R:DISC(1001,bye) R:DISC(1005) R:DISC(1000)": (
                "uvicorn-0.30.6-wsproto uvicorn-0.34.3-wsproto"
            ),
            f"send:{GONE} send:{GONE} close:{GONE} R:DISC(1001,bye) R:DISC(1005) R:HANG": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "send:ok send:ok close:ok R:DISC(1006) R:HANG R:HANG": "hypercorn*",
            "send:ok send:ok close:ok R:DISC(1001) R:HANG R:HANG": "daphne* anycorn*",
            f"send:ok send:{CLOSED} close:ok R:{CLOSED} R:{CLOSED} R:{CLOSED}": "granian-1*",
            "send:ok send:ok close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "granian-2*",
            f"send:{NO_MORE} send:{NO_MORE} close:ok R:DISC(1001) R:HANG R:HANG": "gunicorn*",
        },
    ),
    "lost by FIN, unseen (m.fin)": (
        "R accept fin send send close R R R",
        {
            "send:!ConnectionClosedError send:!ConnectionClosedError close:ok R:DISC(1006) R:DISC(1006) R:DISC(1006)": (
                "uvicorn-0.13.4"
            ),
            "send:!ConnectionClosedError send:!ConnectionClosedError close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": (
                "uvicorn-0.20.0"
            ),
            f"send:{GONE} send:{GONE} close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "uvicorn*",
            "send:ok send:ok close:ok R:DISC(1000) R:HANG R:HANG": "uvicorn-0.13.4-wsproto",
            "send:ok send:ok close:ok R:DISC(1005) R:DISC(1000) R:HANG": "uvicorn*-wsproto",
            f"send:{GONE} send:{GONE} close:{GONE} R:DISC(1005) R:HANG R:HANG": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "send:ok send:ok close:ok R:DISC(1006) R:HANG R:HANG": "hypercorn* anycorn* daphne*",
            f"send:ok send:{CLOSED} close:ok R:{CLOSED} R:{CLOSED} R:{CLOSED}": "granian-1*",
            "send:ok send:ok close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "granian-2*",
            f"send:{NO_MORE} send:{NO_MORE} close:HANG R:DISC(1006) R:HANG R:HANG": "gunicorn*",
        },
    ),
    "lost by RST, seen (mr.rst_recv)": (
        "R accept rst R send send close R R",
        {
            "R:DISC(1006) send:!ConnectionClosedError send:!ConnectionClosedError close:ok R:DISC(1006) R:DISC(1006)": (
                "uvicorn-0.13.4"
            ),
            "R:DISC(None) send:ok send:ok close:ok R:DISC(1000) R:HANG": "uvicorn-0.13.4-wsproto",
            f"R:DISC(1006) send:{CLOSED} send:{CLOSED} close:{CLOSED} R:DISC(1005) R:DISC(1005)": "uvicorn*",
            "R:DISC(1005) send:ok send:ok close:ok R:DISC(1000) R:HANG": "uvicorn*-wsproto",
            f"R:DISC(1005) send:{GONE} send:{GONE} close:{GONE} R:HANG R:HANG": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "R:DISC(1006) send:ok send:ok close:ok R:HANG R:HANG": "hypercorn* anycorn* daphne*",
            f"R:{CLOSED} send:{CLOSED} send:{CLOSED} close:ok R:{CLOSED} R:{CLOSED}": "granian-1*",
            "R:DISC(1005) send:ok send:ok close:ok R:DISC(1005) R:DISC(1005)": "granian-2*",
            f"R:DISC(1006) send:{NO_MORE} send:{NO_MORE} close:HANG R:HANG R:HANG": "gunicorn*",
        },
    ),
    "clean close, seen (mr.clean_recv)": (
        "R accept clean R send close R R R",
        {
            "R:DISC(1001) send:!ConnectionClosedOK close:ok R:DISC(1001) R:DISC(1001) R:DISC(1001)": "uvicorn-0.13.4",
            "R:DISC(1001) send:!LocalProtocolError close:!LocalProtocolError R:DISC(1000) R:HANG R:HANG": (
                "uvicorn-0.13.4-wsproto"
            ),
            f"R:DISC(1001) send:{CLOSED} close:{CLOSED} R:DISC(1005) R:DISC(1005) R:DISC(1005)": (
                "uvicorn-0.20.0 uvicorn-0.27.0 uvicorn-0.28.*"
            ),
            f"R:DISC(1001,bye) send:{CLOSED} close:{CLOSED} R:DISC(1005) R:DISC(1005) R:DISC(1005)": "uvicorn*",
            "R:DISC(1001) send:!LocalProtocolError close:!LocalProtocolError R:DISC(1005) R:DISC(1000) R:HANG": (
                "uvicorn-0.20.0-wsproto"
            ),
            f"R:DISC(1001) send:{GONE} close:{GONE} R:DISC(1005) R:DISC(1000) R:HANG": (
                "uvicorn-0.27.0-wsproto uvicorn-0.28.*-wsproto"
            ),
            f"R:DISC(1001,bye) send:{GONE} close:{GONE} R:DISC(1005) R:DISC(1000) R:HANG": "uvicorn*-wsproto",
            f"R:DISC(1001,bye) send:{GONE} close:{GONE} R:DISC(1005) R:HANG R:HANG": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "R:DISC(1006) send:ok close:ok R:HANG R:HANG R:HANG": "hypercorn*",
            "R:DISC(1001) send:ok close:ok R:HANG R:HANG R:HANG": "daphne* anycorn*",
            f"R:DISC(1001) send:ok close:ok R:{CLOSED} R:{CLOSED} R:{CLOSED}": "granian-1*",
            "R:DISC(1001) send:ok close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "granian-2*",
            "R:DISC(1001) send:!WebSocketDisconnected close:ok R:HANG R:HANG R:HANG": "gunicorn*",
        },
    ),
    "gone before the accept, unseen (mpre.fin)": (
        "R fin accept send close R R R",
        {
            "accept:ok send:!ConnectionClosedError close:!TypeError R:DISC(1006) R:DISC(1006) R:DISC(1006)": (
                "uvicorn-0.13.4 uvicorn-0.20.0"
            ),
            f"accept:ok send:{GONE} close:!AttributeError R:DISC(1006) R:DISC(1006) R:DISC(1006)": "uvicorn*",
            "accept:ok send:ok close:ok R:DISC(1000) R:HANG R:HANG": "uvicorn-0.13.4-wsproto",
            "accept:!RuntimeError send:!LocalProtocolError close:!LocalProtocolError "
            "R:DISC(1006) R:DISC(1000) R:HANG": "uvicorn-0.20.0-wsproto",
            f"accept:!RuntimeError send:{GONE} close:{GONE} R:DISC(1006) R:DISC(1000) R:HANG": "uvicorn*-wsproto",
            f"accept:{GONE} send:{GONE} close:{GONE} R:DISC(1006) R:HANG R:HANG": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "accept:ok send:ok close:ok R:DISC(1006) R:HANG R:HANG": "hypercorn* anycorn* daphne*",
            f"accept:{CLOSED} send:{CLOSED} close:ok R:connect R:connect R:connect": "granian-1*",
            "accept:ok send:ok close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "granian-2*",
            "accept:ok send:!WebSocketDisconnected close:HANG R:DISC(1006) R:HANG R:HANG": "gunicorn*",
        },
    ),
    "refused after the client had gone (mpreclose.rst)": (
        "R rst close R R",
        {
            "close:ok R:DISC(1006) R:DISC(1006)": "uvicorn*",
            "close:ok R:DISC(None) R:DISC(None)": "uvicorn-0.13.4-wsproto",
            "close:!LocalProtocolError R:DISC(1006) R:DISC(1000)": "uvicorn-0.20.0-wsproto",
            f"close:{GONE} R:DISC(1006) R:DISC(1000)": "uvicorn*-wsproto",
            f"close:{GONE} R:DISC(1006) R:HANG": "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio",
            "close:ok R:DISC(1006) R:HANG": "hypercorn* anycorn* daphne* gunicorn*",
            "close:ok R:connect R:connect": "granian-1*",
            "close:ok R:DISC(1005) R:HANG": "granian-2*",
        },
    ),
    "the app's own close (mapp.close)": (
        "R accept send close send close R R R",
        {
            f"send:ok close:ok send:{CLOSED} close:{CLOSED} R:DISC(1000) R:DISC(1000) R:DISC(1000)": "uvicorn-0.13.4",
            f"send:ok close:ok send:{CLOSED} close:{CLOSED} R:DISC(1005) R:DISC(1005) R:DISC(1005)": "uvicorn*",
            f"send:ok close:ok send:{CLOSED} close:{CLOSED} R:DISC(1000) R:HANG R:HANG": "uvicorn-0.13.4-wsproto",
            f"send:ok close:ok send:{CLOSED} close:{CLOSED} R:DISC(1000) R:DISC(1005) R:HANG": "uvicorn*-wsproto",
            f"send:ok close:ok send:{GONE} close:{GONE} R:DISC(1000) R:DISC(1005) R:HANG": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "send:ok close:ok send:ok close:ok R:DISC(1000) R:HANG R:HANG": "hypercorn* anycorn* daphne*",
            f"send:ok close:ok send:{CLOSED} close:ok R:{CLOSED} R:{CLOSED} R:{CLOSED}": "granian-1*",
            "send:ok close:ok send:ok close:ok R:DISC(1005) R:DISC(1005) R:DISC(1005)": "granian-2*",
            "send:ok close:ok send:!WebSocketDisconnected close:ok R:DISC(1000) R:HANG R:HANG": "gunicorn*",
        },
    ),
    "the app's own refusal": (
        "R close R R send close",
        {
            f"close:ok R:DISC(1006) R:DISC(1006) send:{CLOSED} close:{CLOSED}": "uvicorn*",
            f"close:ok R:DISC(None) R:HANG send:{CLOSED} close:{CLOSED}": "uvicorn-0.13.4-wsproto",
            f"close:ok R:DISC(1006) R:DISC(1005) send:{CLOSED} close:{CLOSED}": "uvicorn*-wsproto",
            f"close:ok R:DISC(1006) R:DISC(1005) send:{GONE} close:{GONE}": (
                "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio"
            ),
            "close:ok R:HANG R:HANG send:!UnexpectedMessageError close:!AttributeError": "hypercorn*",
            "close:ok R:DISC(1000) R:HANG send:ok close:ok": "anycorn*",
            "close:ok R:DISC(1006) R:HANG send:ok close:ok": "daphne*",
            f"close:ok R:connect R:connect send:{CLOSED} close:ok": "granian-1*",
            "close:ok R:DISC(1005) R:HANG send:ok close:ok": "granian-2*",
            f"close:ok R:DISC(1006) R:HANG send:{CLOSED} close:ok": "gunicorn*",
        },
    ),
    "half-closed, and seen to be": (
        "R accept half R send close",
        {
            "R:DISC(1006) send:!ConnectionClosedError close:ok": "uvicorn-0.13.4",
            "R:HANG send:ok close:ok": "uvicorn-0.13.4-wsproto",
            f"R:DISC(1006) send:{CLOSED} close:{CLOSED}": "uvicorn*",
            "R:DISC(1005) send:ok close:ok": "uvicorn*-wsproto granian-2*",
            f"R:DISC(1005) send:{GONE} close:{GONE}": "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio",
            "R:DISC(1006) send:ok close:ok": "hypercorn* anycorn* daphne*",
            f"R:{CLOSED} send:{CLOSED} close:ok": "granian-1*",
            f"R:DISC(1006) send:{NO_MORE} close:HANG": "gunicorn*",
        },
    ),
    "gone before the accept, seen (mprer.fin_recv)": (
        "R fin R accept R",
        {
            "R:DISC(1006) accept:ok R:DISC(1006)": "uvicorn*",
            "R:HANG accept:ok R:HANG": "uvicorn-0.13.4-wsproto",
            "R:DISC(1006) accept:!RuntimeError R:HANG": "uvicorn*-wsproto",
            f"R:DISC(1006) accept:{GONE} R:HANG": "uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio",
            "R:DISC(1006) accept:ok R:HANG": "hypercorn* anycorn* daphne* gunicorn*",
            f"R:connect accept:{CLOSED} R:connect": "granian-1*",
            "R:HANG accept:ok R:DISC(1005)": "granian-2*",
        },
    ),
    "messages that wait (mqueue.rst)": (
        "R accept rst R R R R",
        {
            "R:DISC(1006) R:DISC(1006) R:DISC(1006) R:DISC(1006)": "uvicorn-0.13.4",
            "R:msg R:msg R:DISC(None) R:HANG": "uvicorn-0.13.4-wsproto",
            "R:msg R:msg R:DISC(1006) R:DISC(1005)": "uvicorn*",
            "R:msg R:msg R:DISC(1005) R:HANG": "uvicorn*-wsproto uvicorn-0.54.0-sansio",
            "R:msg R:msg R:DISC(1006) R:HANG": "hypercorn* anycorn* daphne* gunicorn*",
            f"R:msg R:msg R:{CLOSED} R:{CLOSED}": "granian-1*",
            "R:msg R:msg R:DISC(1005) R:DISC(1005)": "granian-2*",
        },
    ),
}


@pytest.mark.parametrize("server", MEASURED, ids=str)
@pytest.mark.parametrize("scenario", WEBSOCKET)
def test_websocket_behaviour_is_the_measured_one(scenario: str, server: Server) -> None:
    script, table = WEBSOCKET[scenario]
    client = WebSocketClient(
        messages=["one", b"two"] if "wait" in scenario else [],
        leaves_after_seconds=9,
        leaves_by="close",
        close_code=1001,
        close_reason="bye",
    )
    head = "R:connect accept:ok " if script.startswith("R accept") else "R:connect "
    seen = play(WebSocketSimulatedServer(server.websocket, client=client), script)
    assert seen == head + expected_of(server, table)


# Blocked by flow control (k.backpressure, mk.backpressure): what a send comes to when its client resets the connection,
# and the next one; "unblocked" where it never blocks.

BLOCKED = {
    "ok body:ok": "uvicorn* hypercorn* anycorn* granian*",
    "!ClientDisconnected body:!ClientDisconnected": "uvicorn-0.28.0*",
    "HANG body:ok": "gunicorn*",
    "unblocked body:ok": "daphne* hypercorn*http2",
}
BLOCKED_WEBSOCKET = {
    "!ConnectionClosedError send:!ConnectionClosedError": "uvicorn-0.13.4 uvicorn-0.20.0",
    f"{GONE} send:{GONE}": "uvicorn* uvicorn-0.54.0-wsproto uvicorn-0.54.0-sansio",
    "HANG send:HANG": "uvicorn*-wsproto",
    "ok send:ok": "hypercorn* anycorn* granian-2*",
    "unblocked send:ok": "daphne*",
    f"{CLOSED} send:{CLOSED}": "granian-1*",
    "HANG send:!WebSocketDisconnected": "gunicorn*",
}


def play_blocked(server_side: SimulatedServer, before: list[str], blocked: str) -> str:
    for step in before:
        assert outcome(server_side.send(MESSAGES[step])) is None
    call: Any = server_side.send(MESSAGES[blocked])
    try:
        call.send(None)
    except StopIteration:
        first = "unblocked"
        server_side.leave("rst")
    else:
        call.send(None)
        assert server_side.delivered == [MESSAGES[step] for step in before], "the client reads no more"
        server_side.leave("rst")
        try:
            call.send(None)
        except StopIteration:
            first = "ok"
        except Exception as exception:
            first = shown(exception)
        else:
            first = "HANG"
            call.close()
    return f"{first} {play(server_side, blocked)}"


@pytest.mark.parametrize("server", MEASURED, ids=str)
def test_a_send_that_a_stalled_client_blocks_ends_as_measured(server: Server) -> None:
    stalled = HTTPClient(leaves_after_seconds=9, stalls_after_messages=1)
    assert play_blocked(HTTPSimulatedServer(server.http, client=stalled), ["start"], "body") == expected_of(
        server, BLOCKED
    )


@pytest.mark.parametrize("server", MEASURED, ids=str)
def test_a_websocket_send_that_a_stalled_client_blocks_ends_as_measured(server: Server) -> None:
    stalled = WebSocketClient(leaves_after_seconds=9, stalls_after_messages=1)
    server_side = WebSocketSimulatedServer(server.websocket, client=stalled)
    assert play_blocked(server_side, ["accept"], "send") == expected_of(server, BLOCKED_WEBSOCKET)


def test_a_stalled_client_lets_pass_what_has_no_content() -> None:
    server_side = HTTPSimulatedServer(client=HTTPClient(stalls_after_messages=0))
    assert play(server_side, "start") == "start:ok"
    assert outcome(server_side.send(EMPTY_FINAL)) is None
    assert (server_side.has_ended, server_side.delivered) == (True, [])


# Who waits


def started(server_side: SimulatedServer, count: int) -> list[Any]:
    calls: list[Any] = [server_side.receive() for _ in range(count)]
    for call in calls:
        call.send(None)
    return calls


def answers(calls: list[Any]) -> list[str]:
    seen = []
    for call in calls:
        try:
            call.send(None)
        except StopIteration as stop:
            seen.append(shown(stop.value))
        else:
            seen.append("HANG")
            call.close()
    return seen


TWO_WAITERS = {
    "DISC DISC": "uvicorn* granian-2*",
    "DISC HANG": "hypercorn* anycorn* daphne* gunicorn*",
    "HANG HANG": "granian-1*",
}


@pytest.mark.parametrize("server", MEASURED, ids=str)
def test_as_many_waiting_tasks_wake_as_measured(server: Server) -> None:
    server_side = HTTPSimulatedServer(server.http)
    assert play(server_side, "R") == "R:req"
    calls = started(server_side, 2)
    server_side.leave()
    assert " ".join(answers(calls)) == expected_of(server, TWO_WAITERS)


def test_two_tasks_may_not_read_one_websocket_of_uvicorns() -> None:
    for server, answers_of_two in ((servers.UVICORN_0_54_0, "!RuntimeError"), (servers.UVICORN_0_54_0_WSPROTO, "HANG")):
        server_side = WebSocketSimulatedServer(server.websocket)
        assert play(server_side, "R accept") == "R:connect accept:ok"
        calls = started(server_side, 1)
        assert shown(outcome(server_side.receive())) == answers_of_two
        server_side.leave("rst")
        assert answers(calls)[0].startswith("DISC")


def test_an_unread_websocket_message_hides_the_disconnect() -> None:
    client = WebSocketClient(messages=["one"])
    for server, first in ((servers.UVICORN_0_54_0_SANSIO, "ok"), (servers.UVICORN_0_54_0, GONE)):
        server_side = WebSocketSimulatedServer(server.websocket, client=client)
        assert play(server_side, "R accept fin send R send") == (f"R:connect accept:ok send:{first} R:msg send:{GONE}")


def test_a_half_closed_websocket_gets_what_granian_is_given() -> None:
    server_side = WebSocketSimulatedServer(servers.GRANIAN_2_8_7.websocket)
    play(server_side, "R accept half send")
    assert server_side.delivered[-1] == MESSAGES["send"]


def test_a_lost_http2_connection_blocks_when_its_buffer_is_full_and_at_the_end() -> None:
    large = {"type": "http.response.body", "body": bytes(20 * KIB), "more_body": True}
    server_side = HTTPSimulatedServer(servers.HYPERCORN_0_18_0_HTTP2.http)
    assert play(server_side, "R start fin") == "R:req start:ok"
    assert [shown(outcome(server_side.send(large))) for _ in range(3)] == ["ok", "HANG", "HANG"]
    for how, end in (("fin", "HANG"), ("rst", "ok")):
        server_side = HTTPSimulatedServer(servers.HYPERCORN_0_18_0_HTTP2.http)
        assert play(server_side, f"R start {how} body final") == f"R:req start:ok body:ok final:{end}"
    server_side = HTTPSimulatedServer(servers.HYPERCORN_0_18_0_HTTP2.http)
    play(server_side, "R start fin")
    assert outcome(server_side.send(EMPTY_FINAL)) is None, "there is nothing to wait for"


@pytest.mark.parametrize("size", [7, 8, 9])
def test_a_send_blocks_as_soon_as_the_buffer_is_full(size: int) -> None:
    """Hypercorn's HTTP/2 waits at its high-water mark, not only beyond it."""
    server_side = HTTPSimulatedServer(HTTPServerBehaviour(send="blocks", buffer_size=8))
    play(server_side, "R start fin")
    chunk = {"type": "http.response.body", "body": bytes(size), "more_body": True}
    assert shown(outcome(server_side.send(chunk))) == ("ok" if size < 8 else "HANG")


def test_a_server_that_wakes_one_task_needs_none_to_wait() -> None:
    server_side = HTTPSimulatedServer(servers.GUNICORN_27_0_1.http)
    server_side.leave()
    assert play(server_side, "R R") == "R:DISC R:DISC"


def test_a_failed_send_wakes_who_waits_on_granian() -> None:
    server_side = HTTPSimulatedServer(servers.GRANIAN_1_7_6.http, [])
    calls = started(server_side, 1)
    server_side.leave()
    assert outcome(server_side.send(START)) is None
    assert answers(calls) == ["DISC"]


def test_what_is_delivered_wakes_who_waits_and_none_gets_it_twice() -> None:
    server_side = HTTPSimulatedServer(incoming=[])
    calls = started(server_side, 2)
    server_side.deliver(REQUEST)
    assert answers(calls) == ["req", "HANG"]
    assert (server_side.reads, server_side.cancelled_reads) == (2, 1)


# The client


def test_a_reset_stream_leaves_hypercorns_http2_silent() -> None:
    server_side = HTTPSimulatedServer(servers.HYPERCORN_0_18_0_HTTP2.http)
    assert play(server_side, "R start body rst R body body body final R") == (
        "R:req start:ok body:ok R:DISC body:ok body:ok body:ok final:ok R:HANG"
    )


def test_only_hypercorn_and_anycorn_deliver_to_a_client_that_is_half_closed() -> None:
    for server in (servers.HYPERCORN_0_18_0, servers.ANYCORN_0_20_1, servers.UVICORN_0_54_0):
        server_side = HTTPSimulatedServer(server.http)
        play(server_side, "R half start final")
        whole = [START, FINAL]
        delivers = server is not servers.UVICORN_0_54_0
        assert (server_side.delivered, server_side.wasted) == ((whole, []) if delivers else ([], whole))
        assert server_side.sent == whole


def test_a_client_leaves_once_and_only_in_a_way_there_is() -> None:
    server_side = HTTPSimulatedServer()
    departures: list[str] = []
    server_side.on_leave = lambda: departures.append(server_side.left_by)
    with pytest.raises(ValueError, match="'fin' or 'rst' or 'half', not 'close'"):
        server_side.leave("close")
    server_side.leave("rst")
    server_side.leave()
    assert (departures, server_side.left_by) == (["rst"], "rst")


def test_a_client_leaves_as_its_script_says() -> None:
    server_side = HTTPSimulatedServer(client=HTTPClient(leaves_after_messages=2, leaves_by="rst"))
    server_side.begin()
    assert play(server_side, "R start") == "R:req start:ok"
    assert not server_side.has_left
    assert play(server_side, "body R body") == "body:ok R:DISC body:ok"
    assert (server_side.left_by, server_side.delivered, server_side.wasted) == ("rst", [START, CHUNK], [CHUNK])
    server_side = HTTPSimulatedServer(client=HTTPClient(leaves_after_messages=0))
    server_side.begin()
    assert server_side.has_left
    websocket = WebSocketSimulatedServer(client=WebSocketClient(leaves_before_accept=True))
    websocket.begin()
    assert play(websocket, "R R") == "R:connect R:DISC(1006)"
    websocket = WebSocketSimulatedServer(client=WebSocketClient(leaves_after_messages=1, leaves_by="close"))
    assert play(websocket, "R accept R") == "R:connect accept:ok R:DISC(1000)"


def test_a_client_that_leaves_with_the_last_message_has_got_the_whole_response() -> None:
    server_side = HTTPSimulatedServer(client=HTTPClient(leaves_after_messages=2))
    assert play(server_side, "R start final") == "R:req start:ok final:ok"
    assert (server_side.has_left, server_side.has_ended, server_side.wasted) == (True, True, [])


def test_a_client_leaves_in_the_middle_of_its_upload() -> None:
    client = HTTPClient(body=[b"a", b"b", b"c"], leaves_after_chunks=2)
    server_side = HTTPSimulatedServer(client=client)
    assert play(server_side, "R") == "R:req"
    assert not server_side.has_left
    assert play(server_side, "R R") == "R:req R:DISC"
    server_side = HTTPSimulatedServer(client=client)
    assert play(server_side, "R start R R") == "R:req start:ok R:req R:DISC", "it sends without having read so much"
    assert server_side.wasted == [START]
    server_side = HTTPSimulatedServer(client=HTTPClient(body=[b"a", b"b"], leaves_after_chunks=0))
    server_side.begin()
    assert play(server_side, "R") == "R:DISC"


def test_daphne_gives_an_upload_in_one_piece_or_not_at_all() -> None:
    behaviour = servers.DAPHNE_4_2_3.http
    server_side = HTTPSimulatedServer(behaviour, client=HTTPClient(body=[b"a", b"b"]))
    assert outcome(server_side.receive()) == {
        "type": "http.request",
        "body": b"ab",
        "more_body": False,
    }
    assert server_side.calls_the_app
    cut = HTTPClient(body=[b"a", b"b"], leaves_after_chunks=0)
    assert not HTTPSimulatedServer(behaviour, client=cut).calls_the_app
    assert HTTPSimulatedServer(client=cut).calls_the_app


def test_a_response_with_trailers_ends_with_them() -> None:
    server_side = HTTPSimulatedServer()
    for message in ({**START, "trailers": True}, FINAL):
        assert outcome(server_side.send(message)) is None
    assert not server_side.has_ended
    assert outcome(server_side.send({"type": "http.response.trailers", "headers": []})) is None
    assert server_side.has_ended


def test_a_websocket_can_be_refused_by_a_response() -> None:
    for gone in (False, True):
        server_side = WebSocketSimulatedServer()
        if gone:
            server_side.leave()
        for message in (
            {"type": "websocket.http.response.start", "status": 401, "headers": []},
            {"type": "websocket.http.response.body", "body": b"no", "more_body": True},
            {"type": "websocket.http.response.body", "body": b"!"},
        ):
            assert outcome(server_side.send(message)) is None
        assert server_side.has_ended is not gone
        server_side.leave()
        assert play(server_side, "R R") == f"R:connect R:DISC({1006 if gone else 1000})"


def test_what_comes_after_the_end_of_a_websocket_is_the_servers_to_judge() -> None:
    server_side = WebSocketSimulatedServer(servers.UVICORN_0_54_0_SANSIO.websocket)
    assert play(server_side, "R accept close accept") == f"R:connect accept:ok close:ok accept:{GONE}"
    assert len(server_side.sent) == 2


# The scope


@pytest.mark.parametrize("server", servers.ALL, ids=str)
def test_the_scope_claims_what_the_server_claims(server: Server) -> None:
    scope = HTTPSimulatedServer(server.http).scope()
    asgi = {"version": "3.0"}
    if "daphne" not in str(server):
        asgi["spec_version"] = str(server.http.spec_version)
    assert scope["asgi"] == asgi
    assert scope["http_version"] == ("2" if "http2" in str(server) else "1.1")
    scope = WebSocketSimulatedServer(server.websocket).scope()
    assert (scope["type"], scope["asgi"].get("spec_version")) == ("websocket", server.websocket.spec_version)
    assert set(scope.get("extensions", ())) == set(server.websocket.extensions)


def test_every_call_awaits_the_pause_first() -> None:
    server_side = HTTPSimulatedServer(HTTPServerBehaviour())
    server_side.pause = block_forever
    assert play(server_side, "R start") == "R:HANG start:HANG"
    assert server_side.sent == []
    assert DISCONNECT not in server_side.delivered


def test_gunicorn_takes_no_cancelled_receive_for_a_disconnect_before_the_body_has_been_read() -> None:
    chunk = {"type": "http.request", "body": b"a", "more_body": True}
    server_side = HTTPSimulatedServer(servers.GUNICORN_27_0_1.http, [chunk])
    assert play(server_side, "R R") == "R:req R:HANG"
    server_side.deliver(REQUEST)
    assert play(server_side, "R R R") == "R:req R:HANG R:DISC"
