"""A report that stops while it computes, but is never cut while it commits.

    DISCONNECT_MW_LOG=info uvicorn report_shield:app

A reader who leaves during the computation ends it:

    curl --max-time 1 http://127.0.0.1:8000/report/january

        computing january
        stopped january: nothing of it is saved
        INFO:     client disconnected: GET /report/january from ..., before the response: ... and was cancelled

One who leaves during the commit does not; the app is cancelled when that is done:

    curl --max-time 4 http://127.0.0.1:8000/report/february

        committing february
        committed february
        INFO:     client disconnected: GET /report/february from ..., before the response: ... and was cancelled

    curl http://127.0.0.1:8000/reports

        ["february: total","february: lines"]
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

try:
    import aiosqlite
    from fastapi import FastAPI
except ImportError:
    raise SystemExit("This example needs FastAPI and aiosqlite: pip install fastapi uvicorn aiosqlite") from None

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.fastapi import Client


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiosqlite.connect("reports.sqlite3") as database:
        await database.execute("CREATE TABLE IF NOT EXISTS reports (row TEXT)")
        app.state.database = database
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(DisconnectMiddleware, policy_for={"/report/*": "cancel"})


async def insert(row: str) -> None:
    await app.state.database.execute("INSERT INTO reports VALUES (?)", (row,))
    await asyncio.sleep(1)  # a slow database


@app.get("/report/{month}")
async def report(month: str, client: Client) -> str:
    print(f"computing {month}", flush=True)
    try:
        await asyncio.sleep(3)
    except asyncio.CancelledError:
        print(f"stopped {month}: nothing of it is saved", flush=True)
        raise
    async with client.shield():
        print(f"committing {month}", flush=True)
        await insert(f"{month}: total")
        await insert(f"{month}: lines")
        await app.state.database.commit()
        print(f"committed {month}", flush=True)
    return month


@app.get("/reports")
async def reports() -> list[str]:
    return [row async for (row,) in await app.state.database.execute("SELECT row FROM reports")]
