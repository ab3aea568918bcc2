"""strawberry: `uvicorn strawberry_app:app`. A subscription whose client has left is closed, and may await meanwhile."""

import asyncio
from collections.abc import AsyncGenerator

from disconnect_mw import DisconnectMiddleware

try:
    import strawberry
    from strawberry.asgi import GraphQL
except ImportError:
    raise SystemExit("This example needs strawberry: pip install strawberry-graphql uvicorn websockets") from None


@strawberry.type
class Query:
    greeting: str = "hello"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def ticks(self) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "tick"
                await asyncio.sleep(0.1)
        finally:
            await asyncio.sleep(0.1)
            print("the stream has stopped", flush=True)


# Around the app, and inside of Sentry, tracing and metrics.
app = DisconnectMiddleware(GraphQL(strawberry.Schema(query=Query, subscription=Subscription)))
