"""Work of our own, in a thread, that ends when its client leaves: `uvicorn stop_thread:app`, GET /jobs/1000."""

from __future__ import annotations

import threading

from disconnect_mw import DisconnectMiddleware

try:
    from fastapi import FastAPI, Response

    from disconnect_mw.fastapi import Client
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn") from None

app = FastAPI()
app.add_middleware(DisconnectMiddleware)


@app.get("/jobs/{steps}")
def work(steps: int, client: Client) -> Response:
    has_left = threading.Event()
    with client.on_disconnect(has_left.set):
        print("working", flush=True)
        for step in range(steps):
            if has_left.wait(0.01):  # a step of the work; client.connected is the same for work that does not wait
                print(f"stopped after {step} steps", flush=True)
                return Response(status_code=499)
    return Response("worked")
