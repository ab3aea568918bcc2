"""strawberry: a subscription over graphql-transport-ws."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import strawberry  # type: ignore[import-not-found]  # it is not installed here
from strawberry.asgi import GraphQL  # type: ignore[import-not-found]  # it is not installed here

from .work import Work, app, play

__all__ = ["app"]


@strawberry.type
class Query:
    greeting: str = "hello"


@strawberry.type
class Subscription:
    @strawberry.subscription  # type: ignore[untyped-decorator]  # it is not installed here
    async def ticks(self) -> AsyncGenerator[str, None]:
        async with Work() as tick:
            while await tick():
                yield "tick"


play(GraphQL(strawberry.Schema(query=Query, subscription=Subscription)), "ws_both", "bug_ws")
