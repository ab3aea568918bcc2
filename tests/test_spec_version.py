"""P4: the version that the scope states is asked for at each look, in its copies too."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from disconnect_mw._spec_version import AskedVersion

from .support.messages import CHUNK, DISCONNECT, FINAL, START
from .support.serving import serve
from .support.simulated_server import SimulatedServer

pytestmark = pytest.mark.anyio


def asked(*answers: bool) -> tuple[dict[str, Any], AskedVersion]:
    scope: dict[str, Any] = {"asgi": {"version": "3.0", "spec_version": "2.3"}}
    version, remaining = AskedVersion(), iter(answers)
    version.ask(scope, "2.3", lambda: next(remaining), False)
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
