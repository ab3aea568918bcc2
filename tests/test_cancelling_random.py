"""P6: `policy="cancel"` ends an app as its own `asyncio.timeout` would, whatever it has open when its client leaves.

Programs of scopes, time-outs, groups, shields and generators are made at random, from a seed. Each runs twice on a
clock of its own: bare, cancelled from outside by hand, and in the middleware, whose client leaves at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import anyio
import pytest

from disconnect_mw import DisconnectMiddleware, _reader
from disconnect_mw._backends import _asyncio

from .support.messages import DISCONNECT, REQUEST
from .support.silent_server import http_scope

IS_FULL = bool(os.environ.get("TESTS_FULL"))

SEED = 11
PARTS = 20
PROGRAMS_A_PART = 500 if IS_FULL else 30

SECONDS_AT_MOST = 500
"""On the loop's clock."""

NEVER = 400.0

CANCELLED_BY_ITS_OWN = "cancelled by its own"
"""A TaskGroup of 3.11 and 3.12 that has failed leaves a cancellation behind, for which anyio lets its own come out."""


TURNS_AT_MOST = 100
"""In one moment. anyio cancels once a turn what it has to wait for in a shield."""


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: the clock goes on to where the loop would have waited."""

    now = 0.0
    turns = 0
    loop: Loop

    def select(self, timeout: float | None = None) -> Any:
        self.turns = 0 if timeout else self.turns + 1
        if self.turns > TURNS_AT_MOST:
            self.turns, timeout = 0, self.loop.seconds_to_timer()
        assert timeout is not None, "the program waits for ever"
        self.now += timeout
        assert self.now < SECONDS_AT_MOST, "the program does not end"
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, which never waits."""

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        self._clock = _Selector()
        self._clock.loop = self
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def seconds_to_timer(self) -> float | None:
        return max(0, self._scheduled[0].when() - self.time()) if self._scheduled else None


# Programs: trees of tuples

Program = tuple[Any, ...]


def block(chance: random.Random, depth: int) -> list[Program]:
    return [step(chance, depth) for _ in range(chance.randint(1, 2))]


def step(chance: random.Random, depth: int) -> Program:
    if depth == 0 or chance.random() < 0.15:
        return ("raise",) if chance.random() < 0.06 else ("sleep", seconds(chance))
    kind = chance.choice(
        ["timeout", "wait_for", "move_on_after", "fail_after", "group", "anyio_group", "shield", "finally", "generator"]
    )
    inner = block(chance, depth - 1)
    if kind in ("timeout", "wait_for", "move_on_after", "fail_after"):
        return kind, seconds(chance), inner
    if kind in ("group", "anyio_group"):
        children = [block(chance, depth - 1) for _ in range(chance.randint(1, 2))]
        return kind, children, chance.choice([None, seconds(chance)]), inner
    if kind == "finally":
        return kind, inner, [("sleep", seconds(chance)) for _ in range(chance.randint(1, 2))]
    return kind, inner


def seconds(chance: random.Random) -> float:
    """Nearly never the same twice: of two timers that end at once either may come first."""
    return chance.uniform(0, 4)


Outcome = tuple[list[tuple[float, str]], str]


class Run:
    """One run of a program: what it did, and which of its own scopes are ending what runs in them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.trace: list[tuple[str, float]] = []
        self._loop = loop
        self._open: list[Callable[[], bool]] = []  # of the app's own task
        self.task: Any = None
        self.has_ended = False

    async def run(self, program: list[Program]) -> None:
        self.task = asyncio.current_task()
        try:
            await self.run_block(program)
            self.has_ended = True
        except Exception:
            self.has_ended = True
            raise

    async def settle(self) -> None:
        """Wait for the tasks that a `wait_for` of 3.11 leaves when it is cancelled while it waits for its own."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    def outcome(self, has_cancelled: bool) -> Outcome:
        if not self.has_ended:
            return self.story(), "cancelled" if has_cancelled else CANCELLED_BY_ITS_OWN
        return self.story(), repr((not self.task.cancelled() and self.task.exception()) or "returned")

    def is_ending(self) -> bool:
        return any(is_ending() for is_ending in self._open)

    def note(self, what: str) -> None:
        self.trace.append((what, round(self._loop.time(), 2)))

    def story(self) -> list[tuple[float, str]]:
        """What it did. In which order the tasks of one group are cancelled, in one moment, is left to chance."""
        return sorted((seconds, what) for what, seconds in self.trace)

    @contextlib.contextmanager
    def opened(self, is_ending: Callable[[], bool]) -> Any:
        if asyncio.current_task() is not self.task:
            yield
            return
        self._open.append(is_ending)
        try:
            yield
        finally:
            self._open.remove(is_ending)

    async def run_block(self, steps: list[Program]) -> None:
        for one in steps:
            name = one[0]
            self.note(f"{name} begins")
            try:
                await getattr(self, f"_{name}")(*one[1:])
            except BaseException as exception:
                self.note(f"{name}: {type(exception).__name__}")
                raise
            self.note(f"{name} ends")

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _raise(self) -> None:
        raise KeyError("a bug")

    async def _timeout(self, seconds: float, steps: list[Program]) -> None:
        timeout = asyncio.timeout(seconds)
        with self.opened(timeout.expired), contextlib.suppress(TimeoutError):
            async with timeout:
                await self.run_block(steps)

    async def _wait_for(self, seconds: float, steps: list[Program]) -> None:
        ends = self._loop.time() + seconds
        has_timeout = sys.version_info >= (3, 12)  # before, it waits for a task of its own, which our cancel may leave
        with self.opened(lambda: has_timeout and self._loop.time() >= ends), contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.run_block(steps), seconds)

    async def _move_on_after(self, seconds: float, steps: list[Program]) -> None:
        scope = anyio.move_on_after(seconds)
        with self.opened(lambda: scope.cancel_called), scope:
            await self.run_block(steps)

    async def _fail_after(self, seconds: float, steps: list[Program]) -> None:
        ends = self._loop.time() + seconds
        with self.opened(lambda: self._loop.time() >= ends), contextlib.suppress(TimeoutError):
            with anyio.fail_after(seconds):
                await self.run_block(steps)

    async def _group(self, children: list[list[Program]], fails_after: float | None, steps: list[Program]) -> None:
        has_failed = False

        async def fail() -> None:
            nonlocal has_failed
            await asyncio.sleep(fails_after or 0)
            has_failed = True
            raise ValueError("of a child")

        async def run_child(child: list[Program]) -> None:
            nonlocal has_failed
            try:
                await self.run_block(child)
            except Exception:
                has_failed = True
                raise

        try:
            with self.opened(lambda: has_failed):
                async with asyncio.TaskGroup() as group:
                    for child in children:
                        group.create_task(run_child(child))
                    if fails_after is not None:
                        group.create_task(fail())
                    try:
                        await self.run_block(steps)
                    except Exception:
                        has_failed = True
                        raise
        except* ValueError:
            self.note("group failed")

    async def _anyio_group(self, children: list[list[Program]], ends_after: float | None, steps: list[Program]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            group = anyio.create_task_group()
            stack.enter_context(self.opened(lambda: group.cancel_scope.cancel_called))
            await stack.enter_async_context(group)
            for child in children:
                group.start_soon(self.run_block, child)
            if ends_after is not None:
                self._loop.call_later(ends_after, group.cancel_scope.cancel)
            await self.run_block(steps)

    async def _shield(self, steps: list[Program]) -> None:
        with anyio.CancelScope(shield=True):
            await self.run_block(steps)

    async def _finally(self, steps: list[Program], cleanup: list[Program]) -> None:
        try:
            await self.run_block(steps)
        finally:
            self.note("clean-up")
            await self.run_block(cleanup)

    async def _generator(self, steps: list[Program]) -> None:
        async def generator() -> AsyncGenerator[int, None]:
            try:
                for number in range(2):
                    await self.run_block(steps)
                    yield number
            finally:
                self.note("generator closed")
                await asyncio.sleep(1)

        async with contextlib.aclosing(generator()) as numbers:
            async for _ in numbers:
                await asyncio.sleep(1)


# The two runs


def run_bare(program: list[Program], leaves_at: float, is_eager: bool) -> Outcome:
    """The app is cancelled once, as soon as none of its own scopes is ending what runs in it."""

    async def main() -> Outcome:
        loop = asyncio.get_running_loop()
        run, has_cancelled = Run(loop), False
        task = asyncio.Task(run.run(program))
        await asyncio.wait({task}, timeout=leaves_at)
        tried_at = loop.time()
        while not task.done() and not has_cancelled:
            is_stale = task.cancelling() and loop.time() - tried_at < _asyncio._UNTIL_SWALLOWED
            if run.is_ending() or is_stale:
                await asyncio.sleep(_asyncio._UNTIL_TRIED_AGAIN)
            else:
                has_cancelled = True
                task.cancel()
        await run.settle()
        return run.outcome(has_cancelled)

    return play(main, is_eager)


def run_wrapped(program: list[Program], leaves_at: float, is_eager: bool) -> Outcome:
    async def main() -> Outcome:
        run, has_left = Run(asyncio.get_running_loop()), asyncio.Event()
        requests = [dict(REQUEST)]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await run.run(program)

        async def receive() -> Any:
            if requests:
                return requests.pop()
            await has_left.wait()
            return dict(DISCONNECT)

        async def send(message: Any) -> None:
            raise NotImplementedError

        task = asyncio.Task(DisconnectMiddleware(app, policy="cancel")(http_scope(), receive, send))
        await asyncio.wait({task}, timeout=leaves_at)
        has_left.set()
        await run.settle()
        assert task.cancelling() == 0 or "'group'" in repr(program), "our cancellation was not taken back"
        return run.outcome(has_cancelled=not task.cancelled())

    return play(main, is_eager)


def play(main: Callable[[], Coroutine[Any, Any, Outcome]], is_eager: bool) -> Outcome:
    loop = Loop()
    if is_eager:
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # not before 3.12
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(loop):
        patch.setattr(time, "monotonic", loop.time)
        patch.setattr(_reader, "monotonic", loop.time)
        patch.setattr(_asyncio, "_UNTIL_CLEANED_UP", SECONDS_AT_MOST)
        try:
            return loop.run_until_complete(main())
        finally:
            left = asyncio.all_tasks(loop)  # that an app's own `wait_for` has left (3.11)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))


@pytest.mark.parametrize("part", range(PARTS))
def test_a_departure_ends_an_app_as_a_time_out_of_its_own_would(part: int) -> None:
    chance = random.Random(f"{SEED}.{part}")
    for number in range(PROGRAMS_A_PART):
        program = block(chance, chance.randint(1, 4))
        leaves_at = chance.uniform(0.1, 7)  # once the middleware watches
        is_eager = sys.version_info >= (3, 13) and chance.random() < 0.3
        told = f"program {number} of part {part}, whose client leaves after {leaves_at} s: {program}"
        bare = run_bare(program, leaves_at, is_eager)
        try:
            wrapped = run_wrapped(program, leaves_at, is_eager)
        except AssertionError as failure:
            failure.add_note(told)
            raise
        if wrapped[1] == CANCELLED_BY_ITS_OWN and bare[1] == "cancelled":  # then both cancellations have come out
            assert run_bare(program, NEVER, is_eager)[1] == CANCELLED_BY_ITS_OWN, told
            bare = bare[0], CANCELLED_BY_ITS_OWN
        assert wrapped == bare, told
