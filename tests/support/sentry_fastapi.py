"""`python -m tests.support.sentry_fastapi with|without inside|outside`: prints how many events a cut upload makes.

With Sentry's own integration of FastAPI, in a process of its own: it patches the classes of middleware for good.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import sentry_sdk
from fastapi import FastAPI
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from starlette.requests import Request

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe import sentry

from .messages import http_scope
from .simulated_server import SimulatedServer


class Counter(Transport):
    events = 0

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events += sum(item.type == "event" for item in envelope.items)


async def cut_upload(app: Any) -> None:
    server = SimulatedServer(incoming=[{"type": "http.request", "body": b"begun", "more_body": True}])
    server.leave()
    scope = http_scope(method="POST", headers=[(b"content-length", b"100")])
    try:
        await app(scope, server.receive, server.send)
    except Exception as error:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)


def main(hooks: str, install: str) -> None:
    counter = Counter()
    before_send: Any = sentry.before_send if hooks == "with" else None
    sentry_sdk.init(dsn="http://key@localhost/1", transport=counter, before_send=before_send)
    app = FastAPI()

    @app.post("/")
    async def upload(request: Request) -> None:
        await request.body()

    if install == "inside":
        app.add_middleware(DisconnectMiddleware)
    asyncio.run(cut_upload(DisconnectMiddleware(app) if install == "outside" else app))
    print(counter.events)


if __name__ == "__main__":
    main(*sys.argv[1:])
