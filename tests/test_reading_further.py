"""*Watching*: how much of a body that the app leaves unread is read in search of the disconnect behind it."""

from __future__ import annotations

import contextvars
import functools
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from disconnect_mw import DisconnectMiddleware, _watcher, connection
from disconnect_mw.testing import HTTPClient, HTTPSimulatedServer, servers

from .support.apps import behind
from .support.messages import CHUNK, FINAL, START
from .support.records import ended
from .support.serving import GRACE, SECONDS, call, look_soon, on_asyncio, serve, turns
from .support.simulated_server import http

pytestmark = pytest.mark.anyio

POLICIES_THAT_RELY_ON_SEND = ["finish", "cancel", "raise"]


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check comes but those of `look`."""
    monkeypatch.setattr(_watcher.first_checks, "seconds", 3600)


async def look(scope: Any) -> None:
    """Check, as the watcher does in a turn of its own, and let what that began come to its end."""
    root = connection(scope)._found.root  # type: ignore[union-attr]  # while the app runs
    root.backend.call_soon(functools.partial(root.check, contextvars.copy_context()))
    await turns(6)


def uploading(count: int, size: int = 1) -> HTTPSimulatedServer:
    """A server that delivers all of the body, also when its client has left."""
    client = HTTPClient(body=[b"x" * size] * count)
    return HTTPSimulatedServer(servers.HYPERCORN_0_18_0.http, client=client)


def posting(far: HTTPSimulatedServer, stated: str = "2.3") -> dict[str, Any]:
    """The scope of an upload, by a server that states this version."""
    scope = far.scope()
    scope["asgi"] = {**scope["asgi"], "spec_version": stated}
    return scope


@pytest.mark.parametrize("policy", POLICIES_THAT_RELY_ON_SEND)
async def test_once_the_response_has_begun_each_look_reads_one_message_more(policy: Any) -> None:
    far = uploading(4)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reads = []
        for message in (None, START, CHUNK):
            if message is not None:
                await send(message)
            for _ in range(2):
                await look(scope)
                reads.append(far.reads)
        assert reads == [0, 0, 1, 2, 3, 4]

    await serve(app, far, policy=policy)


@pytest.mark.parametrize("policy", POLICIES_THAT_RELY_ON_SEND)
async def test_the_disconnect_behind_the_body_is_found(policy: Any) -> None:
    far = uploading(4)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        far.leave()
        for _ in range(4):
            await look(scope)
            assert connection(scope).connected
        await look(scope)
        assert not connection(scope).connected

    await serve(app, far, policy=policy, grace=3600)


async def test_under_mute_one_message_is_read_for_a_framework_that_listens_by_itself() -> None:
    """Nobody has looked at the version: 2.3 is as good as stated."""
    far = uploading(4)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        connection(scope).connected  # noqa: B018  # has the middleware check
        for _ in range(3):
            await look(scope)
        assert far.reads == 1

    await serve(app, far)


async def test_under_mute_it_is_read_where_the_framework_relies_on_send() -> None:
    far = uploading(4)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["asgi"]["spec_version"] == "2.4"
        await send(START)
        for _ in range(3):
            await look(scope)
        assert far.reads == 3

    await serve(app, far, posting(far, "2.4"))


async def test_at_most_64_messages_are_read_ahead() -> None:
    far = uploading(100)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(80):
            await look(scope)
        assert far.reads == 64

    await serve(app, far, policy="cancel")


@pytest.mark.parametrize(("size", "reads"), [(1 << 20, 1), (1 << 19, 2), ((1 << 19) - 1, 3), (1 << 18, 4)])
async def test_at_most_a_mebibyte_is_read_ahead_and_the_message_that_exceeds_it(size: int, reads: int) -> None:
    far = uploading(10, size)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(10):
            await look(scope)
        assert far.reads == reads

    await serve(app, far, policy="cancel")


async def test_what_the_app_then_reads_makes_room() -> None:
    far = uploading(100)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(70):
            await look(scope)
        for _ in range(10):
            await receive()
        for _ in range(20):
            await look(scope)
        assert far.reads == 74

    await serve(app, far, policy="cancel")


async def test_it_is_handed_out_in_order_and_once() -> None:
    far = http(body=[bytes([number]) for number in range(8)])
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(5):
            await look(scope)
        message: Any = {"more_body": True}
        while message["more_body"]:
            message = await receive()
            bodies.append(message["body"])

    await serve(app, far, policy="cancel")
    assert bodies == [bytes([number]) for number in range(8)]


@on_asyncio  # Starlette leaves its generator to the garbage collector, of which trio warns
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize(
    "options",
    [{"policy": "mute"}, {"policy": "cancel"}, {"policy": "raise"}, {"policy": "finish", "grace": GRACE}],
    ids=lambda options: options["policy"],
)
async def test_an_endless_stream_that_leaves_its_upload_unread_stops(
    options: Any, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_soon(monkeypatch)
    far = uploading(5, 40_000)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await anyio.sleep(0.001)
            if len(far.sent) > 3:
                far.leave()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(endless())

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    scope = far.scope()
    await call(behind(app, layers, **options), far, scope)
    assert ended(scope) is not None


# Where the framework's own listener would have read it away


EVERY_POLICY = ["mute", *POLICIES_THAT_RELY_ON_SEND]


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("policy", EVERY_POLICY)
async def test_a_client_that_sends_all_before_it_reads_gets_its_answer(policy: Any, layers: int) -> None:
    """P0. Many clients do so. What is more than a mebibyte is not kept."""
    far = uploading(100, 1 << 16)

    async def stream() -> AsyncIterator[bytes]:
        while far.reads < 100:
            yield b"x"
            await anyio.lowlevel.checkpoint()

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream())

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    scope = posting(far)
    await call(behind(app, layers, policy=policy), far, scope)
    assert far.sent[0]["status"] == 200
    assert far.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert ended(scope) is None


@pytest.mark.parametrize("policy", EVERY_POLICY)
async def test_what_has_been_read_so_far_is_not_lost_to_an_app_that_asks_later(policy: Any) -> None:
    far = http(body=[bytes([number]) * 100 for number in range(8)])
    bodies: list[bytes] = []

    async def endpoint(request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"begun"
            await turns(20)
            async for chunk in request.stream():
                bodies.append(chunk)
            yield b"done"

        return StreamingResponse(stream())

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    await serve(app, far, posting(far), policy=policy)
    assert b"".join(bodies) == b"".join(bytes([number]) * 100 for number in range(8))


@pytest.mark.parametrize("policies", [["mute"], ["mute", "mute"], ["cancel", "mute"], ["mute", "cancel"]], ids="-".join)
@pytest.mark.parametrize(
    "look",
    [
        lambda scope: None,
        lambda scope: scope["asgi"].get("spec_version"),
        lambda scope: dict(scope["asgi"]),
        lambda scope: json.dumps(scope["asgi"]),
        lambda scope: repr(scope),
    ],
)
async def test_a_body_that_is_read_late_is_whole_whoever_looks_at_the_version(policies: Any, look: Any) -> None:
    """P0: what has no listener may answer first. More than 64 messages, and more than a mebibyte."""
    far = uploading(100, 1 << 16)
    received = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        look(scope)
        await send(START)
        await send(CHUNK)
        await turns(150)
        while (message := await receive())["type"] == "http.request":
            received += len(message["body"])
            if not message["more_body"]:
                break
        await send(FINAL)

    wrapped: Any = app
    for policy in reversed(policies):
        wrapped = DisconnectMiddleware(wrapped, policy=policy)
    with anyio.fail_after(SECONDS):
        await wrapped(posting(far), far.receive, far.send)
    assert received == 100 << 16
    assert far.sent == [START, CHUNK, FINAL]


STARLETTE: dict[str, Any] = {"__name__": "starlette.responses"}
exec("async def answer(app, *arguments): await app(*arguments)", STARLETTE)


def as_response(app: Any) -> Any:
    """An app whose response is one of Starlette's, which would have listened."""
    return functools.partial(STARLETTE["answer"], app)


async def test_a_response_that_begins_long_after_the_look_has_its_body_read_away_by_the_next_check() -> None:
    far = uploading(100, 1 << 16)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["asgi"]["spec_version"] == "2.4"
        await turns(40)
        assert far.reads == 0
        await send(START)
        await turns(110)
        assert far.reads == 0
        await look(scope)
        await turns(110)
        assert far.reads >= 100  # the last one waits for the disconnect

    await serve(as_response(app), far, posting(far))


async def test_for_a_body_that_is_left_unread_a_receive_that_has_raised_is_not_called_again() -> None:
    reads = 0

    async def receive() -> Any:
        nonlocal reads
        reads += 1
        raise LookupError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["asgi"]["spec_version"] == "2.4"
        await send(START)
        for _ in range(3):
            await look(scope)
        assert reads == 1

    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app)(posting(uploading(5)), receive, http().send)


async def test_a_read_that_is_under_way_goes_on_to_the_end_of_the_body() -> None:
    first, more = anyio.Event(), anyio.Event()
    reads: list[bytes] = []

    async def receive() -> Any:
        if len(reads) == 1:
            first.set()
            await more.wait()
        elif len(reads) == 5:
            await anyio.sleep_forever()
        reads.append(b"x")
        return {"type": "http.request", "body": b"x", "more_body": len(reads) < 5}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(2):
            await look(scope)
        await first.wait()
        root = connection(scope)._found.root  # type: ignore[union-attr]  # while the app runs
        root.require_reader().read_away(contextvars.copy_context())
        more.set()
        await turns(20)
        assert len(reads) == 5

    far = http()
    with anyio.fail_after(SECONDS):
        await DisconnectMiddleware(app, policy="cancel")(posting(uploading(5)), receive, far.send)


async def test_what_was_discarded_is_told_to_an_app_that_asks_too_late(caplog: pytest.LogCaptureFixture) -> None:
    far = uploading(100, 1 << 16)
    received: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["asgi"]["spec_version"] == "2.4"
        await send(START)
        await turns(110)
        for _ in range(2):  # it is told once, the first time
            with anyio.move_on_after(0.01):
                received.append(await receive())
            assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
                "the app asks for a request body which it had left unread while it answered: it is lost"
            ]

    await serve(as_response(app), far, posting(far))
    assert received == [], "a part of it would do harm"


@pytest.mark.parametrize(
    "case", ["nobody looks", "the app answers by itself", "the server states 2.4", "the app has asked"]
)
async def test_nothing_is_read_away_where_no_listener_would(case: str) -> None:
    far = uploading(100, 1 << 16)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if case != "nobody looks":
            assert scope["asgi"]["spec_version"] >= "2.4"
        if case == "the app has asked":
            await receive()
        await send(START)
        await turns(110)
        assert far.reads == (case == "the app has asked")

    served = app if "by itself" in case else as_response(app)
    await serve(served, far, posting(far, "2.4" if "states" in case else "2.3"))
