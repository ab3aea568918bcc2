"""Run in the server's process: orders whose clients leave somewhere in the middle, in SQLite by aiosqlite.

`/APP/VARIANT/RUN?number=N` as in `servers.serve`; an app is a way to write the two rows of an order, a variant says
whether that is under `shield`, and where `DisconnectMiddleware` stands, under `cancel`. `/rows/-/RUN` tells how many
rows there are of each order of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiosqlite
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from disconnect_mw import connection

from .places import PLACES, cancelled
from .sizes import BETWEEN

SECONDS_BEFORE = 0.08
"""Longer than it takes until the middleware has checked."""

SECONDS_BETWEEN = 0.01

SECONDS_AFTER = 0.5

Rows = tuple[tuple[str, int, str], tuple[str, int, str]]
Pause = Callable[[], Awaitable[None]]

_INSERT = "INSERT INTO line VALUES (?, ?, ?)"


class Shop:
    """One connection for all, as a small app has it."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self.writing = asyncio.Lock()
        self._database: aiosqlite.Connection | None = None

    async def database(self) -> aiosqlite.Connection:
        async with self._opening:
            if self._database is None:
                self._database = await aiosqlite.connect("orders.sqlite3")
                await self._database.execute("PRAGMA synchronous = OFF")
                await self._database.execute("CREATE TABLE line (run, number, what)")
                await self._database.commit()
            return self._database

    async def close(self) -> None:
        if self._database is not None:
            await self._database.close()


_shops: list[Shop] = []  # one, once the event loop runs


async def _transaction(rows: Rows, pause: Pause) -> None:
    """Both rows in one; without shield the first is left to whoever commits next."""
    database = await _shops[0].database()
    async with _shops[0].writing:
        await database.execute(_INSERT, rows[0])
        await pause()
        await database.execute(_INSERT, rows[1])
        await database.commit()


async def _commits(rows: Rows, pause: Pause) -> None:
    """Each row by a commit of its own."""
    database = await _shops[0].database()
    for row in rows:
        async with _shops[0].writing:
            await database.execute(_INSERT, row)
            await database.commit()
        if row is rows[0]:
            await pause()


def _endpoint(write: Callable[[Rows, Pause], Awaitable[None]]) -> Any:
    async def order(request: Request) -> Response:
        play, run, number = request.scope["tests.play"], request.path_params["run"], int(request.query_params["number"])

        async def pause() -> None:
            if number == BETWEEN:
                play.ready("between")
                await play.cue("gone")
            else:
                await asyncio.sleep(SECONDS_BETWEEN)

        await request.body()
        await asyncio.sleep(SECONDS_BEFORE * (4 if number == BETWEEN else 1))  # on a busy machine too
        is_shielded = request.path_params["variant"].startswith("shielded")
        async with connection(request).shield() if is_shielded else contextlib.nullcontext():
            await write(((run, number, "order"), (run, number, "invoice")), pause)
            if not connection(request).connected:
                serve.emit(run=run, shielded=number)
        await asyncio.sleep(SECONDS_AFTER)
        serve.emit(run=run, came_to_its_end=number)
        return PlainTextResponse("ok")

    return order


async def _rows(request: Request) -> Response:
    database = await _shops[0].database()
    rows = await database.execute_fetchall(
        "SELECT number, count(*) FROM line WHERE run = ? GROUP BY number", (request.path_params["run"],)
    )
    return JSONResponse({str(number): count for number, count in rows})


for _name, _write in (("transaction", _transaction), ("commits", _commits)):
    _app = Starlette(routes=[Route(f"/{_name}/{{variant}}/{{run}}", _endpoint(_write), methods=["POST"])])
    for _place, _put in PLACES.items():
        for _guard in ("shielded", "careless"):
            serve.APPS[_name, f"{_guard}-{_place}"] = _put(cancelled, _app)
serve.APPS["rows", "-"] = Starlette(routes=[Route("/rows/{variant}/{run}", _rows)])


@contextlib.asynccontextmanager
async def _open() -> AsyncIterator[None]:
    shop = Shop()
    _shops.append(shop)
    try:
        yield
    finally:
        await shop.close()


async def app(scope: Any, receive: Any, send: Any) -> None:
    async with _open() if scope["type"] == "lifespan" else contextlib.nullcontext():
        await serve.app(scope, receive, send)
