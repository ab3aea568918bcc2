"""python-socketio: `uvicorn socketio_app:app`. Sentry, tracing and metrics go around this `app`.

A client that leaves comes to `disconnect()`, as without it. Over long polling Engine.IO takes a cut POST for a whole
one, and logs what it cannot read of it: `install()` has its logger drop that.
"""

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    import socketio
    from endpoints.socketio import server
except ImportError:
    raise SystemExit("This example needs python-socketio: pip install python-socketio uvicorn websockets") from None

app = DisconnectMiddleware(socketio.ASGIApp(server))
install()
