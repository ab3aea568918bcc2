"""The observers of departures (`disconnect_mw.observe.subscribe`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from disconnect_mw import DisconnectMiddleware, Exchange
from disconnect_mw._telling import OBSERVERS
from disconnect_mw.observe import Departure, subscribe

from .support.apps import leaving
from .support.messages import FINAL, START, http_scope
from .support.serving import is_trio, left, serve
from .support.simulated_server import http, websocket

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_observer_remains() -> Iterator[None]:
    yield
    OBSERVERS.clear()


class Recorder:
    """An observer that keeps what it is called with."""

    def __init__(self) -> None:
        self.departures: list[Departure] = []
        self.exchanges: list[Exchange] = []

    def __call__(self, departure: Departure) -> Any:
        self.departures.append(departure)
        return self.exchanges.append


async def test_an_observer_hears_of_a_departure_at_once_and_of_the_end() -> None:
    observer, scope = Recorder(), http_scope(route=SimpleNamespace(path="/{name}"), path="/x")
    subscribe(observer)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        assert len(observer.departures) == 1
        assert observer.exchanges == []

    await serve(app, http(), scope, policy="raise")
    (departure,), (exchange,) = observer.departures, observer.exchanges
    assert exchange.disconnect is departure.disconnect
    assert (departure.disconnect.path, departure.route, departure.policy) == ("/x", "/{name}", "raise")
    assert departure.scope is scope
    assert departure.task is not None
    assert departure.context is not None


async def test_without_a_route_it_is_the_path() -> None:
    observer = Recorder()
    subscribe(observer)
    await serve(leaving, http(), http_scope(path="/x"))
    assert observer.departures[0].route == "/x"


@pytest.mark.usefixtures("soon")
async def test_an_observer_has_every_exchange_checked() -> None:
    """Under `mute` an app that never receives goes on, and the departure is known all the same."""
    observer = Recorder()
    subscribe(observer)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        send.__self__.server_receive.__self__.leave()
        while not observer.departures:
            await anyio.sleep(0.001)

    await serve(app, http())
    assert [exchange.ended for exchange in observer.exchanges] == ["returned"]


async def test_a_client_that_stays_is_not_told_of() -> None:
    observer = Recorder()
    subscribe(observer)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(FINAL)

    await serve(app, http())
    assert (observer.departures, observer.exchanges) == ([], [])


async def test_nested_installs_tell_of_one_departure() -> None:
    observer = Recorder()
    subscribe(observer)
    await serve(DisconnectMiddleware(left_and_cancelled, policy="cancel"), http())
    assert [departure.policy for departure in observer.departures] == ["cancel"]
    assert [exchange.ended for exchange in observer.exchanges] == ["cancelled"]


async def left_and_cancelled(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await left(send.__self__.server_receive.__self__.server_receive.__self__)


async def test_a_websocket_is_told_of() -> None:
    observer, far = Recorder(), websocket()
    subscribe(observer)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        far.leave()
        await receive()

    await serve(app, far)
    assert [departure.disconnect.protocol for departure in observer.departures] == ["websocket"]
    assert len(observer.exchanges) == 1


async def test_what_an_observer_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def failing(argument: object) -> Any:
        raise KeyError(argument)

    def failing_later(departure: Departure) -> Any:
        return failing

    observer = Recorder()
    for one in (failing, failing_later, observer):
        subscribe(one)
    assert await serve(leaving, http()) == "done"
    assert len(observer.exchanges) == 1
    failures = [message for message in caplog.messages if message.startswith("an observer of departures failed: ")]
    assert len(failures) == 2


async def test_who_has_unsubscribed_hears_nothing_but_the_ends_of_what_it_was_told() -> None:
    """What it counted up is counted down again."""
    observer, other = Recorder(), Recorder()
    unsubscribe, unsubscribe_other = subscribe(observer), subscribe(other)
    unsubscribe()
    await serve(leaving, http())
    assert observer.departures == []
    assert len(other.exchanges) == 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await leaving(scope, receive, send)
        unsubscribe_other()

    await serve(app, http())
    assert (len(other.departures), len(other.exchanges)) == (2, 2)
    assert OBSERVERS == []
    await serve(leaving, http())
    assert len(other.departures) == 2


async def test_to_unsubscribe_twice_does_nothing() -> None:
    observer = Recorder()
    unsubscribe = subscribe(observer)
    unsubscribe()
    subscribe(observer)
    unsubscribe()
    await serve(leaving, http())
    assert len(observer.departures) == 1


async def test_an_observer_that_returns_nothing_hears_no_end() -> None:
    departures: list[Departure] = []
    subscribe(departures.append)
    await serve(leaving, http())
    assert len(departures) == 1
    assert is_trio() or departures[0].task is not None


@pytest.mark.parametrize(
    ("observer", "message"),
    [
        (None, "observer must be a function of one argument, the Departure, not None"),
        ("log", "observer must be a function of one argument, the Departure, not 'log'"),
        (lambda: None, "too many positional arguments"),
    ],
)
def test_what_is_no_observer_is_refused(observer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        subscribe(observer)


def test_an_async_observer_is_refused() -> None:
    async def observer(departure: Departure) -> None:
        """Never called."""

    with pytest.raises(TypeError, match="observer must be a plain function, not .*, which is async"):
        subscribe(observer)  # type: ignore[arg-type]  # that is the test


async def test_a_server_that_shuts_down_is_no_departure() -> None:
    told: list[Departure] = []
    stop = subscribe(told.append)
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1012, "reason": ""}]

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    await DisconnectMiddleware(app)({"type": "websocket", "path": "/", "headers": [], "asgi": {}}, receive, send)
    stop()
    assert told == []
