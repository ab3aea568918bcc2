"""The access log has one line per exchange where the server's own is off, 499 where no response had begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from .serving import PLAYED, Process

APP = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.access import AccessLog

async def fast(request):
    return PlainTextResponse("fast")

async def slow(request):
    print("a handler works", flush=True)
    await asyncio.sleep(0.2)
    return PlainTextResponse("slow")

async def stream(request):
    async def chunks():
        for _ in range(10000):
            yield "chunk"
            print("a chunk", flush=True)
            await asyncio.sleep(0.01)
    return StreamingResponse(chunks())

routes = [Route("/fast", fast), Route("/slow", slow), Route("/stream", stream)]
app = AccessLog(DisconnectMiddleware(Starlette(routes=routes)))
"""

# How each server's own access log is turned off. (gunicorn's is off unless --access-logfile turns it on.)
COMMANDS = {
    "uvicorn": "uvicorn --host 127.0.0.1 --port {port} --no-access-log served:app",
    "gunicorn": "gunicorn -b 127.0.0.1:{port} -k asgi served:app",
    "gunicorn with uvicorn's worker": "gunicorn -b 127.0.0.1:{port} -k uvicorn_worker.UvicornWorker served:app",
    "hypercorn": "hypercorn -b 127.0.0.1:{port} served:app",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} served:app",
    "daphne": "daphne -v 0 -b 127.0.0.1 -p {port} served:app",
}


@pytest.mark.parametrize("server", PLAYED)
def test_each_exchange_has_one_line(tmp_path: Path, server: str) -> None:
    (tmp_path / "served.py").write_text(APP)
    beginning = r'^127\.0\.0\.1 - - \[[^]]*\] "GET '
    with Process(COMMANDS[server], tmp_path) as process:
        assert process.get("/fast").endswith("fast")
        process.leave("/slow", "a handler works")
        process.until(beginning + r'/slow HTTP/1\.1" 499 0 \d+\.\d{3} "disconnected=before the response"$')
        process.leave("/stream", "a chunk")
        process.until(beginning + r'/stream HTTP/1\.1" 200 \d+ \d+\.\d{3} "disconnected=during the response"$')
        process.until(beginning + r'/fast HTTP/1\.1" 200 4 \d+\.\d{3} "-"$')
        process.stop()
    lines = [line for line in process.output.splitlines() if "HTTP/1.1" in line]
    assert len(lines) == 3, "\n".join(lines)
