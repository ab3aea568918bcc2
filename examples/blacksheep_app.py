"""BlackSheep: `granian --interface asgi blacksheep_app:app`. Sentry, tracing and metrics go around this `app`.

Its streams and server-sent events never receive: under `mute` they would go on for ever, so `cancel` stops them. It
logs what comes out of a handler before any middleware can act: `install()` has its loggers drop what tells of nothing
but a client that has left. Its own way is an `exception_handler` for `MessageAborted`, which knows no WebSocket.
"""

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from endpoints.blacksheep import application
except ImportError:
    raise SystemExit("This example needs BlackSheep: pip install blacksheep granian") from None

app = DisconnectMiddleware(application, policy="cancel")
install()
