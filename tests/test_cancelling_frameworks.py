"""P12: a framework that ends its handler by itself is left to do so, and every other is cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import CancelOnDisconnect, DisconnectMiddleware, _cancellation, _http

from .support.records import ended
from .support.serving import GRACE, App, call, left, living, on_asyncio, serve, turns
from .support.simulated_server import SimulatedServer, http

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


# Frameworks


async def test_a_handler_of_starlette_is_cancelled_and_its_middleware_is_quiet() -> None:
    far = http()
    seen: list[Any] = []

    async def slow(request: Request) -> Response:
        try:
            await left(far)
        finally:
            seen.append("ended")
        raise AssertionError

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        seen.append(response.status_code)
        return response

    app = Starlette(routes=[Route("/", slow)])
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    await call(app, far)
    assert seen == ["ended", 499]


async def test_a_generator_of_a_stream_ends_before_the_app_does() -> None:
    far = http()
    seen: list[str] = []

    async def tokens() -> AsyncIterator[str]:
        try:
            yield "token"
            await left(far)
        finally:
            seen.append("generator closed")

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(tokens(), background=BackgroundTask(seen.append, "background"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Starlette(routes=[Route("/", endpoint)])(scope, receive, send)
        finally:
            gc.collect()
            seen.append("app ended")

    await serve(app, far, policy="cancel")
    assert seen[0] == "generator closed"
    assert seen[-1] == "app ended"


async def test_a_background_task_of_starlette_runs_to_its_end() -> None:
    far = http()
    done: list[str] = []

    async def later() -> None:
        far.leave()
        await anyio.sleep(0.01)
        done.append("later")

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("hello", background=BackgroundTask(later))

    await serve(Starlette(routes=[Route("/", endpoint)]), far, policy="cancel", grace=0.001)
    assert done == ["later"]


# Frameworks that listen by themselves, and have the handler in a task of its own


def listening(handler: App, steps: list[Any], reacts: bool = True, goes_on: bool = False) -> App:
    """As Quart and Django do: the first of the two to end ends the other; or a listener that ends nobody."""

    async def listen(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        steps.append("heard")
        if goes_on:
            await anyio.sleep_forever()

    async def framework(scope: Any, receive: Any, send: Any) -> str:
        both = [asyncio.ensure_future(handler(scope, receive, send)), asyncio.ensure_future(listen(receive))]
        try:
            _, pending = await asyncio.wait(both if reacts else both[:1], return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except asyncio.CancelledError:
            steps.append("framework cancelled")
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            raise
        return "done"

    return framework


@on_asyncio
@pytest.mark.parametrize("grace", [None, GRACE])
async def test_a_framework_that_ends_its_handler_by_itself_is_not_cancelled(grace: Any) -> None:
    far = http()
    steps: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            await turns(20)
            steps.append("cleaned up")

    scope = far.scope()
    assert await serve(listening(handler, steps), far, scope, policy="cancel", grace=grace) == "done"
    assert steps == ["heard", "cleaned up"]
    assert living() == 1 + len(asyncio.all_tasks() - {asyncio.current_task()})


@on_asyncio
@pytest.mark.parametrize("waits_in", ["group", "gathering"])
async def test_nor_is_one_that_cancels_its_handler_and_waits_where_it_waited(waits_in: str) -> None:
    """Quart 0.23's way."""
    far = http()
    steps: list[str] = []

    async def handler() -> None:
        try:
            await left(far)
        finally:
            await anyio.sleep(3 * _cancellation._SECONDS_TO_REACT)
            await turns(40)
            steps.append("cleaned up")

    async def listen(receive: Any, task: asyncio.Task[None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        if waits_in == "group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(listen(receive, tasks.create_task(handler())))
        else:
            task = asyncio.create_task(handler())
            await asyncio.gather(task, listen(receive, task), return_exceptions=True)
        return "done"

    scope = far.scope()
    assert await serve(app, far, scope, policy="cancel") == "done"
    assert (steps, ended(scope)) == (["cleaned up"], "returned")


class Plain:
    """What granian 1.7.6 gives to be awaited: asyncio's word for a future, and nothing but what a task needs."""

    _asyncio_future_blocking = False

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.get_loop = future.get_loop
        self.add_done_callback = future.add_done_callback
        self.cancel = future.cancel
        self.result = future.result

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self
        return self.result()


@on_asyncio
async def test_the_app_is_cancelled_in_what_cannot_be_asked_whether_it_is_cancelled() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        far.leave()
        await Plain(asyncio.get_running_loop().create_future())

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert ended(scope) == "cancelled"


@on_asyncio
@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_framework_that_hears_of_it_and_does_not_react_is_cancelled(
    goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once if its listener ends; if it goes on, it may be cleaning up, and has longer."""
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_REACT", 0.005)
    monkeypatch.setattr(_http, "_SECONDS_OF_LISTENER", 0.1 if goes_on else 60)
    far = http()
    steps: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        finally:
            await turns()
            steps.append("cleaned up")

    scope = far.scope()
    began = anyio.current_time()
    app = listening(handler, steps, reacts=False, goes_on=goes_on)
    assert await serve(app, far, scope, policy="cancel") is None
    assert not goes_on or anyio.current_time() - began >= 0.1
    assert (steps, ended(scope)) == (["heard", "framework cancelled", "cleaned up"], "cancelled")


@on_asyncio
async def test_a_framework_whose_handler_does_not_end_is_cancelled_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_REACT", 0.005)
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_END_BY_ITSELF", 0.02)
    far = http()
    steps: list[Any] = []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await left(far)
        except asyncio.CancelledError:
            steps.append("handler cancelled")
        await anyio.sleep_forever()

    scope = far.scope()
    began = anyio.current_time()
    assert await serve(listening(handler, steps), far, scope, policy="cancel") is None
    assert anyio.current_time() - began >= 0.02
    assert (steps, ended(scope)) == (["heard", "handler cancelled", "framework cancelled"], "cancelled")


@on_asyncio
@pytest.mark.parametrize("timeout", [None, 0.001])
async def test_a_handler_that_waits_for_tasks_of_its_own_is_cancelled_soon(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has received the disconnect who could end it."""
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_REACT", 0.005)
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_END_BY_ITSELF", 60)
    far = http()
    steps: list[str] = []

    async def work() -> None:
        await left(far)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.ensure_future(work())
        try:
            while True:
                await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise
        finally:
            task.cancel()

    scope = far.scope()
    await serve(DisconnectMiddleware(app), far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["cancelled"], "cancelled")


@on_asyncio
@pytest.mark.parametrize("asks", ["waits", "polls"])
async def test_a_framework_that_waits_for_the_tasks_that_it_has_cancelled_has_reacted(
    asks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cancellation, "_SECONDS_TO_REACT", 0.01)
    far = http()
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while asks == "polls" and not await request.is_disconnected():
                await asyncio.sleep(0.001)
            if asks == "waits":
                await receive()

        async def handle() -> None:
            try:
                await left(far)
            finally:
                await asyncio.sleep(0.1)
                steps.append("handler cleaned up")

        request = Request(scope, receive)
        await request.body()
        tasks = {asyncio.ensure_future(listen()), asyncio.ensure_future(handle())}
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        steps.append("orderly end")

    scope = far.scope()
    await serve(app, far, scope, policy="cancel")
    assert (steps, ended(scope)) == (["handler cleaned up", "orderly end"], "returned")


# Middleware inside, and outside


async def test_a_handler_behind_middleware_that_is_told_has_time_to_clean_up() -> None:
    """Its task is not the app's own, which awaits the same meanwhile."""
    far = SimulatedServer(incoming=[{"type": "http.request", "body": b"some", "more_body": True}])
    steps: list[str] = []

    async def upload(request: Request) -> Response:
        await turns(20)  # the app's own task waits for the response by now
        far.leave()
        try:
            await request.body()
        finally:
            await anyio.sleep(3 * _cancellation._SECONDS_TO_REACT)
            await turns(40)
            steps.append("cleaned up")
        raise AssertionError

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    app = Starlette(routes=[Route("/", upload, methods=["POST"])])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    await serve(app, far, {**far.scope(), "method": "POST", "headers": [(b"content-length", b"9")]}, policy="cancel")
    assert steps == ["cleaned up"]


@pytest.mark.parametrize("count", range(8))
async def test_what_a_base_http_middleware_outside_is_handing_on_arrives(count: int) -> None:
    """The response begins as the client leaves: the middleware must hear its start before the end that it is owed."""
    far = http()
    seen: list[int] = []

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.sleep(0.01)  # somebody listens by now
        far.leave()
        await turns(count)
        await PlainTextResponse("done")(scope, receive, send)

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        seen.append(response.status_code)
        return response

    app = BaseHTTPMiddleware(DisconnectMiddleware(answering, policy="cancel"), dispatch)
    await call(app, far)
    assert seen in ([200], [499])
