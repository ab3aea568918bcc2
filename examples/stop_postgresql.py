"""A query of PostgreSQL, in a thread, that ends when its client leaves."""

from __future__ import annotations

import os

import psycopg
from fastapi import FastAPI, Response

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.fastapi import Client

app = FastAPI()
app.add_middleware(DisconnectMiddleware)


@app.get("/sleep/{seconds}")
def sleep(seconds: float, client: Client) -> Response:
    with psycopg.connect(os.environ["DATABASE"]) as database:
        try:
            # In a thread, since it connects to the server; and no later than this block, so that it cannot hit the next
            # query of a connection from a pool.
            with client.on_disconnect(database.cancel_safe, in_thread=True):
                print("sleeping", flush=True)
                database.execute("SELECT pg_sleep(%s)", (seconds,))
        except psycopg.errors.QueryCanceled:
            if client.connected:
                raise
            print("cancelled", flush=True)
            return Response(status_code=499)
    return Response("slept")
