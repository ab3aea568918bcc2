"""Run in the server's process: a language model, each of whose tokens is dear, and a story each of whose tokens counts.

`/APP/VARIANT/RUN` as in `servers.serve`; a variant says where `DisconnectMiddleware` stands, and its policy: see
`_variants`. `/left/-/RUN` has it noted that the client of a run has left, and
`/saved/-/RUN` tells what of a story has been saved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiosqlite
import anyio
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware, connection

from .places import PLACES, behind, cancelled
from .sizes import SECONDS_PER_TOKEN, TOKENS, TOKENS_UNTIL_IT_LEAVES


def _run(scope: Any) -> str:
    return str(scope["path"]).rpartition("/")[2]


def _produced(scope: Any, number: int) -> bytes:
    serve.emit(run=_run(scope), token=number)
    if number == TOKENS_UNTIL_IT_LEAVES:
        scope["tests.play"].ready("producing")
    return b"token\n"


async def _respond(send: Any, tokens: AsyncIterator[bytes]) -> None:
    """A stream without a framework, which asks nobody whether its client is there."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async for token in tokens:
        await send({"type": "http.response.body", "body": token, "more_body": True})
    await send({"type": "http.response.body"})


# The model


async def _tokens(scope: Any) -> AsyncIterator[bytes]:
    for number in range(1, TOKENS + 1):
        await anyio.sleep(SECONDS_PER_TOKEN)
        yield _produced(scope, number)


def _tokens_in_a_thread(scope: Any) -> Iterator[bytes]:
    for number in range(1, TOKENS + 1):
        time.sleep(SECONDS_PER_TOKEN)
        yield _produced(scope, number)


async def _raw(scope: Any, receive: Any, send: Any) -> None:
    await _respond(send, _tokens(scope))


async def _stream(request: Request) -> Response:
    return StreamingResponse(_tokens(request.scope))


async def _thread(request: Request) -> Response:
    return StreamingResponse(_tokens_in_a_thread(request.scope))


async def _answer(request: Request) -> Response:
    """No stream: the client gets all at the end."""
    return PlainTextResponse(b"".join([token async for token in _tokens(request.scope)]))


# The story


@contextlib.asynccontextmanager
async def _database(run: str) -> AsyncIterator[aiosqlite.Connection]:
    async with aiosqlite.connect(f"story-{run}.sqlite3") as database:
        await database.execute("PRAGMA synchronous = OFF")
        yield database


async def _saved_tokens(scope: Any) -> AsyncIterator[bytes]:
    """Each one is saved before it is given away."""
    async with _database(_run(scope)) as database:
        await database.execute("CREATE TABLE story (token)")
        for number in range(1, TOKENS + 1):
            await anyio.sleep(SECONDS_PER_TOKEN)
            await database.execute("INSERT INTO story VALUES (?)", (number,))
            await database.commit()
            yield _produced(scope, number)


async def _raw_story(scope: Any, receive: Any, send: Any) -> None:
    await _respond(send, _saved_tokens(scope))


async def _shielded_story(request: Request) -> Response:
    async def story() -> AsyncIterator[bytes]:
        async with connection(request).shield():
            async for token in _saved_tokens(request.scope):
                yield token

    return StreamingResponse(story())


async def _careless_story(request: Request) -> Response:
    return StreamingResponse(_saved_tokens(request.scope))


async def _saved(request: Request) -> Response:
    async with _database(request.path_params["run"]) as database:
        rows = await database.execute_fetchall("SELECT token FROM story ORDER BY token")
    return JSONResponse([token for (token,) in rows])


async def _left(request: Request) -> Response:
    serve.emit(run=request.path_params["run"], left=True)
    return PlainTextResponse("ok")


def _routed(name: str, endpoint: Any) -> Starlette:
    return Starlette(routes=[Route(f"/{name}/{{variant}}/{{run}}", endpoint)])


def _variants(app: Any) -> dict[str, Any]:
    return {
        "bare": app,
        "bare-behind": behind(app),
        **{f"cancel-{place}": put(cancelled, app) for place, put in PLACES.items()},
        **{f"mute-{place}": put(DisconnectMiddleware, app) for place, put in PLACES.items()},
    }


_APPS = {
    "raw": _raw,
    "stream": _routed("stream", _stream),
    "thread": _routed("thread", _thread),
    "answer": _routed("answer", _answer),
    "raw_story": _raw_story,
    "shielded_story": _routed("shielded_story", _shielded_story),
    "careless_story": _routed("careless_story", _careless_story),
}

serve.APPS.update(
    {(name, variant): app for name, played in _APPS.items() for variant, app in _variants(played).items()}
)
_others = {name: _routed(name, endpoint) for name, endpoint in (("saved", _saved), ("left", _left))}


async def app(scope: Any, receive: Any, send: Any) -> None:
    other = None if scope["type"] == "lifespan" else _others.get(scope["path"].split("/")[1])
    await (other or serve.app)(scope, receive, send)
