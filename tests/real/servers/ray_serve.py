"""Ray Serve with one ASGI app, bare and wrapped: `python -m tests.real.servers.ray_serve PORT`.

It serves until its standard input ends. What the app, the log and the hooks tell is written to the file that is named
by `TESTS_EVENTS`, one JSON object a line: the app runs in a process of Ray's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any

from disconnect_mw import Disconnect, DisconnectMiddleware, Policy, connection

POLICIES: tuple[Policy, ...] = ("mute", "finish", "cancel", "raise")
"""The first part of a path, or `bare`."""


def emit(event: str, path: str, text: str = "") -> None:
    with open(os.environ["TESTS_EVENTS"], "a", encoding="utf-8") as events:
        events.write(json.dumps({"event": event, "path": path, "text": text}) + "\n")


class Lines(logging.Handler):
    """Emits the INFO lines of the middleware."""

    def emit(self, record: logging.LogRecord) -> None:
        emit("line", record.exchange.disconnect.path, record.getMessage())  # type: ignore[attr-defined]  # an extra


async def answer(send: Any, *parts: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % sum(map(len, parts)))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number, part in enumerate(parts, 1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})


async def read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the upload was cut")
        body += message["body"]
        more = message.get("more_body", False)
    return body


async def stays(what: str, scope: Any, receive: Any, send: Any) -> None:
    """Answer a client that stays."""
    if scope["type"] == "websocket":
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    elif what == "echo":
        await answer(send, await read(receive))
    elif what == "five":
        await answer(send, *(b"chunk %d\n" % number for number in range(5)))
    else:
        await answer(send, b"hello")


async def departs(what: str, seconds: float, scope: Any, receive: Any, send: Any) -> None:
    """Work for so many seconds, or receive or send for ever, for a client that will leave."""
    path = scope["path"]
    emit("begun", path)
    try:
        await read(receive)
    except ConnectionError:
        emit("cut", path)
        return
    if what == "stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"chunk", "more_body": True})
            await asyncio.sleep(0.02)
    elif what == "shield":
        async with connection(scope).shield():
            await asyncio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)
    emit("saved", path)
    await answer(send, b"done")


async def probe(scope: Any, receive: Any, send: Any) -> None:
    """Play `/INSTALL/WHAT` or `/INSTALL/WHAT/SECONDS/NUMBER`."""
    _, _, what, *more = scope["path"].split("/")
    if not more:
        await stays(what, scope, receive, send)
        return
    try:
        await departs(what, float(more[0]), scope, receive, send)
    except BaseException as failure:
        emit("raised", scope["path"], type(failure).__name__)
        raise


def front() -> Any:
    """Make the ASGI app. Ray calls this in the process in which the app will run."""
    logger = logging.getLogger("disconnect_mw")
    logger.setLevel(logging.INFO)
    logger.addHandler(Lines())

    def hook(told: Disconnect) -> None:
        emit("hook", told.path)

    apps: dict[str, Any] = {"bare": probe}
    apps |= {policy: DisconnectMiddleware(probe, policy=policy, on_disconnect=hook) for policy in POLICIES}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return

        async def tapped() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect":
                emit("told by Ray", scope["path"])
            return message

        try:
            await apps[scope["path"].split("/")[1]](scope, tapped, send)
        finally:
            emit("ended", scope["path"])

    return app


def main(port: int) -> None:
    import ray  # type: ignore[import-not-found]  # it is installed in an environment of its own
    from ray import serve

    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 1024 * 1024, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})

        class Deployment:
            pass

        serve.run(serve.deployment(serve.ingress(front)(Deployment)).bind(), route_prefix="/")
        print("serving", flush=True)
        sys.stdin.read()
        serve.shutdown()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
