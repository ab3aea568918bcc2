"""A schema of strawberry, with a subscription."""

import asyncio
from collections.abc import AsyncGenerator

import strawberry


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


schema = strawberry.Schema(query=Query, subscription=Subscription)
