"""ariadne: `uvicorn ariadne_app:app`. A subscription whose client has left is closed, and may await meanwhile.

Sentry, tracing and metrics go around this `app`.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from ariadne.asgi import GraphQL
    from ariadne.asgi.handlers import GraphQLTransportWSHandler
    from endpoints.ariadne import schema
except ImportError:
    raise SystemExit("This example needs ariadne: pip install ariadne uvicorn websockets") from None

app = DisconnectMiddleware(GraphQL(schema, websocket_handler=GraphQLTransportWSHandler()))
