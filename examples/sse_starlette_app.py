"""sse-starlette: `hypercorn sse_starlette_app:app`. Listed last it stands inside of Sentry, tracing and metrics.

Its own listener ends a stream, and cancels each `await` of the clean-up: shield these by `anyio.CancelScope`.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from endpoints.sse_starlette import routes
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
except ImportError:
    raise SystemExit("This example needs sse-starlette: pip install sse-starlette starlette hypercorn") from None

app = Starlette(routes=routes, middleware=[Middleware(DisconnectMiddleware)])
