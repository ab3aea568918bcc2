"""Flask in a2wsgi: `uvicorn flask_app:app`.

Its thread cannot be cancelled, under no policy: ask `connected` between two steps of long work.
"""

import time

from disconnect_mw import DisconnectMiddleware, connection

try:
    from a2wsgi import WSGIMiddleware
    from flask import Flask, request
except ImportError:
    raise SystemExit("This example needs Flask and a2wsgi: pip install flask a2wsgi uvicorn") from None

flask = Flask(__name__)


@flask.post("/upload")
def upload():
    return f"{len(request.get_data())} bytes\n"


@flask.get("/stream")
def stream():
    client = connection(request.environ["asgi.scope"])

    def ticks():
        while client.connected:
            yield "tick\n"
            time.sleep(0.1)
        print("the stream has stopped", flush=True)

    return ticks()


# Whatever its policy, it asks for the disconnect where there is a hook, a `grace`, or a policy other than `mute`.
app = DisconnectMiddleware(WSGIMiddleware(flask), policy="finish")
