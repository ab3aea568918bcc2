"""python-socketio: `uvicorn socketio_app:app`. A client that leaves comes to `disconnect()`, as without it.

Sentry, tracing and metrics go around this `app`.
"""

from disconnect_mw import DisconnectMiddleware

try:
    import socketio
    from endpoints.socketio import server
except ImportError:
    raise SystemExit("This example needs python-socketio: pip install python-socketio uvicorn websockets") from None

app = DisconnectMiddleware(socketio.ASGIApp(server))
