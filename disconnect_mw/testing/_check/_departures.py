"""When and how a client leaves, by what one that stayed has got."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias, get_args

from .._behaviour import Server, WebSocketServerBehaviour
from .._clients import Client, HTTPClient, Leave, WebSocketClient
from ._stays import Stay

Phase: TypeAlias = Literal[
    "during the upload",
    "before the response",
    "after the first bytes",
    "mid-stream",
    "before the accept",
    "while open",
]
"""When a client leaves: the first four over HTTP, the last two on a WebSocket."""

PHASES: tuple[Phase, ...] = get_args(Phase)

SECONDS_TO_CANCEL = 0.1
"""After a departure, on the servers that cancel the app: gunicorn takes 3 s for it, Daphne 10."""

_SLOW = 0.1
"""Seconds to the first message from which on a client can leave before it, and not only at once."""

_SECONDS_OPEN = 0.2
"""After so many a client leaves that waits for what does not come."""

_PARTS_OF_BODY = 3
_LEAST_OF_BODY = 2


@dataclasses.dataclass(frozen=True)
class Departure:
    """One client that leaves, on all servers whose behaviour is the same."""

    phase: Phase
    client: Client
    server: Server
    servers: tuple[str, ...]


def in_parts(client: Client) -> Client:
    """The client with its body in several chunks, so that it can leave between them."""
    if not isinstance(client, HTTPClient) or not isinstance(client.body, bytes) or len(client.body) < _LEAST_OF_BODY:
        return client
    size = -(-len(client.body) // _PARTS_OF_BODY)
    chunks = [client.body[start : start + size] for start in range(0, len(client.body), size)]
    return dataclasses.replace(client, body=chunks, headers=(*client.scope()["headers"],))


def departures(client: Client, seen: Stay, servers: Iterable[Server], phases: Iterable[Phase]) -> Iterator[Departure]:
    """Yield each departure of such a client: in every phase, by every way that a server tells from the others."""
    is_http = isinstance(client, HTTPClient)
    for behaviour, group in _by_behaviour(servers, is_http).items():
        names = tuple(map(str, group))
        server: Server = dataclasses.replace(group[0], **{"http" if is_http else "websocket": behaviour})
        for phase, moment in _moments(client, seen):
            if phase in phases:
                for way in _ways(server, is_http, phase):
                    yield Departure(phase, dataclasses.replace(client, **moment, leaves_by=way), server, names)


def _by_behaviour(servers: Iterable[Server], is_http: bool) -> dict[Any, list[Server]]:
    groups: dict[Any, list[Server]] = {}
    for server in servers:
        behaviour = server.http if is_http else server.websocket
        if behaviour.cancels_after is not None:
            seconds = min(behaviour.cancels_after, SECONDS_TO_CANCEL)
            behaviour = dataclasses.replace(behaviour, cancels_after=seconds)
        groups.setdefault(behaviour, []).append(server)
    return groups


def _moments(client: Client, seen: Stay) -> Iterator[tuple[Phase, dict[str, Any]]]:
    """Yield when such a client can leave, as fields of a client."""
    count = len(seen.delivered)
    before_end = count - 1 if seen.is_whole else count
    if isinstance(client, WebSocketClient):
        yield "before the accept", {"leaves_before_accept": True}
        for messages in sorted({min(1, before_end), before_end} - {0}):
            yield "while open", {"leaves_after_messages": messages}
        if count and not seen.is_whole:
            yield "while open", {"leaves_after_seconds": seen.first_after + _SECONDS_OPEN}
        return
    if len(client.chunks()) > 1:
        yield "during the upload", {"leaves_after_chunks": 1}
    yield "before the response", {"leaves_after_messages": 0}
    if seen.first_after >= _SLOW:
        yield "before the response", {"leaves_after_seconds": min(seen.first_after / 2, _SECONDS_OPEN)}
    if before_end > 0:
        yield "after the first bytes", {"leaves_after_messages": min(2, before_end)}
    if before_end > 2:
        yield "mid-stream", {"leaves_after_messages": max(3, count // 2)}


def _ways(server: Server, is_http: bool, phase: Phase) -> Iterator[Leave]:
    """Yield how a client leaves: by FIN, and by what the server does not take for the same."""
    websocket = server.websocket
    if is_http or not never_tells(websocket):
        yield "fin"
    if is_http:
        if server.http.send_after_reset is not None:
            yield "rst"
        return
    if websocket.codes_of_reset is not None or websocket.sends_until_noticed:
        yield "rst"
    if phase == "while open":
        yield "close"


def never_tells(behaviour: WebSocketServerBehaviour) -> bool:
    """Whether nothing tells of a WebSocket that was lost by FIN: uvicorn 0.13.4 with wsproto."""
    return not behaviour.codes_of_loss and behaviour.then == "waits" and behaviour.lost.send == "silent"
