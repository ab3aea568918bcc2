"""A query of SQLite, in a thread, that ends when its client leaves.

    DISCONNECT_MW_LOG=info uvicorn stop_sqlite:app

A query that would take hours ends with its client, and the thread is free:

    curl --max-time 1 http://127.0.0.1:8000/count/1000000000000

        counting
        interrupted
        INFO:     client disconnected: GET /count/1000000000000 from ..., before the response: ... and returned

    curl http://127.0.0.1:8000/count/1000

        1000
"""

from __future__ import annotations

import sqlite3

from disconnect_mw import DisconnectMiddleware

try:
    from fastapi import FastAPI, Response

    from disconnect_mw.fastapi import Client
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn") from None

app = FastAPI()
app.add_middleware(DisconnectMiddleware)

COUNT = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
    SELECT count(*) FROM numbers
"""


@app.get("/count/{limit}")
def count(limit: int, client: Client) -> Response:
    database = sqlite3.connect(":memory:", check_same_thread=False)  # interrupt() is called by another thread
    try:
        with client.on_disconnect(database.interrupt):
            print("counting", flush=True)
            (number,) = database.execute(COUNT, (limit,)).fetchone()
    except sqlite3.OperationalError:
        if client.connected:
            raise
        print("interrupted", flush=True)
        return Response(status_code=499)
    finally:
        database.close()
    return Response(str(number))
