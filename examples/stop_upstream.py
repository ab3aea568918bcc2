"""A gateway, in a thread, that leaves its upstream when its own client leaves.

`UPSTREAM=http://… uvicorn stop_upstream:app`, GET /answer.
"""

from __future__ import annotations

import os
import socket

from disconnect_mw import DisconnectMiddleware

try:
    import httpx
    from fastapi import FastAPI, Response

    from disconnect_mw.fastapi import Client
except ImportError:
    raise SystemExit("This example needs httpx and FastAPI: pip install httpx fastapi uvicorn") from None
if "UPSTREAM" not in os.environ:
    raise SystemExit("This example needs an upstream: set UPSTREAM to its URL, http://…")

app = FastAPI()
app.add_middleware(DisconnectMiddleware)


@app.get("/answer")
def answer(client: Client) -> Response:
    try:
        with httpx.stream("GET", os.environ["UPSTREAM"], timeout=None) as upstream:
            # Closing it would not wake this thread, which waits for the next bytes; shutting it down does.
            connection: socket.socket = upstream.extensions["network_stream"].get_extra_info("socket")
            with client.on_disconnect(connection.shutdown, socket.SHUT_RDWR):
                print("reading", flush=True)
                return Response(upstream.read())
    except httpx.TransportError:
        if client.connected:
            raise
        print("left", flush=True)
        return Response(status_code=499)
