"""Writes `docs/servers.rst` from the records: `python -m tests.real.servers.docs`.

Nothing is measured here. The records were measured, and `behaviour.py` proves them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from disconnect_mw.testing import Answers, HTTPServerBehaviour, Raises, Server, WebSocketServerBehaviour, servers

from .scripts import SCRIPTS

PAGE = Path(__file__).parents[3] / "docs" / "servers.rst"

TEMPLATE = Path(__file__).with_name("docs.template.rst")
"""The page, with a word in brackets for each part that is made of the records."""

OPTIONS_OF_CANCELLATION = {
    "gunicorn": "``--asgi-disconnect-grace-period``",
    "daphne": "``--application-close-timeout``",
}

Columns = Mapping[str, Callable[[Any], str]]


def outcome(value: object) -> str:
    return f"raises ``{_qualified_name(value.kind)}``" if isinstance(value, Raises) else str(value)


def _qualified_name(kind: type[BaseException]) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    known = [base.__name__ for base in kind.__mro__ if base.__module__ == "builtins"]
    bases = [name for name in known if name not in ("Exception", "BaseException", "object")]
    return f"{kind.__module__}.{kind.__qualname__}" + (f" ({', '.join(bases)})" if bases else "")


def times(count: int | None) -> str:
    return {None: "to every call", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _send_after_disconnect(behaviour: HTTPServerBehaviour) -> str:
    if behaviour.send == "blocks":
        lost = f"connection lost: silent for {behaviour.buffer_size // 1024} KiB, then blocks"
        return lost if behaviour.send_after_reset is None else f"{lost}; reset: {outcome(behaviour.send_after_reset)}"
    return outcome(behaviour.send)


def _disconnects(behaviour: HTTPServerBehaviour) -> str:
    text = times(behaviour.disconnects)
    if behaviour.disconnect_comes == "after a send":
        text += ", when a ``send`` has failed"
    if behaviour.disconnects_of_cut_upload is not None:
        text += f" (cut upload: at once, {times(behaviour.disconnects_of_cut_upload)})"
    return text


def _readers_that_wake(behaviour: HTTPServerBehaviour) -> str:
    if behaviour.disconnect_comes == "after a send":
        return "neither"
    return "both" if behaviour.disconnects is None and behaviour.wakes_all else "one"


def _unread(behaviour: HTTPServerBehaviour) -> str:
    if behaviour.buffers_upload:
        return "is delivered; an app whose upload is cut is not called"
    return "is lost" if behaviour.drops_unread else "is delivered"


def _blocked(behaviour: HTTPServerBehaviour | WebSocketServerBehaviour) -> str:
    if behaviour.blocked_send == "never blocks":
        return "never blocks"
    if behaviour.blocked_send == "blocks":
        return "stays blocked, and so do all later ones" if behaviour.stays_blocked else "stays blocked"
    if isinstance(behaviour.blocked_send, Raises):
        return outcome(behaviour.blocked_send)
    return "returns"


def _half(behaviour: HTTPServerBehaviour | WebSocketServerBehaviour) -> str:
    return "gets the rest" if behaviour.half_close == "delivers" else "gets nothing more"


HTTP_COLUMNS: Columns = {
    "``send()`` after the client has left": _send_after_disconnect,
    "``receive()`` delivers ``http.disconnect``": _disconnects,
    "of two tasks in ``receive()`` wake": _readers_that_wake,
    "a request that the app has not read": _unread,
    "a half-closed client": _half,
    "a blocked ``send()`` after an RST": _blocked,
    "``receive()`` after a complete response": lambda behaviour: (
        "a disconnect" if behaviour.disconnect_after_end else "waits"
    ),
    "``send()`` after a complete response": lambda behaviour: outcome(behaviour.send_after_end),
}


def _lost(behaviour: WebSocketServerBehaviour) -> str:
    return _answers(behaviour.lost, behaviour.sends_until_noticed)


def _answers(answers: Answers, silent: int = 0) -> str:
    send, close = outcome(answers.send), outcome(answers.close)
    first = f"{silent} silent after a FIN, then " if silent else ""
    return f"{first}{send}" if send == close else f"{first}{send}; close: {close}"


def _closed(behaviour: WebSocketServerBehaviour) -> str:
    return "the same" if behaviour.closed is None else _answers(behaviour.closed)


def _received(behaviour: WebSocketServerBehaviour) -> str:
    return "the same" if behaviour.received is None else _answers(behaviour.received)


def _before_accept(behaviour: WebSocketServerBehaviour) -> str:
    answers = behaviour.before_accept
    named = {
        "accept": answers.accept,
        "send": answers.send,
        "close": answers.close,
        "close instead of accept": answers.refuse,
    }
    found: dict[str, list[str]] = {}
    for name, value in named.items():
        found.setdefault(outcome(value), []).append(name)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(names)}: {what}" for what, names in found.items())


def _codes(codes: Iterable[object], then: object) -> str:
    answers = ["no code" if code is None else str(code) for code in codes]
    if answers and answers[-1] == "nothing more":
        answers[-1] = "then waits"
    elif then == "repeats":
        answers[-1] += " each time" if len(answers) == 1 else " from then on"
    else:
        answers.append("then waits" if then == "waits" else f"then {outcome(then)}")
    answers = answers if len(answers) > 1 else [answers[0].removeprefix("then ")]
    return ", ".join(answers)


def _codes_of_loss(behaviour: WebSocketServerBehaviour) -> str:
    answers = _codes(behaviour.codes_of_loss, behaviour.then)
    if behaviour.codes_of_reset is not None:
        answers = f"FIN: {answers}; RST: {_codes(behaviour.codes_of_reset, behaviour.then)}"
    return answers


def _codes_before_accept(behaviour: WebSocketServerBehaviour) -> str:
    if behaviour.receive_before_accept != "disconnect":
        return {"waits": "waits", "connect": "``websocket.connect`` each time"}[behaviour.receive_before_accept]
    if behaviour.codes_before_accept is None:
        return _codes_of_loss(behaviour)
    return _codes(behaviour.codes_before_accept, behaviour.then)


def _reason(behaviour: WebSocketServerBehaviour) -> str:
    return "yes" if behaviour.gives_reason else "no"


WEBSOCKET_SENDS: Columns = {
    "connection lost, disconnect not received": _lost,
    "close frame, disconnect not received": _closed,
    "disconnect received": _received,
    "left before the accept": _before_accept,
    "after the app's own close": lambda behaviour: _answers(behaviour.after_end),
    "a blocked ``send()`` after an RST": _blocked,
    "a half-closed client": _half,
}

WEBSOCKET_RECEIVES: Columns = {
    "connection lost": _codes_of_loss,
    "close frame": lambda behaviour: _codes(behaviour.codes_of_close, behaviour.then),
    "left before the accept": _codes_before_accept,
    "after the app's own close": lambda behaviour: _codes(behaviour.codes_after_end, behaviour.then),
    "the client's ``reason``": _reason,
}

SCOPE_COLUMNS: Columns = {
    "HTTP": lambda server: _claim(server.http),
    "WebSocket": lambda server: "not measured" if server.http.http_version == "2" else _claim(server.websocket),
}


def _claim(behaviour: HTTPServerBehaviour | WebSocketServerBehaviour) -> str:
    version = "absent" if behaviour.spec_version is None else behaviour.spec_version
    return ", ".join([version, *(f"``{name}``" for name in behaviour.extensions)])


MEASURED = [server for server in servers.ALL if not str(server).startswith("spec-")]


def page() -> str:
    measured = re.search(r"\((.*?)\)", servers.__doc__ or "")
    assert measured is not None
    http = [server for server in MEASURED if not str(server).endswith(("-wsproto", "-sansio"))]
    websocket = [server for server in MEASURED if not str(server).endswith("-http2")]
    made = {
        "MEASURED": measured[1],
        "SCRIPTS": str(len(SCRIPTS) // 10 * 10),
        "HTTP": table({server: server.http for server in http}, HTTP_COLUMNS),
        "WEBSOCKET SENDS": table({server: server.websocket for server in websocket}, WEBSOCKET_SENDS),
        "WEBSOCKET RECEIVES": table({server: server.websocket for server in websocket}, WEBSOCKET_RECEIVES),
        "SCOPE": table({server: server for server in MEASURED}, SCOPE_COLUMNS),
        "CANCELS": "\n".join(_cancels()),
    }
    whole = TEMPLATE.read_text(encoding="utf-8")
    assert set(re.findall(r"\[([A-Z ]+)\]", whole)) == set(made)
    return re.sub(r"\[([A-Z ]+)\]", lambda match: made[match[1]], whole)


def table(rows: Mapping[Server, Any], columns: Columns) -> str:
    """Return the table; servers that are alike in all columns share a row."""
    alike: dict[tuple[str, ...], list[Server]] = {}
    for server, behaviour in rows.items():
        alike.setdefault(tuple(cell(behaviour) for cell in columns.values()), []).append(server)
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (("server", *columns), *((names(group), *cells) for cells, group in alike.items())):
        lines += [f"   {' ' if index else '*'} - {cell}" for index, cell in enumerate(row)]
    return "\n".join(lines)


def names(group: Iterable[Server]) -> str:
    """Return the servers' names: `uvicorn 0.13.4, 0.20.0; uvicorn 0.13.4 with wsproto`."""
    found: dict[tuple[str, str], list[str]] = {}
    for server in group:
        name, version, *kind = str(server).split("-")
        title = {"wsproto": "with wsproto", "sansio": "with websockets-sansio", "http2": "over HTTP/2"}.get(
            "".join(kind)
        )
        found.setdefault((name, title or ""), []).append(version)
    return "; ".join(f"{name} {', '.join(versions)} {title}".rstrip() for (name, title), versions in found.items())


def _cancels() -> Iterable[str]:
    found: dict[tuple[str, float], list[Server]] = {}
    for server in MEASURED:
        after = server.http.cancels_after
        assert after == server.websocket.cancels_after or server.http.http_version == "2"
        if after is not None:
            found.setdefault((str(server).partition("-")[0], after), []).append(server)
    for (name, after), group in found.items():
        yield f"* {names(group)}: {after:g} s after the disconnect; {OPTIONS_OF_CANCELLATION[name]} changes that."


def main() -> int:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(MEASURED)} records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
