"""strawberry: `uvicorn strawberry_app:app`. A subscription whose client has left is closed, and may await meanwhile.

Sentry, tracing and metrics go around this `app`.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from endpoints.strawberry import schema
    from strawberry.asgi import GraphQL
except ImportError:
    raise SystemExit("This example needs strawberry: pip install strawberry-graphql uvicorn websockets") from None

app = DisconnectMiddleware(GraphQL(schema))
