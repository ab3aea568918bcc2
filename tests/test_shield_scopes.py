"""P12: once the client has left, the cancel scopes of anyio and trio do not reach into `shield()`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from disconnect_mw import ClientConnection, DisconnectMiddleware, connection

from .support.apps import leaves_generators
from .support.records import ended, gone
from .support.serving import SECONDS, App, Until, call, on_asyncio, serve, turns
from .support.simulated_server import http

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


async def in_coroutine(client: ClientConnection, commit: Callable[[], Any]) -> None:
    async with client.shield():
        await commit()


async def in_exit_stack(client: ClientConnection, commit: Callable[[], Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(client.shield())
        await commit()


async def in_nested_blocks(client: ClientConnection, commit: Callable[[], Any]) -> None:
    async with client.shield(), client.shield():
        await commit()


async def in_coroutine_of_generator(client: ClientConnection, commit: Callable[[], Any]) -> None:
    async def rows() -> AsyncIterator[None]:
        await in_coroutine(client, commit)
        yield

    async for _ in rows():
        pass


async def in_generator(client: ClientConnection, commit: Callable[[], Any]) -> None:
    async def rows() -> AsyncIterator[None]:
        async with client.shield():
            await commit()
            yield

    async for _ in rows():
        pass


async def in_exit_stack_of_generator(client: ClientConnection, commit: Callable[[], Any]) -> None:
    async def rows() -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(client.shield())
            await commit()
            yield

    async for _ in rows():
        pass


async def in_context_manager(client: ClientConnection, commit: Callable[[], Any]) -> None:
    @contextlib.asynccontextmanager
    async def unit_of_work() -> AsyncIterator[None]:
        async with client.shield():
            yield

    async with unit_of_work():
        await commit()


async def in_generator_by_hand(client: ClientConnection, commit: Callable[[], Any]) -> None:
    """What the docs give for a generator's own frame."""

    async def rows() -> AsyncIterator[None]:
        with anyio.CancelScope(shield=True):
            await commit()
        yield

    async for _ in rows():
        pass


REACHED_BY_NO_SCOPE = [
    in_coroutine,
    in_exit_stack,
    in_nested_blocks,
    in_coroutine_of_generator,
    in_generator_by_hand,
]
REACHED = [in_generator, in_exit_stack_of_generator, in_context_manager]


def of_a_group(
    place: Callable[[ClientConnection, Callable[[], Any]], Any], until: Until, far: Any, leaves: bool = True
) -> App:
    """An app whose task group cancels the block in `place`, as a framework's does whose listener was told."""

    async def commit() -> None:
        until.note("in the block")
        await until("cancelled")
        await turns(10)
        until.note("committed")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(place, client, commit)
            await until("in the block")
            if leaves:
                far.leave()
                await gone(client)
            tasks.cancel_scope.cancel()
            until.note("cancelled")

    return app


@pytest.mark.parametrize("installs", [1, 2])
@pytest.mark.parametrize("policy", ["mute", "finish", "raise"])
@pytest.mark.parametrize("place", REACHED_BY_NO_SCOPE)
async def test_a_groups_cancel_scope_does_not_reach_into_a_block(place: Any, policy: Any, installs: int) -> None:
    far = http()
    until = Until()
    app = of_a_group(place, until, far)
    for _ in range(installs):
        app = DisconnectMiddleware(app, policy=policy)
    await call(app, far)
    assert until.happened == ["in the block", "cancelled", "committed"]


@leaves_generators
@pytest.mark.parametrize("place", REACHED)
async def test_it_does_where_the_block_may_span_a_yield(place: Any) -> None:
    """No cancel scope can be there."""
    far = http()
    until = Until()
    await serve(of_a_group(place, until, far), far)
    assert until.happened == ["in the block", "cancelled"]


@pytest.mark.parametrize("place", [in_coroutine, in_exit_stack])
async def test_it_does_while_the_client_is_there(place: Any) -> None:
    """P0."""
    far = http()
    until = Until()
    await serve(of_a_group(place, until, far, leaves=False), far)
    assert until.happened == ["in the block", "cancelled"]


async def test_a_block_that_begins_after_the_disconnect_is_not_reached_either() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        with anyio.CancelScope() as frameworks:
            far.leave()
            await gone(client)
            async with client.shield():
                frameworks.cancel()
                await turns(10)
                steps.append("committed")
            await turns()
            steps.append("after the block")

    await serve(app, far)
    assert steps == ["committed"]


async def test_after_the_block_the_scope_is_cancelled_as_before() -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        with anyio.CancelScope() as frameworks:
            async with client.shield():
                far.leave()
                await gone(client)
                frameworks.cancel()
                await turns(10)
                steps.append("committed")
            await anyio.sleep_forever()
        assert frameworks.cancelled_caught
        return "done"

    assert await serve(app, far) == "done"
    assert steps == ["committed"]


async def test_a_scope_within_the_block_is_the_apps_own() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            with anyio.move_on_after(0.005) as own:
                await anyio.sleep_forever()
        assert own.cancelled_caught
        return "done"

    assert await serve(app, far) == "done"


async def test_what_the_block_raises_passes_through_its_scope() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        async with client.shield():
            far.leave()
            await gone(client)
            raise LookupError("of the app's own")

    with pytest.raises(LookupError, match="of the app's own"):
        await serve(app, far)


@on_asyncio
async def test_a_cancellation_while_a_late_block_begins_passes_and_leaves_no_block_behind() -> None:
    """P6."""
    far = http()
    steps: list[str] = []
    known: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        known.append(client._found)
        far.leave()
        await gone(client)
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            async with client.shield():
                steps.append("in the block")
        finally:
            steps.append(f"{len(known[0].root.require_cancellation().blocks)} blocks")

    task = asyncio.create_task(DisconnectMiddleware(app)(far.scope(), far.receive, far.send))
    await asyncio.wait({task}, timeout=SECONDS)
    assert (task.cancelled(), steps) == (True, ["0 blocks"])


@on_asyncio
async def test_without_anyio_there_are_no_scopes_and_ours_is_held_off_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, "anyio")
            block = client.shield()
            await block.__aenter__()
        assert block._blocks[0].scope is None
        far.leave()
        await gone(client)
        await asyncio.sleep(0.005)
        steps.append("committed")
        await block.__aexit__(None, None, None)
        steps.append("after the block")

    await serve(app, far, policy="cancel")
    assert steps == ["committed"]


# On another event loop


async def test_on_another_event_loop_it_is_refused() -> None:
    far = http()

    async def elsewhere(client: ClientConnection) -> None:
        with pytest.raises(RuntimeError, match=r"^shield\(\) must be entered on the event loop of the exchange"):
            async with client.shield():
                pass

    async def app(scope: Any, receive: Any, send: Any) -> str:
        client = connection(scope)
        await anyio.to_thread.run_sync(anyio.run, elsewhere, client)
        await anyio.to_thread.run_sync(lambda: anyio.run(elsewhere, client, backend="trio"))
        with pytest.raises(RuntimeError, match=r"^shield\(\) must be entered on the event loop of the exchange"):
            await anyio.to_thread.run_sync(client.shield().__aenter__().send, None)
        return "refused"

    assert await serve(app, far, policy="cancel") == "refused"


async def test_a_generator_that_another_task_closes_ends_its_block() -> None:
    """As the garbage collector's does: what the block held off comes."""
    far = http()

    async def rows(client: ClientConnection) -> AsyncIterator[int]:
        async with client.shield():
            yield 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        client = connection(scope)
        generator: Any = rows(client)
        left = anyio.Event()

        async def close() -> None:
            await left.wait()
            await generator.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            assert await anext(generator) == 1
            far.leave()
            await gone(client)
            left.set()
        await anyio.sleep_forever()

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


@pytest.mark.parametrize("blocks", [1, 2])
async def test_a_clean_up_goes_on_after_its_block_to_its_next_await(blocks: int) -> None:
    """Nothing was held off by a block that begins in the clean-up: its end lets no second cancellation in."""
    far = http()
    steps: list[str] = []

    async def endpoint(request: Request) -> Response:
        try:
            far.leave()
            await anyio.sleep_forever()
        finally:
            for _ in range(blocks):
                async with connection(request).shield():
                    await anyio.sleep(0.01)
                    steps.append("released")
            steps.append("went on")
        raise AssertionError

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    await serve(app, far, policy="cancel")
    assert steps == [*["released"] * blocks, "went on"]
