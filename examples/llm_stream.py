"""A language model's answer that stops when its reader leaves.

    DISCONNECT_MW_LOG=info uvicorn llm_stream:app

The reader leaves after a second, and the model is free again at once:

    curl --no-buffer --max-time 1 http://127.0.0.1:8000/chat

        generating
        stopped after 18 tokens, the model is free
        INFO:     client disconnected: GET /chat from ..., during the response: ... and was cancelled
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

try:
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn") from None

from disconnect_mw import DisconnectMiddleware

app = FastAPI()
app.add_middleware(DisconnectMiddleware, policy_for={"/chat": "cancel"})

model = asyncio.Semaphore(1)  # which computes one answer at a time


async def generate() -> AsyncGenerator[str, None]:
    """What your engine, or its client, gives: one token after another."""
    tokens = 0
    async with model:
        print("generating", flush=True)
        try:
            while tokens < 10_000:
                await asyncio.sleep(0.05)
                tokens += 1
                yield f"token {tokens} "
        finally:
            print(f"stopped after {tokens} tokens, the model is free", flush=True)


@app.get("/chat")
async def chat() -> StreamingResponse:
    async def events() -> AsyncGenerator[str, None]:
        async with contextlib.aclosing(generate()) as tokens:  # closed now, not when its garbage is collected
            async for token in tokens:
                yield f"data: {token}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
