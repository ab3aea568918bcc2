"""FastAPI: `fastapi run fastapi_app.py`."""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
except ImportError:
    raise SystemExit('This example needs FastAPI: pip install "fastapi[standard]"') from None

app = FastAPI()
# First, so that it stands inside of Sentry, tracing and metrics: what is added last stands outermost.
app.add_middleware(DisconnectMiddleware)


@app.post("/upload")
async def upload(request: Request) -> int:
    return len(await request.body())


async def ticks():
    try:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(ticks())
