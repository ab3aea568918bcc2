"""A feed over WebSocket that only sends, and unsubscribes when its reader leaves.

    DISCONNECT_MW_LOG=info uvicorn websocket_feed:app

A client that takes one message and leaves, without a word:

    python -c "from websockets.sync.client import connect; print(connect('ws://127.0.0.1:8000/feed').recv())"

        {"price":...}
        1 reader
        0 readers
        INFO:     client disconnected: WEBSOCKET /feed from ..., while open: ... and raised ...
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

try:
    from fastapi import FastAPI, WebSocket
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn websockets") from None

from disconnect_mw import DisconnectMiddleware

readers: set[asyncio.Queue[float]] = set()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async def publish() -> None:
        while True:
            await asyncio.sleep(0.1)
            for reader in readers:
                reader.put_nowait(random.uniform(90, 110))

    publishing = asyncio.create_task(publish())
    yield
    publishing.cancel()


app = FastAPI(lifespan=lifespan)
app.add_middleware(DisconnectMiddleware)


@app.websocket("/feed")
async def feed(websocket: WebSocket) -> None:
    await websocket.accept()
    prices: asyncio.Queue[float] = asyncio.Queue()
    readers.add(prices)
    print(f"{len(readers)} reader", flush=True)
    try:
        while True:
            # When the reader has left, this raises, on every server; nothing here asks for it.
            await websocket.send_json({"price": await prices.get()})
    finally:
        readers.remove(prices)
        print(f"{len(readers)} readers", flush=True)
