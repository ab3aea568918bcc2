"""An agent's run that finishes and is saved, though the page that showed its steps was closed.

    DISCONNECT_MW_LOG=info uvicorn agent_run:app

The reader leaves during the first step. The run goes on to its end, and is saved:

    curl --no-buffer --max-time 1 --request POST http://127.0.0.1:8000/runs/tidy

        step 1
        step 5
        saved tidy
        INFO:     client disconnected: POST /runs/tidy from ..., during the response: ... and returned

    curl http://127.0.0.1:8000/runs/tidy

        ["step 1","step 2","step 3","step 4","step 5"]
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator

try:
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import StreamingResponse
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn") from None

from disconnect_mw import DisconnectMiddleware

app = FastAPI()
# At most 100 runs without a reader, and none for longer than ten minutes.
app.add_middleware(DisconnectMiddleware, policy_for={"/runs/*": "finish"}, grace=600, max_orphans=100)

database = sqlite3.connect("runs.sqlite3", check_same_thread=False)
database.execute("CREATE TABLE IF NOT EXISTS runs (name TEXT PRIMARY KEY, steps TEXT)")


@app.post("/runs/{name}")
async def start(name: str) -> StreamingResponse:
    async def steps() -> AsyncIterator[str]:
        done: list[str] = []
        for number in range(1, 6):
            print(f"step {number}", flush=True)
            yield f"data: step {number}\n\n"
            await asyncio.sleep(0.5)  # a call of a model, or of a tool
            done.append(f"step {number}")
        with database:
            database.execute("REPLACE INTO runs VALUES (?, ?)", (name, json.dumps(done)))
        print(f"saved {name}", flush=True)

    return StreamingResponse(steps(), media_type="text/event-stream")


@app.get("/runs/{name}")
async def read(name: str) -> list[str]:
    found = database.execute("SELECT steps FROM runs WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise HTTPException(404)
    steps: list[str] = json.loads(found[0])
    return steps
