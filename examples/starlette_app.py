"""Starlette: `uvicorn starlette_app:app`. Listed last it stands inside of Sentry, tracing and metrics, as it should."""

from disconnect_mw import DisconnectMiddleware

try:
    from endpoints.starlette import routes
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
except ImportError:
    raise SystemExit("This example needs Starlette: pip install starlette uvicorn") from None

app = Starlette(routes=routes, middleware=[Middleware(DisconnectMiddleware)])
