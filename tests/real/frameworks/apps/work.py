"""What the apps do: steps that are saved one by one, and a clean-up that awaits. The transcript tells how they end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiosqlite
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process

from disconnect_mw import Disconnect, DisconnectMiddleware

from ..sizes import SECONDS_OF_GRACE, STEPS, STEPS_UNTIL_IT_LEAVES

SECONDS_PER_STEP = 0.025
LONG_STEP = 10
SECONDS_OF_LONG_STEP = 3 * SECONDS_OF_GRACE
"""Where there is a grace, it ends the work in the middle of this step."""

SECONDS_TO_CLEAN_UP = 0.15
"""Longer than the 50 ms for which a framework that was told may leave its handler as it is."""

POLICIES: dict[str, dict[str, Any]] = {
    "mute": {"policy": "mute"},
    "raise": {"policy": "raise"},
    "cancel": {"policy": "cancel"},
    "finish": {"policy": "finish"},
    "cancel-grace": {"policy": "cancel", "grace": SECONDS_OF_GRACE},
    "mute-grace": {"policy": "mute", "grace": SECONDS_OF_GRACE},
}


def run_of(path: str) -> str:
    return path.rpartition("/")[2]


def hook(disconnect: Disconnect) -> None:
    serve.emit(run=run_of(disconnect.path), told=disconnect.phase, at=time.monotonic())


def install(name: str, app: Any) -> None:
    """Have the server play the app bare, and under each policy."""
    serve.APPS[name, "bare"] = app
    for variant, options in POLICIES.items():
        serve.APPS[name, variant] = DisconnectMiddleware(app, **options, on_disconnect=hook)


async def steps(scope: Any) -> AsyncIterator[bytes]:
    """Save each step before it is given away. After the first few of them the client leaves."""
    play, run = scope["tests.play"], run_of(scope["path"])
    long_step = LONG_STEP if "grace" in play.variant else None
    try:
        for number in range(1, STEPS + 1):
            await asyncio.sleep(SECONDS_OF_LONG_STEP if number == long_step else SECONDS_PER_STEP)
            await save(run, number)
            yield b"data: %d\n\n" % number
            if number == STEPS_UNTIL_IT_LEAVES:
                play.ready("working")
                await play.cue("left")
        play.line("went on to its end")
    except BaseException as exception:
        serve.emit(run=run, stopped_at=time.monotonic())
        play.line(word_for(exception))
        raise
    finally:
        await clean_up(scope)


def word_for(exception: BaseException) -> str:
    """What the transcript says of an exception that stops the work."""
    words = {asyncio.CancelledError: "was cancelled", GeneratorExit: "was closed"}
    return words.get(type(exception), f"raised {serve.named(exception)}")


async def clean_up(scope: Any) -> None:
    play, run = scope["tests.play"], run_of(scope["path"])
    try:
        await asyncio.sleep(SECONDS_TO_CLEAN_UP)
    except BaseException:
        play.line("its clean-up was cut")
        raise
    else:
        play.line("cleaned up")
    finally:
        serve.emit(run=run, over=True)


# What has been saved

_databases: list[aiosqlite.Connection] = []  # one, once the event loop runs
_opening = asyncio.Lock()


async def save(run: str, number: int) -> None:
    database = await _database()
    await database.execute("INSERT INTO step VALUES (?, ?)", (run, number))
    await database.commit()


async def _database() -> aiosqlite.Connection:
    async with _opening:
        if not _databases:
            database = await aiosqlite.connect("steps.sqlite3")
            await database.execute("PRAGMA synchronous = OFF")
            await database.execute("CREATE TABLE step (run, number)")
            _databases.append(database)
    return _databases[0]


async def _saved(scope: Any, receive: Any, send: Any) -> None:
    """Answer how many steps of each run have been saved."""
    rows = await (await _database()).execute_fetchall("SELECT run, count(DISTINCT number) FROM step GROUP BY run")
    body = json.dumps(dict(map(tuple, rows))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


serve.APPS["saved", "-"] = _saved


async def app(scope: Any, receive: Any, send: Any) -> None:
    async def closing_receive() -> Any:
        message = await receive()
        while message["type"] == "lifespan.shutdown" and _databases:
            await _databases.pop().close()
        return message

    await serve.app(scope, closing_receive, send)
