"""A gateway, in a thread, that leaves its upstream when its own client leaves."""

from __future__ import annotations

import os
import socket

import httpx
from fastapi import FastAPI, Response

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.fastapi import Client

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
