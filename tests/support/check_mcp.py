"""A server of the Model Context Protocol for the tests of `disconnect-mw check`: raw ASGI, with sessions or without."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

EVENTS = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")

TOOLS = [
    {"name": "reads", "annotations": {"readOnlyHint": True}, "inputSchema": {"type": "object"}},
    {"name": "writes", "inputSchema": {"type": "object"}},
    {"name": "odd", "annotations": {"readOnlyHint": True}, "inputSchema": {"type": "string", "pattern": "^é$"}},
]

sessions: set[bytes] = set()


def make_app(has_sessions: bool) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        headers = dict(scope["headers"])
        if scope["path"] == "/events":
            assert headers[b"accept"] in (b"*/*", b"text/event-stream")
            await stream(receive, send, b"data: tick\n\n")
        elif headers[b"host"] == b"localhost":  # as the SDK has it: a name without a port is misdirected
            await answer(send, 421, JSON, b"{}")
        elif scope["path"] == "/mcp":
            await exchange(scope["method"], headers, receive, send)
        else:
            await answer(send, 404, JSON, b"{}")

    async def exchange(method: str, headers: dict[bytes, bytes], receive: Any, send: Any) -> None:
        named = headers.get(b"mcp-session-id")
        body = b""
        while method == "POST":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        asked = json.loads(body or b"{}")
        if asked.get("method") == "initialize":
            name = uuid.uuid4().hex.encode()
            sessions.add(name)
            more = [(b"mcp-session-id", name)] if has_sessions else []
            await answer(send, 200, EVENTS, event({"protocolVersion": "2025-06-18"}), *more)
        elif has_sessions and named not in sessions:
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Missing session ID"}}
            await answer(send, 400, JSON, json.dumps(error).encode())
        elif method == "DELETE":
            sessions.discard(named or b"")
            await answer(send, 200, JSON, b"")
        elif method == "GET":
            await stream(receive, send, b"")
        elif asked["method"] == "tools/list":
            await answer(send, 200, EVENTS, event({"tools": TOOLS}))
        elif asked["method"] == "tools/call":
            await asyncio.sleep(0.2)
            await answer(send, 200, EVENTS, event({"content": []}))
        else:
            await answer(send, 202, JSON, b"")

    return app


def event(result: Any) -> bytes:
    return b"event: message\ndata: " + json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode() + b"\n\n"


async def answer(send: Any, status: int, kind: tuple[bytes, bytes], body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
    await send({"type": "http.response.body", "body": body})


async def stream(receive: Any, send: Any, payload: bytes) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
    await send({"type": "http.response.body", "body": payload, "more_body": True})
    await receive()


app = make_app(True)
without_sessions = make_app(False)
