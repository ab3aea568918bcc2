"""Litestar: `litestar --app litestar_app:app run`. Listed last it stands inside of Sentry, tracing and metrics.

Litestar logs what comes out of a handler before any middleware can act, where it is told to log exceptions: `install()`
has its logger drop what tells of nothing but a client that has left. Its own way,
`LoggingConfig(disable_stack_trace={WebSocketDisconnect})`, knows neither a cut body nor a task group.
"""

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from endpoints.litestar import handlers, logging
    from litestar import Litestar
    from litestar.middleware import DefineMiddleware
except ImportError:
    raise SystemExit("This example needs Litestar: pip install litestar uvicorn") from None

app = Litestar(handlers, middleware=[DefineMiddleware(DisconnectMiddleware)], logging_config=logging)
install()
