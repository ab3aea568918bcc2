"""A real uvicorn for one row: `python -m benchmarks._serve APP ROW`. Prints its port; stops when its stdin closes."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Any

import uvicorn

from ._rows import ROWS, App, Receive, Send


def smallest() -> App:
    return _smallest


async def _smallest(scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    body = _cpu() if scope["path"] == "/cpu" else b"x"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def starlette() -> App:
    """One route that answers JSON, without any other middleware than Starlette's own."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def item(request: Request) -> Response:
        return JSONResponse({"item": request.path_params["item"], "in stock": True})

    async def cpu(request: Request) -> Response:
        return Response(_cpu())

    return Starlette(routes=[Route("/items/{item:int}", item), Route("/cpu", cpu)])


APPS = {"smallest": smallest, "Starlette": starlette}


def _cpu() -> bytes:
    """Seconds of processor time that the server has taken so far."""
    return repr(time.process_time()).encode()


async def serve(wrapped: App) -> None:
    config = uvicorn.Config(wrapped, lifespan="off", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        protocol, loop = config.http_protocol_class, asyncio.get_running_loop()
        print(listening.getsockname()[1], getattr(protocol, "__name__", protocol), type(loop).__module__, flush=True)
        await loop.run_in_executor(None, sys.stdin.read)
        server.should_exit = True
        await running


def main(app: str, row: str) -> None:
    wrapped = ROWS[row](APPS[app]())
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(wrapped))
    else:
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(serve(wrapped))
        finally:
            loop.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
