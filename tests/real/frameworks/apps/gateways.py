"""Gateways: apps that stream from an upstream server, and to it, through a small pool of httpx."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import httpx
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from disconnect_mw import DisconnectMiddleware

from ..sizes import GATEWAY_POLICIES, POOL
from .stacks import routed
from .work import app, hook, run_of

__all__ = ["app"]

SECONDS_UNTIL_FIRST_TOKEN = 0.4
SECONDS_PER_TOKEN = 0.02
SECONDS_OF_GRACE = 1.0

PATIENCE = 5.0
"""Seconds to wait for a connection of the pool."""

OPTIONS: dict[str, dict[str, Any]] = {
    policy: {"policy": policy, "grace": SECONDS_OF_GRACE if policy == "finish" else None} for policy in GATEWAY_POLICIES
}


class _Upstream:
    """A model that thinks for a while, and then streams for as long as it is read; an upload is read to its end."""

    opened = 0
    port = 0
    _starting = asyncio.Lock()

    @classmethod
    async def url(cls, path: str) -> str:
        async with cls._starting:
            if not cls.port:
                server = await asyncio.start_server(cls._serve, "127.0.0.1", 0)
                cls.port = server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{cls.port}{path}"

    @classmethod
    async def _serve(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cls.opened += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await cls._answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        finally:
            cls.opened -= 1
            writer.close()

    @staticmethod
    async def _answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET /tokens"):
            await asyncio.sleep(SECONDS_UNTIL_FIRST_TOKEN)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not reader.at_eof():
                writer.write(b"5\r\ntoken\r\n")
                await writer.drain()
                await asyncio.sleep(SECONDS_PER_TOKEN)
            raise ConnectionError("nobody reads any more")
        if head.startswith(b"POST"):
            await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()


@functools.cache
def _pool(policy: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=POOL, max_keepalive_connections=POOL)
    return httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(PATIENCE))


def _client(request: Request) -> httpx.AsyncClient:
    return _pool(request.path_params["variant"])


async def _tokens(request: Request) -> AsyncGenerator[bytes, None]:
    try:
        request.scope["tests.play"].ready("working")
        async with _client(request).stream("GET", await _Upstream.url("/tokens")) as response:
            async for token in response.aiter_raw():
                yield token
    finally:
        serve.emit(run=run_of(request.url.path), over=True)


async def first_token(request: Request) -> Response:
    """The client leaves while the first token is awaited, before the response begins."""
    tokens = _tokens(request)
    first = await anext(tokens)

    async def body() -> AsyncIterator[bytes]:
        try:
            yield first
            async for token in tokens:
                yield token
        finally:
            with anyio.CancelScope(shield=True):
                await tokens.aclose()

    return StreamingResponse(body())


async def download(request: Request) -> Response:
    """The client leaves while the first token is awaited, after the response has begun."""
    return StreamingResponse(_tokens(request))


async def upload(request: Request) -> Response:
    """The client leaves in the middle of what is passed on."""
    request.scope["tests.play"].ready("working")
    try:
        async with _client(request).stream("POST", await _Upstream.url("/"), content=request.stream()) as response:
            return Response(await response.aread())
    finally:
        serve.emit(run=run_of(request.url.path), over=True)


async def alive(request: Request) -> Response:
    response = await _client(request).get(await _Upstream.url("/alive"))
    return PlainTextResponse(response.text)


async def opened(request: Request) -> Response:
    return JSONResponse({"opened": _Upstream.opened})


serve.APPS["opened", "-"] = routed(opened)
for _endpoint in (first_token, download, upload, alive):
    _routed = routed(_endpoint, methods=["POST" if _endpoint is upload else "GET"])
    serve.APPS[_endpoint.__name__, "bare"] = _routed
    for _policy, _options in OPTIONS.items():
        serve.APPS[_endpoint.__name__, _policy] = DisconnectMiddleware(_routed, **_options, on_disconnect=hook)

gc.collect()
gc.freeze()  # the collection at each mark need not scan the frameworks
gc.disable()  # what a generator holds is to be given back without it
