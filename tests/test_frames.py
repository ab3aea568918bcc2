"""What a suspended task awaits, and the scopes that it is in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from disconnect_mw._frames import chain, ending_scopes, family, frame_of, is_of_module

from .support.serving import SECONDS, on_asyncio, turns


class CompiledGenerator:
    ag_await = None


def test_a_compiled_generator_has_no_frame_and_belongs_to_no_package() -> None:
    """BlackSheep's streams are such generators: the search for a2wsgi failed in them, and no cancellation came."""
    generator = CompiledGenerator()
    assert [*chain(generator)] == [generator]
    assert frame_of(generator) is None
    assert not is_of_module("a2wsgi", generator)


@pytest.mark.anyio
@on_asyncio
async def test_a_class_of_another_s_with_such_a_name_is_no_scope() -> None:
    class TaskGroup:
        _tasks = _aborting = True

    class Timeout:
        _state = None

    async def app() -> None:
        held = TaskGroup(), Timeout()
        first, second = held
        await asyncio.sleep(3600)
        del first, second

    task = asyncio.ensure_future(app())
    await turns()
    assert (ending_scopes(task), family(task.get_coro())[0]) == ([], [])
    task.cancel()


class Group(asyncio.TaskGroup):
    """An app's own."""


class Stack(contextlib.AsyncExitStack):
    """An app's own."""


class CleansUp:
    """Enters a scope, which ends at once, and cleans up in it until it may go."""

    def __init__(self) -> None:
        self.scope: Any = None
        self.may_go = asyncio.Event()

    async def _clean_up(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await self.may_go.wait()

    async def timeout(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0) as self.scope:
                await self._clean_up()

    async def group(self, kind: type[asyncio.TaskGroup] = asyncio.TaskGroup) -> None:
        with contextlib.suppress(BaseExceptionGroup):
            async with kind() as self.scope:
                self._fill()

    async def group_of_its_own(self) -> None:
        await self.group(Group)

    async def stack_of_its_own(self) -> None:
        with contextlib.suppress(BaseExceptionGroup):
            async with Stack() as stack:
                self.scope = await stack.enter_async_context(Group())
                self._fill()
                await self._clean_up()

    def _fill(self) -> None:
        async def fail() -> None:
            raise LookupError

        self.scope.create_task(self._clean_up())
        self.scope.create_task(fail())

    async def cancel_scope(self) -> None:
        with anyio.CancelScope() as self.scope:
            self.scope.cancel()
            await self._clean_up()


@pytest.mark.anyio
@on_asyncio
@pytest.mark.parametrize(
    "enters",
    [
        CleansUp.timeout,
        CleansUp.group,
        CleansUp.group_of_its_own,
        CleansUp.stack_of_its_own,
        CleansUp.cancel_scope,
    ],
)
async def test_a_scope_that_ends_is_of_the_task_that_has_entered_it(enters: Callable[[CleansUp], Any]) -> None:
    async def holds(scope: Any) -> None:
        await cleans_up.may_go.wait()

    cleans_up = CleansUp()
    inside = asyncio.ensure_future(enters(cleans_up))
    await turns()
    outside = asyncio.ensure_future(holds(cleans_up.scope))
    await turns()
    found = ending_scopes(inside), ending_scopes(outside)
    cleans_up.may_go.set()
    with anyio.fail_after(SECONDS):
        await asyncio.gather(inside, outside)
    assert found == ([cleans_up.scope], [])
