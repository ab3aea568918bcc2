"""P10: at most `max_orphans` apps of one install go on for nobody; where, and which."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from disconnect_mw import DisconnectMiddleware, connection
from disconnect_mw._connection import Connection
from disconnect_mw._orphans import Orphans

from .support.messages import ACCEPT, FINAL, START
from .support.records import ended, gone
from .support.serving import SECONDS, App, Until, on_asyncio, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


class Visits:
    """Clients that leave one after another, and apps that go on until all have left, or are cancelled."""

    def __init__(self, install: Any, kind: Any = http, before: Any = None) -> None:
        self.until = Until()
        self._kind = kind
        self._before = before
        self._app: Any = install(self._go_on)

    async def _go_on(self, scope: Any, receive: Any, send: Any) -> None:
        far = scope["far"]
        if scope["type"] == "websocket":
            await receive()
            await send(ACCEPT)
        far.leave()
        await gone(connection(scope))
        if self._before is not None:
            await self._before(scope, send)
        self.until.note(scope["number"])
        await self.until("over")

    async def play(self, count: int) -> list[str | None]:
        """How each app ended, in the order in which the clients left."""
        scopes = []
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for number in range(count):
                    far = self._kind()
                    scope = {**far.scope(), "far": far, "number": number}
                    tasks.start_soon(self._app, scope, far.receive, far.send)
                    await self.until(number)
                    await turns()
                    scopes.append(scope)
                self.until.note("over")
        return [ended(scope) for scope in scopes]


def test_one_more_costs_the_same_however_many_there_are() -> None:
    """P9."""

    class One:
        asked = 0

        def is_shielded(self) -> bool:
            One.asked += 1
            return False

        def end_orphan(self) -> None: ...

    orphans = Orphans(100)
    for _ in range(1000):
        orphans.add(One())
    assert One.asked == 900


@pytest.mark.parametrize("policy", ["mute", "finish"])
async def test_the_one_that_has_gone_on_longest_is_cancelled_when_one_more_would(policy: Any) -> None:
    visits = Visits(functools.partial(DisconnectMiddleware, policy=policy, max_orphans=2))
    assert await visits.play(4) == ["cancelled", "cancelled", "returned", "returned"]


async def test_under_a_grace_too() -> None:
    visits = Visits(functools.partial(DisconnectMiddleware, policy="cancel", grace=3600, max_orphans=1))
    assert await visits.play(2) == ["cancelled", "returned"]


async def test_on_websockets_too() -> None:
    visits = Visits(functools.partial(DisconnectMiddleware, websocket_policy="mute", max_orphans=1), kind=websocket)
    assert await visits.play(3) == ["cancelled", "cancelled", "returned"]


async def test_http_and_websocket_count_together() -> None:
    kinds = iter([http, websocket])
    visits = Visits(
        functools.partial(DisconnectMiddleware, websocket_policy="mute", max_orphans=1), kind=lambda: next(kinds)()
    )
    assert await visits.play(2) == ["cancelled", "returned"]


async def test_an_inner_installs_limit_counts_as_the_outer_ones() -> None:
    visits = Visits(lambda app: DisconnectMiddleware(DisconnectMiddleware(app, max_orphans=1)))
    assert await visits.play(2) == ["cancelled", "returned"]
    visits = Visits(lambda app: DisconnectMiddleware(DisconnectMiddleware(app), max_orphans=1))
    assert await visits.play(2) == ["cancelled", "returned"]


async def test_where_the_inner_install_joins_after_the_disconnect_its_limit_counts() -> None:
    """And the outer one's holds the exchange no more."""
    middleware: list[DisconnectMiddleware] = []

    def install(app: App) -> App:
        inner = DisconnectMiddleware(app, max_orphans=1)

        async def between(scope: Any, receive: Any, send: Any) -> None:
            scope["far"].leave()
            await gone(connection(scope))
            await inner(scope, receive, send)

        middleware.append(DisconnectMiddleware(between, policy="finish", max_orphans=9))
        return middleware[0]

    assert await Visits(install).play(3) == ["cancelled", "cancelled", "returned"]
    orphans = middleware[0]._options.orphans
    assert orphans is not None
    assert not orphans._orphans


async def test_under_mute_each_exchange_is_checked() -> None:
    """Else nobody would know of the departure of an app that does not receive."""
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        far.leave()
        with anyio.fail_after(SECONDS):
            while scope["disconnect_mw.connection"].disconnected is None:
                await anyio.sleep(0.001)

    await DisconnectMiddleware(app, max_orphans=1)(far.scope(), far.receive, far.send)


async def test_who_is_being_cancelled_does_not_count_while_he_cleans_up() -> None:
    """Else he would push out one that is to finish."""
    until = Until()
    policies: Any = iter(["finish", "cancel", "cancel"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope["far"].leave()
        try:
            await until("over")
        finally:
            until.note(scope["number"])
            with anyio.CancelScope(shield=True):
                await until("over")

    middleware: Any = DisconnectMiddleware(app, policy_for=lambda scope: next(policies), max_orphans=1)
    scopes = []
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                far = http()
                scope = {**far.scope(), "far": far, "number": number}
                scopes.append(scope)
                tasks.start_soon(middleware, scope, far.receive, far.send)
                if number == 0:
                    await anyio.sleep(0.05)  # it goes on; whether it does still is told in the end
                else:
                    await until(number)
            until.note("over")
    assert [ended(scope) for scope in scopes] == ["returned", "cancelled", "cancelled"]


async def test_two_installs_side_by_side_count_for_themselves() -> None:
    apps: list[App] = []

    def install(app: App) -> App:
        apps.extend(DisconnectMiddleware(app, max_orphans=1) for _ in range(2))

        async def choose(scope: Any, receive: Any, send: Any) -> None:
            await apps[scope["number"]](scope, receive, send)

        return choose

    assert await Visits(install).play(2) == ["returned", "returned"]


async def test_who_has_sent_the_last_message_goes_on_for_somebody() -> None:
    """P3: a background task, say."""

    async def complete(scope: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    visits = Visits(functools.partial(DisconnectMiddleware, max_orphans=1), before=complete)
    assert await visits.play(3) == ["returned"] * 3


async def test_nor_does_he_count_where_the_inner_install_joins_after_it() -> None:
    def install(app: App) -> App:
        inner = DisconnectMiddleware(app, max_orphans=1)

        async def between(scope: Any, receive: Any, send: Any) -> None:
            scope["far"].leave()
            await gone(connection(scope))
            if scope["number"] == 1:
                await send(START)
                await send(FINAL)
            await inner(scope, receive, send)

        return DisconnectMiddleware(between, policy="finish")

    assert await Visits(install).play(2) == ["returned"] * 2


async def test_nor_does_he_count_while_he_saves_in_a_shielded_block() -> None:
    async def complete(scope: Any, send: Any) -> None:
        if scope["number"] == 0:
            await send(START)
            await send(FINAL)
            async with connection(scope).shield():
                visits.until.note(0)
                await visits.until("over")

    visits = Visits(functools.partial(DisconnectMiddleware, max_orphans=1), before=complete)
    assert await visits.play(2) == ["returned"] * 2


async def test_who_has_ended_makes_room() -> None:
    app = DisconnectMiddleware(lambda *arguments: None, max_orphans=1)
    orphans: Any = app._options.orphans
    ends = []
    for _ in range(3):
        far = http()

        async def leave(scope: Any, receive: Any, send: Any) -> None:
            far.leave()
            await gone(connection(scope))
            assert len(orphans._orphans) == 1

        app._app = leave
        scope = far.scope()
        await app(scope, far.receive, far.send)
        ends.append(ended(scope))
    assert (ends, orphans._orphans) == (["returned"] * 3, {})


async def test_where_all_are_shielded_none_is_cancelled() -> None:
    until = Until()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with connection(scope).shield():
            scope["far"].leave()
            await gone(connection(scope))
            until.note(scope["number"])
            await until("over")
        ends.append("saved")

    ends: list[str] = []
    middleware = DisconnectMiddleware(app, max_orphans=1)
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                far = http()
                tasks.start_soon(middleware, {**far.scope(), "far": far, "number": number}, far.receive, far.send)
                await until(number)
            until.note("over")
    assert ends == ["saved"] * 3


@on_asyncio
async def test_one_on_the_event_loop_of_another_thread_is_cancelled_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app per thread, one process."""
    scopes: list[Any] = []
    threads: dict[str, int] = {}
    entered = anyio.Event()
    loop = asyncio.get_running_loop()
    cancel_app = Connection.cancel_app

    def noting_thread(self: Connection) -> None:
        threads["cancels"] = threading.get_ident()
        cancel_app(self)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["far"].leave()
        await gone(connection(scope))
        if scope["number"] == 0:
            threads["runs"] = threading.get_ident()
            loop.call_soon_threadsafe(entered.set)
            await asyncio.sleep(SECONDS)

    monkeypatch.setattr(Connection, "cancel_app", noting_thread)
    middleware = DisconnectMiddleware(app, max_orphans=1)

    async def visit(number: int) -> None:
        far = http()
        scopes.append({**far.scope(), "far": far, "number": number})
        await middleware(scopes[-1], far.receive, far.send)

    run_in_thread = functools.partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_in_thread, lambda: asyncio.run(visit(0)))
            await entered.wait()
            await visit(1)
    assert [ended(scope) for scope in scopes] == ["cancelled", "returned"]
    assert threads["cancels"] == threads["runs"]
