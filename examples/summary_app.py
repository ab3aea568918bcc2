"""An app with the bill: `uvicorn summary_app:app`. At /departures/ at any time, and on stderr when it shuts down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe import summary

try:
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn") from None

app = FastAPI()
app.add_middleware(DisconnectMiddleware)
app.add_middleware(summary.Summary)
app.mount("/departures", summary.app)


@app.get("/report/{seconds}")
async def report(seconds: float) -> str:
    print("a report begins", flush=True)
    await asyncio.sleep(seconds)
    return "reported"


@app.get("/story")
async def story() -> StreamingResponse:
    async def words() -> AsyncIterator[str]:
        while True:
            yield "once upon a time "
            print("a word", flush=True)
            await asyncio.sleep(0.01)

    return StreamingResponse(words())
