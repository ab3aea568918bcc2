"""How the client of a protocol over HTTP or a WebSocket begins: what it says until the app works for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..servers.clients import Client, WebSocketClient

LENGTH = 90_000
"""Of an upload, as it is announced."""

_PROTOCOL = "2025-06-18"


def graphql(client: WebSocketClient, path: str) -> None:
    """Subscribe, over graphql-transport-ws."""
    client.say(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".encode(),
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n",
    )
    client.hear(b"\r\n\r\n")
    client.text(b'{"type":"connection_init"}')
    client.hear(b"connection_ack")
    client.text(b'{"id":"1","type":"subscribe","payload":{"query":"subscription{ticks}"}}')


def socketio(client: WebSocketClient, path: str) -> None:
    """Connect, and emit the event `work`."""
    client.ask(path)
    client.hear(b'"pingInterval"')
    client.text(b"40")
    client.hear(b"40{")
    client.text(b'42["work"]')


def socketio_in_turn(client: Client, path: str) -> None:
    """The same over a WebSocket; or over long polling, in a session that the client opens first, by a POST that is cut.

    Each over a connection of its own.
    """
    if isinstance(client, WebSocketClient):
        socketio(client, path)
        return
    _, _, variant, run = path.split("/")
    query = "?EIO=4&transport=polling"
    with Client(client.port) as opening:
        opening.request(f"/session/{variant}/{run}{query}")
        opening.hear(b'"sid":"')
        opening.hear(b'","upgrades"')
        session = opening.came.partition(b'"sid":"')[2].partition(b'"')[0].decode()
    with Client(client.port) as opening:
        opening.request(f"/session/{variant}/{run}{query}&sid={session}", b"40")
        opening.hear(b" 200 ")
    client.request(f"{path}{query}&sid={session}", b'42["work",{"a"', length=LENGTH)


def mcp(client: Client, path: str, session: str = "") -> None:
    """Call the tool `work`, or begin to."""
    _, situation, variant, run = path.split("/")
    call_tool(client, path, "work", {"run": run, "situation": situation}, session, situation == "upload")


def call_tool(
    client: Client,
    path: str,
    name: str,
    arguments: Mapping[str, str] = MappingProxyType({}),
    session: str = "",
    is_cut: bool = False,
) -> None:
    params = {"name": name, "arguments": dict(arguments)}
    _post(client, path, {"method": "tools/call", "id": 2, "params": params}, session, is_cut)


def mcp_with_session(client: Client, path: str) -> None:
    """The same, in a session that the client opens first over a connection of its own."""
    _, _, variant, run = path.split("/")
    params = {"protocolVersion": _PROTOCOL, "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    with Client(client.port) as opening:
        _post(opening, f"/session/{variant}/{run}", {"method": "initialize", "id": 1, "params": params})
        opening.hear(b"protocolVersion")
        session = opening.came.lower().partition(b"mcp-session-id:")[2].split()[0].decode()
    with Client(client.port) as opening:
        _post(opening, f"/session/{variant}/{run}", {"method": "notifications/initialized"}, session)
        opening.hear(b" 202 ")
    mcp(client, path, session)


def _post(client: Client, path: str, message: dict[str, object], session: str = "", is_cut: bool = False) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: localhost:{client.port}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {_PROTOCOL}",
        f"Content-Length: {LENGTH if is_cut else len(body)}",
    ]
    if session:
        lines.append(f"Mcp-Session-Id: {session}")
    client.say("\r\n".join([*lines, "", ""]).encode(), body)


BEGINNINGS: Mapping[str, Callable[..., None]] = {
    "socketio": socketio_in_turn,
    "strawberry": graphql,
    "ariadne": graphql,
    "mcp": mcp,
    "mcp_sessions": mcp_with_session,
    "fastmcp": mcp,
}
"""By framework."""
