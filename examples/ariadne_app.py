"""ariadne: `uvicorn ariadne_app:app`. A subscription whose client has left is closed, and may await meanwhile."""

import asyncio

from disconnect_mw import DisconnectMiddleware

try:
    from ariadne import SubscriptionType, make_executable_schema
    from ariadne.asgi import GraphQL
    from ariadne.asgi.handlers import GraphQLTransportWSHandler
except ImportError:
    raise SystemExit("This example needs ariadne: pip install ariadne uvicorn websockets") from None

subscription = SubscriptionType()


@subscription.source("ticks")
async def source(_, info):
    try:
        while True:
            yield "tick"
            await asyncio.sleep(0.1)
    finally:
        await asyncio.sleep(0.1)
        print("the stream has stopped", flush=True)


@subscription.field("ticks")
def ticks(value, info):
    return value


schema = make_executable_schema("type Query { greeting: String } type Subscription { ticks: String! }", subscription)
# Around the app, and inside of Sentry, tracing and metrics.
app = DisconnectMiddleware(GraphQL(schema, websocket_handler=GraphQLTransportWSHandler()))
