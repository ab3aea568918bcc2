"""A schema of ariadne, with a subscription."""

import asyncio

from ariadne import SubscriptionType, make_executable_schema

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
