"""What the middleware takes and what it gives on (P0)."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import anyio
import pytest
from asgi_lifespan import LifespanManager
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from disconnect_mw import CancelOnDisconnect, DisconnectMiddleware, RaiseOnDisconnect

REQUEST = {"type": "http.request", "body": b"", "more_body": False}
START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"hello"}


class Server:
    """Delivers one empty request and keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return REQUEST

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def http_scope() -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [],
        "query_string": b"",
        "asgi": {"version": "3.0"},
    }


# Bad input


async def single(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(START)
    await send(END)


class Opaque:
    def __repr__(self) -> str:
        return "<an app?>"


@pytest.mark.parametrize(
    ("app", "shown"),
    [("module:app", "'module:app'"), (None, "None"), (Opaque(), "<an app?>"), ({"app": 1}, "{'app': 1}")],
)
def test_what_is_no_application_is_refused(app: Any, shown: str) -> None:
    with pytest.raises(TypeError) as caught:
        DisconnectMiddleware(app)
    assert str(caught.value) == f"app must be an ASGI application, not {shown}: pass the object, not its import path"


@pytest.mark.parametrize("option", ["policy", "websocket_policy"])
@pytest.mark.parametrize(
    ("value", "error", "advice"),
    [
        ("cancle", ValueError, "'cancle': look for a misspelling"),
        ("ignore", ValueError, "'ignore': it is called \"mute\" now"),
        ("", ValueError, "'': look for a misspelling"),
        (None, TypeError, "None: pass a string"),
        (True, TypeError, "True: pass a string"),
        (["raise"], TypeError, "['raise']: pass a string"),
    ],
)
def test_a_policy_that_is_none_is_refused(option: str, value: Any, error: type[Exception], advice: str) -> None:
    with pytest.raises(error) as caught:
        DisconnectMiddleware(single, **{option: value})
    assert str(caught.value) == f"{option} must be 'mute', 'finish', 'cancel' or 'raise', not {advice}"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "zero or more seconds, or None, not -1: math.inf is for no limit at all"),
        (-0.001, ValueError, "zero or more seconds, or None, not -0.001: math.inf is for no limit at all"),
        (-math.inf, ValueError, "zero or more seconds, or None, not -inf: math.inf is for no limit at all"),
        (math.nan, ValueError, "zero or more seconds, or None, not nan: math.inf is for no limit at all"),
        ("5", TypeError, "zero or more seconds, or None, not '5': pass a number"),
        (True, TypeError, "zero or more seconds, or None, not True: pass a number"),
        (10**400, ValueError, "zero or more seconds, or None: no float holds a number that large"),
        (5j, TypeError, "zero or more seconds, or None, not 5j: pass a number"),
        (timedelta(5), TypeError, "zero or more seconds, or None, not datetime.timedelta(days=5): pass a number"),
    ],
)
def test_a_grace_that_is_none_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        DisconnectMiddleware(single, grace=value)
    assert str(caught.value) == f"grace must be {message}"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "more than zero seconds, or None, not 0: None is for no limit at all"),
        (-1, ValueError, "more than zero seconds, or None, not -1: None is for no limit at all"),
        (math.inf, ValueError, "more than zero seconds, or None, not inf: None is for no limit at all"),
        (math.nan, ValueError, "more than zero seconds, or None, not nan: None is for no limit at all"),
        ("5", TypeError, "more than zero seconds, or None, not '5': pass a number"),
        (False, TypeError, "more than zero seconds, or None, not False: pass a number"),
        (10**400, ValueError, "more than zero seconds, or None: no float holds a number that large"),
    ],
)
def test_a_send_timeout_that_is_none_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        DisconnectMiddleware(single, send_timeout=value)
    assert str(caught.value) == f"send_timeout must be {message}"


@pytest.mark.parametrize("value", [None, 0, 0.0, 5, 2.5, math.inf, Fraction(1, 2), True + 1])
def test_every_number_of_seconds_is_a_grace(value: Any) -> None:
    DisconnectMiddleware(single, grace=value)


@pytest.mark.parametrize("value", [None, 0.001, 5, Fraction(1, 2)])
def test_every_number_of_seconds_above_zero_is_a_send_timeout(value: Any) -> None:
    DisconnectMiddleware(single, send_timeout=value)


def no_argument() -> None: ...


def two_arguments(disconnect: Any, more: Any) -> None: ...


def keyword_only(*, disconnect: Any) -> None: ...


async def awaits(disconnect: Any) -> None: ...


class AsyncCall:
    async def __call__(self, scope: Any) -> None: ...

    async def method(self, scope: Any) -> None: ...

    def __repr__(self) -> str:
        return "<an async object>"


class TwoArguments:
    def __call__(self, scope: Any, more: Any) -> None: ...

    def __repr__(self) -> str:
        return "<a strange object>"


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)]
)
def test_what_is_no_number_of_orphans_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^max_orphans must be "):
        DisconnectMiddleware(single, policy="finish", max_orphans=value)


def test_a_limit_where_nothing_can_go_on_is_refused() -> None:
    with pytest.raises(ValueError, match="^max_orphans needs apps that can go on for nobody"):
        DisconnectMiddleware(single, policy="raise", max_orphans=1)
    DisconnectMiddleware(single, policy="raise", max_orphans=1, policy_for={"/agents/*": "finish"})


@pytest.mark.parametrize(
    ("policies", "error", "text"),
    [
        ({"/answer": "cancle"}, ValueError, "policy_for['/answer'] must be 'mute', 'finish', 'cancel' or 'raise', not"),
        ({"/answer": None}, TypeError, "policy_for['/answer'] must be"),
        ({7: "cancel"}, TypeError, "policy_for must have patterns of paths as its keys, not 7"),
        ({"v1/*": "cancel"}, ValueError, "policy_for has a pattern that matches no path, 'v1/*'"),
        (
            {"/items/{id}/{part}": "cancel"},
            ValueError,
            "policy_for matches paths, and no templates of a router: '/items/*/*', not '/items/{id}/{part}'",
        ),
    ],
)
def test_a_mapping_with_a_mistake_is_refused(policies: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        DisconnectMiddleware(single, policy_for=policies)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(("option", "argument"), [("on_disconnect", "the Disconnect"), ("policy_for", "the scope")])
@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (no_argument, "tests.test_construction.no_argument: too many positional arguments"),
        (two_arguments, "tests.test_construction.two_arguments: missing a required argument: 'more'"),
        (keyword_only, "tests.test_construction.keyword_only: too many positional arguments"),
        (TwoArguments(), "<a strange object>: missing a required argument: 'more'"),
        (
            functools.partial(two_arguments, 1, 2),
            "functools.partial(<function two_arguments at ...>, 1, 2): too many positional arguments",
        ),
        (7, "7"),
        ("module:function", "'module:function'"),
        ({1}, "{1}"),
    ],
)
def test_what_cannot_be_called_with_one_argument_is_refused(
    option: str, argument: str, function: Any, shown: str
) -> None:
    with pytest.raises(TypeError) as caught:
        DisconnectMiddleware(single, **{option: function})
    message = re.sub(" at 0x[0-9a-f]+>", " at ...>", str(caught.value))
    assert message == f"{option} must be a function of one argument, {argument}, not {shown}"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (awaits, "tests.test_construction.awaits"),
        (AsyncCall(), "<an async object>"),
        (AsyncCall().method, "tests.test_construction.AsyncCall.method"),
        (functools.partial(awaits), "functools.partial(<function awaits at ...>)"),
    ],
)
def test_a_policy_for_that_is_async_is_refused(function: Any, shown: str) -> None:
    with pytest.raises(TypeError) as caught:
        DisconnectMiddleware(single, policy_for=function)
    message = re.sub(" at 0x[0-9a-f]+>", " at ...>", str(caught.value))
    assert message == f"policy_for must be a plain function, not {shown}, which is async: remove the async"


def generates(disconnect: Any) -> Any:
    yield


async def generates_async(disconnect: Any) -> Any:
    yield


class GeneratorCall:
    def __call__(self, disconnect: Any) -> Any:
        yield

    def __repr__(self) -> str:
        return "<a generator's maker>"


@pytest.mark.parametrize("option", ["on_disconnect", "policy_for"])
@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (generates, "tests.test_construction.generates"),
        (generates_async, "tests.test_construction.generates_async"),
        (GeneratorCall(), "<a generator's maker>"),
    ],
)
def test_a_generator_is_refused(option: str, function: Any, shown: str) -> None:
    """It would be made, and nobody would run it."""
    with pytest.raises(TypeError) as caught:
        DisconnectMiddleware(single, **{option: function})
    assert str(caught.value) == (
        f"{option} must be a function, not {shown}, whose yield makes it a generator that nothing would run: "
        "remove the yield"
    )


@pytest.mark.parametrize(
    "function", [None, awaits, AsyncCall(), [].append, {}.get, print, lambda *anything, **more: None, dict, type]
)
def test_a_hook_is_whatever_takes_one_argument(function: Any) -> None:
    """A builtin may have no signature: it is taken at its word."""
    DisconnectMiddleware(single, on_disconnect=function)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        DisconnectMiddleware(single, polcy="raise", timeout=5)  # type: ignore[call-arg]  # the mistake
    assert str(caught.value) == (
        "DisconnectMiddleware takes policy, websocket_policy, grace, send_timeout, max_orphans, policy_for and "
        "on_disconnect, not polcy, timeout: look for a misspelling, or for an option of another version"
    )


def test_the_options_are_keywords() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        DisconnectMiddleware(single, "raise")  # type: ignore[call-arg]  # the mistake


def test_the_application_is_required() -> None:
    with pytest.raises(TypeError, match="app"):
        DisconnectMiddleware(policy="raise")  # type: ignore[call-arg]  # the mistake


# The applications that there are


def plain(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
    """Not a coroutine function, and asgiref would take it for a double callable."""
    return single(scope, receive, send)


async def configured(greeting: str, scope: Any, receive: Any, send: Any) -> None:
    await single(scope, receive, send)


class WithCall:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await single(scope, receive, send)


class WithPlainCall:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        return single(scope, receive, send)


class WithMethod:
    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await single(scope, receive, send)


class AwaitableClass:
    """As Starlette's endpoints are made."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.run = functools.partial(single, scope, receive, send)

    def __await__(self) -> Any:
        return self.run().__await__()


async def with_other_names(environ: Any, read: Any, write: Any, /, *extra: Any) -> None:
    await single(environ, read, write)


async def with_anything(*args: Any, **kwargs: Any) -> None:
    await single(*args, **kwargs)


def decorated(app: Any) -> Any:
    @functools.wraps(app)
    async def wrapper(*args: Any) -> None:
        await app(*args)

    return wrapper


class DoubleClass:
    """An application of ASGI 2, like those of Channels 2."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        await single(self.scope, receive, send)


def double_function(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        await single(scope, receive, send)

    return instance


class DoubleObject:
    def __call__(self, scope: Any) -> Any:
        return double_function(scope)


APPLICATIONS: list[Any] = [
    single,
    plain,
    functools.partial(single),
    functools.partial(configured, "hello"),
    functools.partial(plain),
    WithCall(),
    WithPlainCall(),
    WithMethod().app,
    AwaitableClass,
    with_other_names,
    with_anything,
    lambda scope, receive, send: single(scope, receive, send),
    decorated(single),
    DisconnectMiddleware(single),
    DoubleClass,
    double_function,
    DoubleObject(),
    functools.partial(double_function),
]


@pytest.mark.anyio
@pytest.mark.parametrize("app", APPLICATIONS)
async def test_every_kind_of_application_is_served(app: Any) -> None:
    server = Server()
    await DisconnectMiddleware(app)(http_scope(), server.receive, server.send)
    assert server.sent == [START, END]


@pytest.mark.anyio
async def test_an_endpoint_class_of_starlette_is_an_application() -> None:
    class Greeting(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("hello")

    server = Server()
    await DisconnectMiddleware(Greeting)(http_scope(), server.receive, server.send)
    assert [message["type"] for message in server.sent] == ["http.response.start", "http.response.body"]


@pytest.mark.anyio
async def test_a_double_callable_gets_the_scope_once_for_each_exchange() -> None:
    scopes = []

    class App(DoubleClass):
        def __init__(self, scope: Any) -> None:
            scopes.append(scope)
            super().__init__(scope)

    app = DisconnectMiddleware(App)
    one, two = http_scope(), http_scope()
    for scope in (one, two):
        server = Server()
        await app(scope, server.receive, server.send)
    assert [scopes[0] is one, scopes[1] is two, len(scopes)] == [True, True, 2]


def test_a_callable_without_a_signature_is_taken_at_its_word() -> None:
    """As extension modules have them."""
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(dict)
    DisconnectMiddleware(dict)


# The call


@pytest.mark.anyio
async def test_receive_and_send_may_be_passed_by_keyword() -> None:
    for app in (single, double_function):
        server = Server()
        await DisconnectMiddleware(app)(scope=http_scope(), receive=server.receive, send=server.send)
        assert server.sent == [START, END]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan", "mystery"])
async def test_what_the_app_returns_is_returned(kind: str) -> None:
    result = object()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        return result

    server = Server()
    returned: Any = await DisconnectMiddleware(app)({"type": kind}, server.receive, server.send)
    assert returned is result


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan", "mystery"])
async def test_what_the_app_raises_is_raised(kind: str) -> None:
    error = OSError()

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        raise error

    server = Server()
    with pytest.raises(OSError) as caught:
        await DisconnectMiddleware(app)({"type": kind}, server.receive, server.send)
    assert (caught.value is error, error.__cause__, error.__context__) == (True, None, None)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "scope", [{"type": "lifespan", "state": {}}, {"type": "mystery"}, {"type": "HTTP"}, {"type": None}, {}]
)
@pytest.mark.parametrize("options", [{}, {"policy": "raise", "websocket_policy": "mute"}])
async def test_other_scopes_get_the_very_same_callables(scope: dict[str, Any], options: Any) -> None:
    got: list[Any] = []

    async def app(*args: Any) -> None:
        got.extend(args)

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    served = {**scope, "asgi": {"spec_version": "9.9"}}
    before = {**scope, "asgi": {"spec_version": "9.9"}}
    await DisconnectMiddleware(app, **options)(served, receive, send)
    assert got == [served, receive, send]
    assert (got[0] is served, served) == (True, before)


@pytest.mark.anyio
@pytest.mark.parametrize("call", [None, "receive", "send"])
async def test_nothing_is_received_or_sent_that_the_app_did_not(call: str | None) -> None:
    calls = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if call == "receive":
            await receive()
        if call == "send":
            await send(START)

    async def receive() -> Any:
        calls.append("receive")
        return REQUEST

    async def send(message: Any) -> None:
        calls.append("send")

    await DisconnectMiddleware(app)(http_scope(), receive, send)
    assert calls == ([call] if call else [])


@pytest.mark.anyio
async def test_one_instance_serves_many_exchanges_at_a_time() -> None:
    """State belongs to the call, not to the instance."""
    both_are_in = anyio.Event()
    inside = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal inside
        message = await receive()
        inside += 1
        if inside == 2:
            both_are_in.set()
        await both_are_in.wait()
        await send({**START, "reason": message["type"]})

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    wrapped = DisconnectMiddleware(app)
    before = dict(vars(wrapped))
    left, stays = Server(), Server()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wrapped, http_scope(), gone, left.send)
        tasks.start_soon(wrapped, http_scope(), stays.receive, stays.send)
    assert stays.sent == [{**START, "reason": "http.request"}]
    assert vars(wrapped) == before


# Lifespan


@pytest.mark.anyio
@pytest.mark.parametrize("inside", [True, False])
async def test_the_lifespan_and_its_state_pass(inside: bool) -> None:
    """asgi-lifespan's LifespanManager, with ours around the whole app and inside its stack."""
    steps: list[str] = []

    class Lifespan:
        def __init__(self, app: Starlette) -> None: ...

        async def __aenter__(self) -> dict[str, Any]:
            steps.append("startup")
            return {"database": "connected"}

        async def __aexit__(self, *_: object) -> None:
            steps.append("shutdown")

    async def home(request: Request) -> Response:
        return PlainTextResponse(request.state.database)

    app: Callable[..., Any] = Starlette(routes=[Route("/", home)], lifespan=Lifespan)
    if inside:
        app.add_middleware(DisconnectMiddleware)  # type: ignore[attr-defined]  # Starlette's
    else:
        app = DisconnectMiddleware(app)
    server = Server()
    async with LifespanManager(app) as manager:
        steps.append(repr(manager._state))
        await manager.app(http_scope(), server.receive, server.send)
    assert steps == ["startup", "{'database': 'connected'}", "shutdown"]
    assert server.sent[1]["body"] == b"connected"


@pytest.mark.anyio
async def test_a_lifespan_that_fails_fails_as_it_does_bare() -> None:
    class Broken:
        def __init__(self, app: Starlette) -> None: ...

        async def __aenter__(self) -> None:
            raise OSError("no database")

        async def __aexit__(self, *_: object) -> None: ...

    async def startup() -> Any:
        return {"type": "lifespan.startup"}

    bare, ours = Server(), Server()
    app = Starlette(lifespan=Broken)
    with pytest.raises(OSError, match="no database"):
        await app({"type": "lifespan", "state": {}}, startup, bare.send)
    with pytest.raises(OSError, match="no database"):
        await DisconnectMiddleware(app)({"type": "lifespan", "state": {}}, startup, ours.send)
    assert [message["type"] for message in ours.sent] == ["lifespan.startup.failed"]
    assert [message["type"] for message in bare.sent] == ["lifespan.startup.failed"]


@pytest.mark.parametrize("kind", [Starlette, DisconnectMiddleware, type("Inheriting", (Starlette,), {})])
def test_a_class_whose_instances_are_applications_is_refused(kind: type) -> None:
    """Without this the first request would fail, and the error speak of something else."""
    with pytest.raises(TypeError, match=rf"not the class {kind.__qualname__}: pass the instance$"):
        DisconnectMiddleware(kind)


@pytest.mark.parametrize(
    ("kind", "policy"), [(CancelOnDisconnect, "cancel"), (RaiseOnDisconnect, "raise")], ids=["cancel", "raise"]
)
def test_an_install_without_options_names_the_one_that_takes_them(kind: Any, policy: str) -> None:
    instead = re.escape(f"use DisconnectMiddleware(app, policy='{policy}', grace=5)")
    with pytest.raises(TypeError, match=rf"^{kind.__name__} takes no options, not grace: {instead}$"):
        kind(double_function, grace=5)
