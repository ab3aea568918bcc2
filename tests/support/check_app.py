"""An app for the tests of `disconnect-mw check`: raw ASGI, one behaviour for each path."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import disconnect_mw

logger = logging.getLogger("shop")
hoard: list[bytes] = []
tasks: list[Any] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return
    with Path(os.environ["UPLOADS"], "departures").open("a") as journal:
        journal.write(f"{os.getpid()} {scope['path']}\n")
    name = scope["path"].strip("/").replace("-", "_")
    handler = globals().get(f"on_{name}", on_missing)
    await handler(scope, receive, send)


async def answer(send: Any, status: int = 200, body: bytes = b"ok", *headers: tuple[bytes, bytes]) -> None:
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain"), *headers]}
    )
    await send({"type": "http.response.body", "body": body})


async def begin(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def tick(send: Any) -> None:
    await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
    await asyncio.sleep(0.02)


async def on_missing(scope: Any, receive: Any, send: Any) -> None:
    status = {"/login": 401, "/form": 422, "/teapot": 418, "/other": 405}.get(scope["path"], 404)
    await answer(send, status)


async def on_moved(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, 307, b"", (b"location", b"/quick"))


async def on_fails(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("for everyone")


async def on_quick(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


async def on_slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.6)
    await answer(send)


async def on_client(scope: Any, receive: Any, send: Any) -> None:
    disconnect_mw.connection(scope).policy = "cancel"
    await asyncio.sleep(0.6)
    await answer(send)


async def on_body(scope: Any, receive: Any, send: Any) -> None:
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        raise ConnectionError("the body was cut")
    await answer(send)


async def on_no_body(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, 200 if (await receive())["body"] == b"" else 400)


async def on_random(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, 200, os.urandom(8).hex().encode())


async def on_endless(scope: Any, receive: Any, send: Any) -> None:
    await begin(send)
    while True:
        await tick(send)


async def on_listens(scope: Any, receive: Any, send: Any) -> None:
    await begin(send)
    listening = asyncio.create_task(until_disconnect(receive))
    while not listening.done():
        await tick(send)


async def until_disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def on_stubborn(scope: Any, receive: Any, send: Any) -> None:
    while True:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


async def on_blocks(scope: Any, receive: Any, send: Any) -> None:
    """Blocks the event loop for those who leave."""
    if await leaves(receive):
        time.sleep(30)
    await answer(send)


async def on_dies(scope: Any, receive: Any, send: Any) -> None:
    if await leaves(receive):
        os._exit(3)
    await answer(send)


async def leaves(receive: Any, seconds: float = 0.5) -> bool:
    """Wait so long for the client to leave."""
    try:
        await asyncio.wait_for(until_disconnect(receive), seconds)
    except TimeoutError:
        return False
    return True


async def on_buggy(scope: Any, receive: Any, send: Any) -> None:
    if await leaves(receive):
        raise KeyError("a key that is missing")
    await answer(send)


async def on_floods(scope: Any, receive: Any, send: Any) -> None:
    for _ in range(10 * await leaves(receive)):
        logger.error("nobody there")
    await answer(send)


async def on_hoards(scope: Any, receive: Any, send: Any) -> None:
    if await leaves(receive, 0.2):
        hoard.append(bytes(10_000))
    await answer(send)


async def on_hoards_anyway(scope: Any, receive: Any, send: Any) -> None:
    hoard.append(bytes(10_000))
    await leaves(receive, 0.1)
    await answer(send)


async def on_leaks(scope: Any, receive: Any, send: Any) -> None:
    if await leaves(receive):
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
    await answer(send)


async def on_upload(scope: Any, receive: Any, send: Any) -> None:
    """Takes the end of what came for the end of the body."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    Path(os.environ["UPLOADS"], f"{id(message)}.upload").write_bytes(body)
    await answer(send)


async def on_half(scope: Any, receive: Any, send: Any) -> None:
    """Leaves its temporary file behind where the body is cut."""
    part = Path(os.environ["UPLOADS"], f"{id(scope)}.part")
    with part.open("wb") as file:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            file.write(message["body"])
            if not message.get("more_body"):
                break
    part.unlink()
    await answer(send)


async def on_chat(scope: Any, receive: Any, send: Any) -> None:
    """Greets, and echoes."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "hello"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def on_refuses(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def fails_to_start(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "Traceback …\nno database"})
