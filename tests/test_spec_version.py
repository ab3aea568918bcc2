"""P4: the version that the scope states is asked for at each look, in its copies too."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import anyio
import pytest

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, connection
from disconnect_mw._spec_version import AskedVersion

from .support.messages import CHUNK, DISCONNECT, FINAL, REQUEST, START
from .support.serving import checked, look_soon, serve, turns
from .support.simulated_server import SimulatedServer, http

pytestmark = pytest.mark.anyio


def asked(*answers: bool) -> tuple[dict[str, Any], AskedVersion]:
    scope: dict[str, Any] = {"asgi": {"version": "3.0", "spec_version": "2.3"}}
    version, remaining = AskedVersion(), iter(answers)
    version.stated = "2.3"
    version.ask(scope, lambda looker: next(remaining), False)
    return scope, version


@pytest.mark.parametrize(
    "look",
    [
        lambda asgi: asgi["spec_version"],
        lambda asgi: asgi.get("spec_version"),
        lambda asgi: dict(asgi)["spec_version"],
        lambda asgi: {**asgi}["spec_version"],
        lambda asgi: asgi.copy()["spec_version"],
        lambda asgi: copy.copy(asgi)["spec_version"],
        lambda asgi: copy.deepcopy(asgi)["spec_version"],
        lambda asgi: pickle.loads(pickle.dumps(asgi))["spec_version"],
        lambda asgi: dict(asgi.items())["spec_version"],
        lambda asgi: list(asgi.values())[1],
        lambda asgi: json.loads(json.dumps(asgi))["spec_version"],
    ],
)
def test_each_look_is_answered_anew(look: Any) -> None:
    scope, _ = asked(False, True)
    assert [look(scope["asgi"]) for _ in range(2)] == ["2.3", "2.4"]


def test_the_rest_is_as_it_was() -> None:
    scope, version = asked()
    assert (scope["asgi"] is version, version["version"], version.get("other", 7)) == (True, "3.0", 7)
    assert copy.deepcopy(version) is version
    assert type(pickle.loads(pickle.dumps(asked(True)[1]))) is dict


def test_what_other_code_sets_stays() -> None:
    _, version = asked()
    version["spec_version"] = "2.1"
    version["more"] = 1
    assert dict(version) == {"version": "3.0", "spec_version": "2.1", "more": 1}


def test_its_keys_are_a_dicts() -> None:
    _, version = asked()
    assert [*version] == [*version.keys()] == ["version", "spec_version"]


def test_after_the_end_nothing_is_asked() -> None:
    _, version = asked()
    version.close()
    assert version["spec_version"] == "2.3"


BODY = {"type": "http.request", "body": b"one", "more_body": True}
END = {"type": "http.request", "body": b"two", "more_body": False}


async def versions(policy: Any, stated: str, messages: list[Any]) -> list[str]:
    """What a POST's scope states before each message, and after the last."""
    far = SimulatedServer(incoming=[*messages] or [{**END, "body": b""}])
    scope = far.scope()
    scope["method"], scope["headers"] = "POST", [(b"content-length", b"6")] if messages else []
    scope["asgi"] = {"version": "3.0", "spec_version": stated}
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["asgi"]["spec_version"])
        for _ in messages:
            await receive()
            seen.append({**scope}["asgi"].get("spec_version"))
        await send(START)
        await send(FINAL)

    await serve(app, far, scope, policy=policy)
    return seen


async def test_under_mute_it_rises_while_an_announced_body_is_unread() -> None:
    assert await versions("mute", "2.3", [BODY, END]) == ["2.4", "2.4", "2.3"]
    assert await versions("mute", "2.4", [BODY, END]) == ["2.4", "2.4", "2.4"]
    assert await versions("mute", "2.3", []) == ["2.3"]
    assert await versions("finish", "2.3", [BODY, END]) == ["2.4", "2.4", "2.4"]


async def test_a_stream_that_relies_on_it_is_told_from_its_second_chunk_on() -> None:
    far = SimulatedServer(incoming=[BODY])
    scope = far.scope()
    scope["method"], scope["headers"] = "POST", [(b"content-length", b"6")]
    steps: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["asgi"]["spec_version"] == "2.4"
        await receive()
        far.leave()
        assert await receive() == DISCONNECT
        for message in (START, CHUNK, CHUNK):
            steps.append("sends")
            await send(message)
        steps.append("goes on")

    await serve(app, far, scope)
    assert steps == ["sends"] * 3


# Who looks, and when


def post(version: str = "2.3", body: bytes = b"body", **client: Any) -> tuple[Any, dict[str, Any]]:
    """A server with the request's body, and its scope."""
    far = http(method="POST", body=body, **client)
    scope = far.scope()
    scope["asgi"] = {"version": "3.0", "spec_version": version}
    return far, scope


def stated(scope: Any) -> str:
    return str(scope["asgi"]["spec_version"])


async def sends_until_told(send: Any) -> int:
    """How many chunks are muted before `send` raises; at most three are sent."""
    for count in range(3):
        try:
            await send(CHUNK)
        except ClientDisconnected:
            return count
    return 3


@pytest.mark.parametrize("how", [dict, copy.copy, copy.deepcopy])
async def test_a_copy_of_the_scope_says_what_is_right_when_it_is_asked(how: Any) -> None:
    """Middleware makes them before the body is read."""
    far, scope = post()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        copied = how(scope)
        assert (stated(scope), stated(copied)) == ("2.4", "2.4")
        await receive()
        assert (stated(scope), stated(copied)) == ("2.3", "2.3")

    await serve(app, far, scope)


async def test_a_pickle_of_the_scope_says_what_was_right_then() -> None:
    far, scope = post()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pickled = pickle.dumps(scope)
        await receive()
        unpickled = pickle.loads(pickled)
        assert (type(unpickled["asgi"]), stated(unpickled), stated(scope)) == (dict, "2.4", "2.3")

    await serve(app, far, scope)


async def test_a_body_that_was_read_ahead_of_the_app_is_undelivered() -> None:
    """A listener would take it."""
    far, scope = post()
    far._incoming.clear()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):  # the second time a task of ours reads
            with anyio.move_on_after(0.001):
                await receive()
        far.deliver({**REQUEST, "body": b"body"})
        await turns()
        assert far.reads > 1
        assert stated(scope) == "2.4"
        assert (await receive())["body"] == b"body"
        assert stated(scope) == "2.3"

    await serve(app, far, scope)


async def test_where_the_server_raises_something_received_is_enough() -> None:
    """A middleware may have read the body, and replay it."""
    far = http()
    scope = far.scope()
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert stated(scope) == "2.3"
        await receive()
        assert stated(scope) == "2.4"

    await serve(app, far, scope)


async def test_what_only_the_middleware_has_received_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    look_soon(monkeypatch)
    far = http()
    scope = far.scope()
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert connection(scope).connected
        await checked()
        assert far.reads
        assert stated(scope) == "2.3"
        await receive()
        assert stated(scope) == "2.4"

    await serve(app, far, scope)


async def test_an_install_inside_of_middleware_that_makes_an_asgi_of_its_own_has_that_ask() -> None:
    far, scope = post()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert stated(scope) == "2.4"
        await receive()
        assert stated(scope) == "2.3"

    inner = DisconnectMiddleware(app)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)

    await serve(between, far, scope)


async def test_a_policy_that_the_handler_sets_counts_from_then_on() -> None:
    far, scope = post()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert stated(scope) == "2.3"
        connection(scope).policy = "cancel"
        assert stated(scope) == "2.4"
        connection(scope).policy = "mute"
        assert stated(scope) == "2.3"

    await serve(app, far, scope)


# What a stream relies on


async def leave(far: Any, scope: Any, receive: Any) -> None:
    """Have the client leave, and the app be told of it."""
    far.leave()
    while await receive() != DISCONNECT:
        pass


async def test_who_relies_on_it_is_told_by_the_second_chunk() -> None:
    """BaseHTTPMiddleware makes a chunk and an empty end of a response in one piece."""
    far, scope = post()
    counts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert stated(scope) == "2.4"
        await leave(far, scope, receive)
        await send(START)
        counts.append(await sends_until_told(send))
        assert await send(FINAL) is None
        counts.append(0)

    await serve(app, far, scope)
    assert counts == [1, 0]


async def test_a_response_in_one_piece_is_muted() -> None:
    far, scope = post()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        assert stated(scope) == "2.4"
        await leave(far, scope, receive)
        for message in (START, CHUNK, FINAL):
            assert await send(message) is None
        return "done"

    assert await serve(app, far, scope) == "done"


async def test_the_last_look_before_the_response_counts() -> None:
    far, scope = post()
    counts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert stated(scope) == "2.4"
        await receive()
        assert stated(scope) == "2.3", "from now on the framework listens"
        await leave(far, scope, receive)
        await send(START)
        counts.append(await sends_until_told(send))

    await serve(app, far, scope)
    assert counts == [3]


@pytest.mark.parametrize("looks", [False, True])
async def test_who_has_not_looked_before_the_response_is_always_muted(looks: bool) -> None:
    """A look that comes later changes nothing."""
    far, scope = post()
    counts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        if looks:
            assert stated(scope) == "2.4"
        await leave(far, scope, receive)
        counts.append(await sends_until_told(send))

    await serve(app, far, scope)
    assert counts == [3]


@pytest.mark.parametrize("policy", ["finish", "cancel"])
async def test_under_the_policies_that_mute_it_is_muted_all_the_same(policy: Any) -> None:
    far, scope = post()
    counts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert stated(scope) == "2.4"
        far._incoming.clear()
        await leave(far, scope, receive)
        await send(START)
        counts.append(await sends_until_told(send))

    await serve(app, far, scope, policy=policy)
    assert counts == [3]
