"""Run in the server's process: orders by SQLAlchemy, through an async pool of few connections, under FastAPI.

`/APP/VARIANT/RUN?number=N` as in `servers.serve`; a variant is where `DisconnectMiddleware` stands, under `cancel`,
or "anyio". `/rows/-/RUN` tells what is in the pool, and how many rows there are of each order of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.fastapi import Client

from .places import PLACES, cancelled
from .sizes import POOL

SECONDS_BETWEEN = 0.01

ROWS_AT_FIRST = 8

_INSERT = text("INSERT INTO line VALUES (:run, :number, :what)")
_SELECT = text("SELECT number, what FROM line LIMIT 8")

engine = create_async_engine(
    "sqlite+aiosqlite:///pool.sqlite3",
    poolclass=AsyncAdaptedQueuePool,
    pool_size=POOL,
    max_overflow=0,
    pool_timeout=20,
    connect_args={"timeout": 20},
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


@event.listens_for(engine.sync_engine, "connect")
def _set_up(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()


async def _session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(_session)]

api = FastAPI()


async def _write(database: AsyncSession | AsyncConnection, run: str, number: int) -> None:
    await database.execute(_INSERT, {"run": run, "number": number, "what": "order"})
    await asyncio.sleep(SECONDS_BETWEEN)
    await database.execute(_INSERT, {"run": run, "number": number, "what": "invoice"})


@api.get("/session/{variant}/{run}")
async def session(run: str, number: int, session: Session, client: Client) -> str:
    """A session that a dependency opens and closes."""
    await session.execute(_SELECT)
    await asyncio.sleep(SECONDS_BETWEEN)
    async with client.shield():
        await _write(session, run, number)
        await session.commit()
    await asyncio.sleep(SECONDS_BETWEEN)
    await session.execute(_SELECT)
    return "ok"


@api.get("/connection/{variant}/{run}")
async def connection(run: str, number: int) -> str:
    """A connection and a transaction of the handler's own, under no shield."""
    async with engine.connect() as database:
        await database.execute(_SELECT)
        await asyncio.sleep(SECONDS_BETWEEN)
    await asyncio.sleep(SECONDS_BETWEEN)
    async with engine.begin() as database:
        await _write(database, run, number)
    return "ok"


@api.get("/report/{variant}/{run}")
async def report(client: Client) -> StreamingResponse:
    """A stream that stops by itself: what Starlette cancels cannot await the end of its session."""

    async def lines() -> AsyncIterator[str]:
        async with client.shield(), new_session() as session:
            async for row in await session.stream(_SELECT):
                if not client.connected:
                    return
                await asyncio.sleep(SECONDS_BETWEEN)
                yield f"{row}\n"

    return StreamingResponse(lines())


@api.get("/guarded/{variant}/{run}")
async def guarded(run: str, number: int, client: Client) -> str:
    """All of it under shield."""
    async with client.shield(), new_session() as session:
        await session.execute(_SELECT)
        await _write(session, run, number)
        await session.commit()
    await asyncio.sleep(SECONDS_BETWEEN)
    return "ok"


@api.get("/careless/{variant}/{run}")
async def careless() -> StreamingResponse:
    """A stream as it is often written."""

    async def lines() -> AsyncIterator[str]:
        async with new_session() as session:
            async for row in await session.stream(_SELECT):
                await asyncio.sleep(SECONDS_BETWEEN)
                yield f"{row}\n"

    return StreamingResponse(lines())


@api.get("/rows/{variant}/{run}")
async def rows(run: str) -> dict[str, Any]:
    deadline = time.monotonic() + 2
    while engine.pool.checkedout() and time.monotonic() < deadline:  # type: ignore[attr-defined]  # this pool has it
        await asyncio.sleep(0.01)
    checked_out = engine.pool.checkedout()  # type: ignore[attr-defined]  # this pool has it
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(POOL):
            database = await stack.enter_async_context(engine.connect())
        seconds = time.monotonic() - began
        found = await database.execute(
            text("SELECT number, count(*) FROM line WHERE run = :run GROUP BY number"), {"run": run}
        )
        counts = {str(number): count for number, count in found}
    return {"checked out": checked_out, "seconds": seconds, "rows": counts}


class CancelledByAnyio:
    """What is often written to cancel an app whose client has left: as Starlette does it with its streams."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()

        async def listen() -> None:
            is_there = True
            while is_there:
                message = await receive()
                is_there = message["type"] != "http.disconnect"
                messages.put_nowait(message)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await self._app(scope, messages.get, send)
            tasks.cancel_scope.cancel()


for _name in ("session", "connection", "report", "guarded", "careless"):
    serve.APPS[_name, "anyio"] = DisconnectMiddleware(CancelledByAnyio(api))
    for _place, _put in PLACES.items():
        serve.APPS[_name, _place] = _put(cancelled, api)
serve.APPS["rows", "-"] = api


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await serve.app(scope, receive, send)
        return
    async with engine.begin() as database:
        await database.execute(text("CREATE TABLE line (run, number, what)"))
        for number in range(ROWS_AT_FIRST):
            await database.execute(_INSERT, {"run": "", "number": number, "what": "order"})
    try:
        await serve.app(scope, receive, send)
    finally:
        await engine.dispose()
