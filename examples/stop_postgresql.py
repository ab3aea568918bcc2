"""A query of PostgreSQL, in a thread, that ends when its client leaves.

`DATABASE=postgresql://… uvicorn stop_postgresql:app`, GET /sleep/60.
"""

from __future__ import annotations

import os

from disconnect_mw import DisconnectMiddleware

try:
    import psycopg
    from fastapi import FastAPI, Response

    from disconnect_mw.fastapi import Client
except ImportError:
    raise SystemExit('This example needs psycopg and FastAPI: pip install "psycopg[binary]" fastapi uvicorn') from None
if "DATABASE" not in os.environ:
    raise SystemExit("This example needs a database: set DATABASE to its URL, postgresql://…")

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
