"""A WSGI app of Flask. Its thread cannot be cancelled: it asks `connected` between two steps."""

import time

from flask import Flask, request

from disconnect_mw import connection

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
