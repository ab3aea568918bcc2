"""MCP endpoints, as `disconnect-mw check` recognises them and speaks to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from disconnect_mw._check._evidence import Stay
from disconnect_mw._check._mcp import NoSession, close_session, is_endpoint, open_session, routes_of
from disconnect_mw._check._options import Options
from disconnect_mw._check._play import Player
from disconnect_mw._check._routes import Route
from disconnect_mw._check._server import ServerLost

pytestmark = pytest.mark.anyio

SECONDS = 20.0  # no wait here is longer

MCP = Route("http", "GET", "/mcp", "/mcp")
EVENTS = [("content-type", "text/event-stream; charset=utf-8")]
JSON = [("content-type", "application/json")]
ERROR = b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "Missing session ID"}}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("route", "stay", "expected"),
    [
        (MCP, Stay(400, JSON, ERROR), True),
        (MCP, Stay(200, EVENTS), True),
        (Route("http", "GET", "/api/mcp/", "/api/mcp/"), Stay(200, EVENTS), True),
        (Route("http", "GET", "/events", "/events"), Stay(200, EVENTS), False),
        (Route("http", "POST", "/mcp", "/mcp", body=b"{}"), Stay(400, JSON, ERROR), False),
        (Route("websocket", "GET", "/mcp", "/mcp"), Stay(101), False),
        (Route("http", "GET", "/mcp", "/mcp", is_mcp=True), Stay(200, EVENTS), False),
        (MCP, Stay(200, JSON, b"[]"), False),
        (MCP, Stay(200, JSON, b"no JSON"), False),
        (MCP, Stay(404), False),
    ],
)
def test_what_an_endpoint_is_known_by(route: Route, stay: Stay, expected: bool) -> None:
    assert is_endpoint(route, stay) is expected


@contextlib.asynccontextmanager
async def answering(answers: dict[str, Any], asked: list[str]) -> AsyncIterator[int]:
    """A server that answers each method so: a result, None for a connection that it closes, or bytes as they are."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next((int(line[15:]) for line in head.splitlines() if line.startswith("content-length")), 0)
        method = json.loads(await reader.readexactly(length))["method"] if length else head.split()[0]
        asked.append(method)
        answer = answers.get(method, {})
        if answer is not None:
            named = b"mcp-session-id: 1\r\n" if method == "initialize" else b""
            body = answer if isinstance(answer, bytes) else json.dumps({"id": 1, "result": answer}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (named, len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(SECONDS):
        yield server.sockets[0].getsockname()[1]


async def test_a_session_has_its_name_and_is_ended() -> None:
    asked: list[str] = []
    async with answering({"initialize": {"protocolVersion": "2025-03-26"}}, asked) as port:
        session = await open_session(port, MCP)
        assert session == (("mcp-protocol-version", "2025-03-26"), ("mcp-session-id", "1"))
        await close_session(port, MCP, session)
        await close_session(port, MCP, session[:1])  # without a name there is nothing to end
    assert asked == ["initialize", "notifications/initialized", "delete"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [(ERROR, "Missing session ID"), (b"", "does not answer initialize"), (None, "closed the connection")],
)
async def test_where_there_is_no_session(answer: Any, told: str) -> None:
    async with answering({"initialize": answer}, []) as port:
        with pytest.raises(NoSession, match=told):
            await open_session(port, MCP)


async def test_a_list_of_tools_that_fails_leaves_the_stream() -> None:
    async with answering({"tools/list": None}, []) as port:
        found = await routes_of(port, MCP, is_unsafe=False)
    assert [route.title for route in found.routes] == ["GET /mcp (listen)"]
    assert found.left_out == []


async def test_unsafe_calls_the_tools_that_may_write() -> None:
    tools = [{"name": "writes", "inputSchema": {"type": "object"}}, {"name": "writes more"}]
    for is_unsafe, titles, left_out in (
        (True, ["POST /mcp (tools/call writes)", "POST /mcp (tools/call writes more)"], []),
        (False, [], ["2 tools that may write are not called at /mcp: --unsafe calls them, and they do write"]),
    ):
        async with answering({"tools/list": {"tools": tools}}, []) as port:
            found = await routes_of(port, MCP, is_unsafe=is_unsafe)
        assert [route.title for route in found.routes] == ["GET /mcp (listen)", "POST /mcp (tools/list)", *titles]
        assert found.left_out == left_out


async def test_a_server_that_begins_no_session_any_more_is_lost() -> None:
    async def play(route: Route) -> None:
        raise NotImplementedError

    player: Any = Player(lambda: None, Options("a:b"), lambda what: None)  # type: ignore[arg-type,return-value]
    async with answering({"initialize": b""}, []) as port:
        player.server = type("Server", (), {"port": port})
        with pytest.raises(ServerLost):
            await player._in_session(Route("http", "GET", "/mcp", "/mcp", is_mcp=True), play)
