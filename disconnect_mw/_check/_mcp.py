"""The Model Context Protocol over streamable HTTP (its specification of 2025-06-18, "Transports"): routes and sessions.

A client begins a session before it asks for anything, and the server may give that a name. Only one client of a
session may listen, so each client of the check has a session of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import Any

from ._clients import HTTPClient, Refused
from ._evidence import Stay
from ._example import NoExample, make
from ._routes import Found, Route

_VERSION = "2025-06-18"
_SECONDS = 10.0
_HEADERS = (("accept", "application/json, text/event-stream"), ("content-type", "application/json"))
_MOST_TOOLS = 10

Headers = tuple[tuple[str, str], ...]


class NoSession(Exception):
    """The endpoint begins none."""


def is_endpoint(route: Route, stay: Stay) -> bool:
    """Whether a path speaks MCP, by its answer to a plain GET.

    That is JSON-RPC, which misses the session; or a stream of events, where the path is the SDKs' own.
    """
    if route.protocol != "http" or route.method != "GET" or route.is_mcp:
        return False
    if stay.kind == "text/event-stream":
        return route.template.rstrip("/").endswith("/mcp")
    return stay.kind == "application/json" and "jsonrpc" in _object(stay.body)


async def routes_of(port: int, route: Route, *, is_unsafe: bool) -> Found:
    """What to try at that endpoint: its stream, its list of tools, and a call of each tool that only reads.

    Of the others where `is_unsafe`. Raises `NoSession` where it begins no session.
    """
    session = await open_session(port, route)
    try:
        _, answer = await _call(port, route, session, _request("tools/list"))
    except (TimeoutError, Refused):
        answer = {}
    finally:
        await close_session(port, route, session)
    found = Found()
    listening = dataclasses.replace(route, is_mcp=True, headers=(*route.headers, _HEADERS[0]), label="listen")
    found.routes.append(listening)
    tools = (answer.get("result") or {}).get("tools") or []
    if tools:
        found.routes.append(_post(route, "tools/list", {}))
    writing = 0
    for tool in tools[:_MOST_TOOLS]:
        if not is_unsafe and not (tool.get("annotations") or {}).get("readOnlyHint"):
            writing += 1
            continue
        try:
            arguments = make({}, tool.get("inputSchema") or {})
        except NoExample as reason:
            found.left_out.append(f"tool {tool.get('name')} of {route.template} is not called: {reason}")
            continue
        found.routes.append(_post(route, "tools/call", {"name": tool.get("name"), "arguments": arguments}))
    if writing:
        tools_are = "1 tool that may write is" if writing == 1 else f"{writing} tools that may write are"
        found.left_out.append(f"{tools_are} not called at {route.template}: --unsafe calls them, and they do write")
    return found


async def open_session(port: int, route: Route) -> Headers:
    """Begin a session, and return the headers that name it. Raises `NoSession`."""
    params = {
        "protocolVersion": _VERSION,
        "capabilities": {},
        "clientInfo": {"name": "disconnect-mw check", "version": "1"},
    }
    try:
        headers, answer = await _call(port, route, (), _request("initialize", params))
        if "result" not in answer:
            raise NoSession(str(answer.get("error") or "it does not answer initialize"))
        version = str(answer["result"].get("protocolVersion", _VERSION))
        name = next((value for key, value in headers if key.lower() == "mcp-session-id"), None)
        session = (("mcp-protocol-version", version), *([] if name is None else [("mcp-session-id", name)]))
        await _call(port, route, session, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    except (TimeoutError, Refused) as error:
        raise NoSession(str(error) or "it does not answer in time") from None
    return session


async def close_session(port: int, route: Route, session: Headers) -> None:
    """Have the server forget the session, if it gave that a name."""
    if any(name == "mcp-session-id" for name, _ in session):
        ending = dataclasses.replace(route, method="DELETE", headers=(*route.headers, *session))
        with contextlib.suppress(TimeoutError, Refused, OSError):
            await _ask(port, ending)


def _request(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}


def _post(route: Route, method: str, params: dict[str, Any]) -> Route:
    label = " ".join([method, *filter(None, [params.get("name")])])
    body = json.dumps(_request(method, params)).encode()
    headers = (*route.headers, *_HEADERS)
    return dataclasses.replace(route, method="POST", headers=headers, body=body, label=label, is_mcp=True)


async def _call(port: int, route: Route, session: Headers, message: dict[str, Any]) -> tuple[Headers, dict[str, Any]]:
    """Post a message. Returns the headers, and the answer to it: `{}` where there is none."""
    headers = (*route.headers, *_HEADERS, *session)
    posted = dataclasses.replace(route, method="POST", headers=headers, body=json.dumps(message).encode())
    return await _ask(port, posted)


async def _ask(port: int, route: Route) -> tuple[Headers, dict[str, Any]]:
    client = await HTTPClient.connect(port)
    body = b""
    try:
        async with asyncio.timeout(_SECONDS):
            await client.ask(route)
            _, headers = await client.head()
            while not (answer := _answer(body)) and (part := await client.more()) is not None:
                body += part
    finally:
        client.close()
    return tuple(headers), answer


def _answer(body: bytes) -> dict[str, Any]:
    """The answer in a body, as JSON or as the data of an event, as soon as it is there."""
    for line in (body, *body.split(b"\n")):
        answer = _object(line.removeprefix(b"data:"))
        if "result" in answer or "error" in answer:
            return answer
    return {}


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
