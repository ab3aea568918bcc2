"""The places in which an app can wait when it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio

from .serving import SECONDS, shielded, turns


async def in_a_child_task() -> None:
    await asyncio.create_task(asyncio.sleep(2 * SECONDS))


async def in_many() -> None:
    await asyncio.gather(asyncio.sleep(2 * SECONDS), in_a_child_task())


async def in_many_of_which_one_has_ended() -> None:
    """asyncio makes a bare CancelledError of it, which nothing connects with the one that caused it."""
    await asyncio.gather(asyncio.sleep(2 * SECONDS), asyncio.sleep(0), return_exceptions=True)


async def in_time() -> None:
    await asyncio.wait_for(asyncio.sleep(2 * SECONDS), 2 * SECONDS)


async def in_a_queue() -> None:
    await asyncio.Queue[None]().get()


async def in_a_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def in_turns() -> None:
    while True:
        await asyncio.sleep(0)


async def in_a_generator() -> None:
    async def steps() -> AsyncIterator[None]:
        try:
            yield
            await anyio.sleep_forever()
        finally:
            with shielded():
                await turns()

    async with contextlib.aclosing(steps()) as these:  # type: ignore[type-var]  # it is a generator
        async for _ in these:
            pass


async def in_a_context_manager() -> None:
    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        try:
            yield
        finally:
            with shielded():
                await anyio.sleep(0.002)

    async with connected(), connected():
        await anyio.sleep_forever()


async def slowly() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.005)


async def in_a_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slowly)


async def in_nested_groups() -> None:
    async with anyio.create_task_group(), anyio.create_task_group() as tasks:
        tasks.start_soon(in_a_group)
        await slowly()


async def in_a_scope() -> None:
    with anyio.move_on_after(2 * SECONDS), anyio.fail_after(2 * SECONDS):
        await anyio.sleep_forever()


async def in_a_stream() -> None:
    send_stream, receive_stream = anyio.create_memory_object_stream[None]()
    async with send_stream, receive_stream:
        await receive_stream.receive()


async def in_asyncios_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(slowly())
        tasks.create_task(in_many())


async def in_asyncios_timeout() -> None:
    async with asyncio.timeout(2 * SECONDS), asyncio.timeout(None):
        await slowly()


PORTABLE_WAITS: list[Any] = [
    anyio.sleep_forever,
    in_a_generator,
    in_a_context_manager,
    slowly,
    in_a_group,
    in_nested_groups,
    in_a_scope,
    in_a_stream,
]
ASYNCIO_WAITS: list[Any] = [
    in_a_child_task,
    in_many,
    in_many_of_which_one_has_ended,
    in_time,
    in_a_queue,
    in_a_condition,
    in_turns,
    in_asyncios_group,
    in_asyncios_timeout,
]
