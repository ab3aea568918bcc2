"""ariadne: a subscription over graphql-transport-ws."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ariadne import SubscriptionType, make_executable_schema  # type: ignore[import-not-found]  # it is not installed here
from ariadne.asgi import GraphQL  # type: ignore[import-not-found]  # it is not installed here
from ariadne.asgi.handlers import GraphQLTransportWSHandler  # type: ignore[import-not-found]  # it is not installed here

from .work import Work, app, lasting, play

__all__ = ["app"]

subscription = SubscriptionType()


@subscription.source("ticks")  # type: ignore[untyped-decorator]  # it is not installed here
async def ticks(_: Any, info: Any) -> AsyncIterator[str]:
    async with Work() as tick:
        while await tick():
            yield "tick"


@subscription.field("ticks")  # type: ignore[untyped-decorator]  # it is not installed here
def tick(value: str, info: Any) -> str:
    return value


schema = make_executable_schema(
    "type Query { greeting: String } type Subscription { ticks: String! }",
    subscription,
)
lasting("ariadne")  # its time-out of a connection's init, 60 s
play(GraphQL(schema, websocket_handler=GraphQLTransportWSHandler()), "ws_both", "bug_ws")
