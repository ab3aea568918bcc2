"""P4: the scope claims a `spec_version` that is true under the policy, whatever the server claims."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.responses import StreamingResponse

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._options import Policy, check_policy

ABSENT: Any = object()

# What the server claims; what the scope claims afterwards, under "mute" and under the others.
CLAIMS = [
    ("2.0", "2.0", "2.4"),
    ("2.1", "2.1", "2.4"),
    ("2.2", "2.2", "2.4"),
    ("2.3", "2.3", "2.4"),
    ("2.4", "2.3", "2.4"),
    ("2.5", "2.3", "2.5"),
    ("2.6", "2.3", "2.6"),
    ("2.10", "2.3", "2.10"),
    ("2." + "9" * 5000, "2.0", "2.4"),  # more digits than int() takes
    ("3.0", "2.3", "3.0"),
    ("1.9", "1.9", "2.4"),
    ("", "2.0", "2.4"),
    ("3", "2.0", "2.4"),
    ("2.4.1", "2.0", "2.4"),
    ("2.x", "2.0", "2.4"),
    ("-2.4", "2.0", "2.4"),
    ("2.²", "2.0", "2.4"),
    (" 2.4", "2.0", "2.4"),
    (None, "2.0", "2.4"),
    (2.3, "2.0", "2.4"),
    (2.5, "2.0", "2.4"),
    (["2.5"], "2.0", "2.4"),
    (ABSENT, ABSENT, "2.4"),
]
BY_POLICY = [
    (policy, claim[0], claim[i])
    for i, policy in ((1, "mute"), (2, "raise"), (2, "cancel"), (2, "finish"))
    for claim in CLAIMS
]

policy_and_claim = pytest.mark.parametrize(("policy", "claimed", "true"), BY_POLICY)


def with_version(version: Any) -> dict[str, Any]:
    return {"version": "3.0"} if version is ABSENT else {"version": "3.0", "spec_version": version}


def state(scope: Any, policy: Policy) -> None:
    """Have the scope of a request without a body state what is right under `policy`."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(StopIteration):
        DisconnectMiddleware(app, policy=policy)(scope, receive, send).send(None)
    del scope["disconnect_mw.connection"]


@policy_and_claim
def test_what_the_scope_claims_is_true_under_the_policy(policy: Policy, claimed: Any, true: Any) -> None:
    scope = {"type": "http", "method": "GET", "asgi": with_version(claimed), "path": "/"}
    state(scope, policy)
    assert scope == {"type": "http", "method": "GET", "asgi": with_version(true), "path": "/"}


@policy_and_claim
def test_the_dict_that_other_requests_may_share_is_never_changed(policy: Policy, claimed: Any, true: Any) -> None:
    shared = with_version(claimed)
    before = copy.deepcopy(shared)
    state({"type": "http", "method": "GET", "asgi": shared}, policy)
    assert shared == before


@policy_and_claim
def test_the_dict_is_replaced_only_where_it_was_not_true(policy: Policy, claimed: Any, true: Any) -> None:
    shared = with_version(claimed)
    scope = {"type": "http", "method": "GET", "asgi": shared}
    state(scope, policy)
    assert (scope["asgi"] is shared) == (claimed == true)


@pytest.mark.parametrize("asgi", [None, "3.0", 3, ["3.0"]])
def test_an_asgi_that_is_no_mapping_counts_as_the_default_version(asgi: Any) -> None:
    muting = {"type": "http", "method": "GET", "asgi": asgi}
    raising = {**muting}
    state(muting, "mute")
    state(raising, "raise")
    assert (muting["asgi"], raising["asgi"]) == (asgi, {"spec_version": "2.4"})


def test_an_absent_asgi_counts_as_the_default_version() -> None:
    muting: dict[str, Any] = {"type": "http", "method": "GET"}
    raising: dict[str, Any] = {**muting}
    state(muting, "mute")
    state(raising, "raise")
    assert ("asgi" in muting, raising["asgi"]) == (False, {"spec_version": "2.4"})


async def receive() -> Any:
    raise AssertionError("nothing here receives")


async def send(message: Any) -> None:
    raise AssertionError("nothing here sends")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "options", "version"),
    [
        ("http", {}, "2.3"),
        ("http", {"policy": "raise", "websocket_policy": "mute"}, "2.5"),
        ("websocket", {}, "2.5"),
        ("websocket", {"policy": "raise", "websocket_policy": "mute"}, "2.3"),
    ],
)
async def test_the_app_gets_the_servers_own_scope_made_true(kind: str, options: Any, version: str) -> None:
    """Outer code reads what inner code writes into the scope, so its identity is kept."""
    got = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(scope)
        scope["written by"] = "the app"

    shared = {"version": "3.0", "spec_version": "2.5"}
    request = {"type": kind, "http_version": "1.1", "method": "GET"}
    scope = {**request, "asgi": shared}
    await DisconnectMiddleware(app, **options)(scope, receive, send)
    assert got[0] is scope
    del scope["disconnect_mw.connection"]  # the handler's view
    assert (scope, shared) == (
        {**request, "asgi": {"version": "3.0", "spec_version": version}, "written by": "the app"},
        {"version": "3.0", "spec_version": "2.5"},
    )


@pytest.mark.anyio
async def test_starlette_listens_for_the_disconnect_under_a_server_that_claims_2_4() -> None:
    """What P4 is for: an endless stream on a server that stays silent stops, and its background task runs."""
    done = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"more"
            await anyio.lowlevel.checkpoint()

    async def background() -> None:
        done.append("background")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(endless())(scope, receive, send)
        await background()

    taken = 0

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    async def silent(message: Any) -> None:
        nonlocal taken
        taken += 1
        assert taken < 1000, "the stream does not stop"

    scope = {"type": "http", "method": "GET", "path": "/", "asgi": {"spec_version": "2.4"}}
    await DisconnectMiddleware(app)(scope, leave, silent)
    assert done == ["background"]


@pytest.mark.parametrize("policy", ["mute", "raise"])
def test_a_policy_is_given_back_as_it_is(policy: str) -> None:
    assert check_policy("policy", policy) == policy


class Word(str):
    """A string of one's own, as a settings library or an enum makes them."""


def test_a_policy_may_be_a_subclass_of_str() -> None:
    got = check_policy("policy", Word("raise"))
    assert (got, type(got)) == ("raise", str)


@pytest.mark.parametrize("policy", ["", "Raise", "cancle", "mute "])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_policy("websocket_policy", policy)
    assert str(caught.value) == (
        f"websocket_policy must be 'mute', 'finish', 'cancel' or 'raise', not {policy!r}: look for a misspelling"
    )


@pytest.mark.parametrize("policy", [None, True, b"raise", ("raise",), object])
def test_a_policy_that_is_no_string_is_refused(policy: object) -> None:
    with pytest.raises(TypeError) as caught:
        check_policy("policy", policy)
    assert str(caught.value) == f"policy must be 'mute', 'finish', 'cancel' or 'raise', not {policy!r}: pass a string"
