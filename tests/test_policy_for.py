"""The policy that `policy_for` chooses for each exchange, by a function or by the path."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, connection

from .support.apps import leaving
from .support.messages import ACCEPT, START, TEXT
from .support.records import gone, record_of
from .support.serving import call, left, serve, turns
from .support.simulated_server import http, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("soon")]


async def ends_how(far: Any, **options: Any) -> str:
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["type"] == "websocket":
            await send(ACCEPT)
        far.leave()
        await gone(connection(scope))
        try:
            await send(TEXT if scope["type"] == "websocket" else START)
        except ClientDisconnected:
            raised.append("raised")
        await turns()

    raised: list[str] = []
    await serve(app, far, scope, **options)
    return (raised + [record_of(scope).ended])[0]


ENDS_HOW = {"mute": "returned", "finish": "returned", "cancel": "cancelled", "raise": "raised"}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("chosen", ["mute", "finish", "cancel", "raise"])
@pytest.mark.parametrize("default", ["mute", "raise", "cancel"])
async def test_each_request_may_have_a_policy_of_its_own(kind: str, chosen: Any, default: Any) -> None:
    far: Any = http() if kind == "http" else websocket()
    scopes: list[Any] = []

    def policy_for(scope: Any) -> Any:
        scopes.append(scope["type"])
        return chosen

    how = await ends_how(far, policy=default, websocket_policy=default, policy_for=policy_for)
    assert (how, scopes) == (ENDS_HOW[chosen], [kind])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("default", ["mute", "raise", "cancel"])
async def test_none_is_the_default(kind: str, default: Any) -> None:
    far: Any = http() if kind == "http" else websocket()
    assert (
        await ends_how(far, policy=default, websocket_policy=default, policy_for=lambda scope: None)
        == (ENDS_HOW[default])
    )


async def test_the_function_has_the_scope() -> None:
    app = functools.partial(ends_how, policy_for=lambda scope: "cancel" if scope["path"] == "/slow" else None)
    assert [await app(http(path=path)) for path in ("/slow", "/fast")] == ["cancelled", "returned"]


async def test_a_policy_of_its_own_claims_a_true_version() -> None:
    """P4."""
    versions: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        versions.append(scope["asgi"]["spec_version"])

    for policy in ("mute", "finish", "cancel", "raise"):
        await serve(app, http(), policy_for=lambda scope, policy=policy: policy)
    assert versions == ["2.3", "2.4", "2.4", "2.4"]


@pytest.mark.parametrize("kind", ["lifespan", "mystery"])
async def test_it_is_not_asked_about_what_is_no_exchange(kind: str) -> None:
    asked: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    await DisconnectMiddleware(app, policy_for=asked.append)({"type": kind}, http().receive, http().send)
    assert asked == []


def nonsense(scope: Any) -> Any:
    return "cancle"


def number(scope: Any) -> Any:
    return 7


def unhashable(scope: Any) -> Any:
    return ["cancel"]


def failing(scope: Any) -> Any:
    raise KeyError("path")


class Choice:
    def __repr__(self) -> str:
        return "<a choice>"

    def __call__(self, scope: Any) -> Any:
        return True


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (nonsense, "policy_for=tests.test_policy_for.nonsense returned 'cancle', the default policy is used: "),
        (number, "policy_for=tests.test_policy_for.number returned 7, the default policy is used: "),
        (unhashable, "policy_for=tests.test_policy_for.unhashable returned ['cancel'], the default policy is used: "),
        (Choice(), "policy_for=<a choice> returned True, the default policy is used: "),
        (failing, "policy_for=tests.test_policy_for.failing raised an exception, the default policy is used"),
    ],
)
async def test_a_mistake_of_the_function_is_logged_once_and_harms_no_request(
    function: Any, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = DisconnectMiddleware(leaving, policy_for=function)
    for _ in range(3):
        assert await call(app, http()) == "done"
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("disconnect_mw", "ERROR")
    assert record.getMessage() == line + (
        "" if function is failing else "return 'mute', 'finish', 'cancel' or 'raise' or None"
    )
    assert bool(record.exc_info) == (function is failing)


async def test_the_mistakes_of_two_functions_are_two(caplog: pytest.LogCaptureFixture) -> None:
    for function in (nonsense, number):
        await serve(leaving, http(), policy_for=function)
    assert len(caplog.records) == 2


async def test_an_exit_of_the_function_passes() -> None:
    def leaves(scope: Any) -> Any:
        raise SystemExit

    far = http()
    with pytest.raises(SystemExit):
        await DisconnectMiddleware(leaving, policy_for=leaves)(far.scope(), far.receive, far.send)


async def test_the_function_of_an_inner_install_is_heard() -> None:
    far = http()
    scope = far.scope()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await left(far)

    await serve(DisconnectMiddleware(app, policy_for=lambda scope: "cancel"), far, scope)
    assert record_of(scope).ended == "cancelled"


async def test_the_function_of_an_inner_install_may_ask_for_the_default_of_all() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        far.leave()
        await connection(scope).wait_disconnected()
        await turns()
        return "done"

    assert await serve(DisconnectMiddleware(app, policy_for=lambda scope: "mute"), far, policy="cancel") == "done"


async def test_the_choice_of_an_inner_install_holds_where_it_joins_after_the_disconnect() -> None:
    far = http()

    async def app(scope: Any, receive: Any, send: Any) -> str:
        await send(START)
        return connection(scope).policy

    inner = DisconnectMiddleware(app, policy_for=lambda scope: "mute")

    async def between(scope: Any, receive: Any, send: Any) -> Any:
        await receive()
        far.leave()
        await receive()
        return await inner(scope, receive, send)

    assert await serve(between, far, policy="raise") == "mute"


# By the path


@pytest.mark.parametrize(
    ("patterns", "path", "policy"),
    [
        ({"/v1/*": "cancel"}, "/v1/a/b", "cancel"),
        ({"/v1/*": "cancel"}, "/v1", "mute"),
        ({"/v1/*": "cancel"}, "/V1/a", "mute"),
        ({"/v1/?": "finish"}, "/v1/ab", "mute"),
        ({"/v[12]/a": "finish"}, "/v2/a", "finish"),
        ({"*": "raise", "/v1/*": "cancel"}, "/v1/a", "raise"),
        ({"/v1/*": "cancel", "*": "raise"}, "/v1/a", "cancel"),
        ({}, "/v1/a", "mute"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_first_pattern_that_matches_the_path_counts(kind: str, patterns: Any, path: str, policy: str) -> None:
    far: Any = http(path=path) if kind == "http" else websocket(path=path)
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connection(scope).policy)

    await serve(app, far, websocket_policy="mute", policy_for=patterns)
    assert seen == [policy]


async def test_a_mapping_that_is_changed_afterwards_has_been_read() -> None:
    patterns: Any = {"/": "cancel"}
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connection(scope).policy)

    middleware = DisconnectMiddleware(app, policy_for=patterns)
    patterns.clear()
    await call(middleware, http())
    assert seen == ["cancel"]


async def test_a_scope_without_a_path_has_the_default() -> None:
    far = http()
    scope = far.scope()
    del scope["path"]
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(connection(scope).policy)

    await serve(app, far, scope, policy_for={"/*": "cancel"})
    assert seen == ["mute"]
