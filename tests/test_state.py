"""The machine: one total table (P1, P2, P3)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from disconnect_mw._http import HTTPConnection
from disconnect_mw._options import Options
from disconnect_mw._state import TRANSITIONS, Cause, State
from disconnect_mw._websocket import WebSocketConnection

from .support.messages import DISCONNECT, FINAL, REQUEST, START, http_scope
from .support.simulated_server import SimulatedServer
from .test_backends import drive


def test_the_table_has_one_row_for_each_state_and_cause() -> None:
    assert set(TRANSITIONS) == {(state, cause) for state in State for cause in Cause}


def test_the_states_have_the_words_that_are_printed() -> None:
    assert [state.value for state in State] == ["open", "complete", "disconnected"]


@pytest.mark.parametrize("cause", Cause)
def test_a_client_that_has_left_never_comes_back(cause: Cause) -> None:
    assert TRANSITIONS[State.DISCONNECTED, cause] is State.DISCONNECTED


@pytest.mark.parametrize("cause", [Cause.DISCONNECT_RECEIVED, Cause.SEND_FAILED])
def test_after_the_last_message_no_disconnect_counts(cause: Cause) -> None:
    """P3: complete is not gone."""
    assert TRANSITIONS[State.COMPLETE, cause] is State.COMPLETE


def test_while_the_exchange_is_open_each_cause_leads_where_it_says() -> None:
    assert {cause: TRANSITIONS[State.OPEN, cause] for cause in Cause} == {
        Cause.LAST_MESSAGE: State.COMPLETE,
        Cause.LAST_MESSAGE_REFUSED: State.OPEN,
        Cause.DISCONNECT_RECEIVED: State.DISCONNECTED,
        Cause.SEND_FAILED: State.DISCONNECTED,
    }


def test_a_last_message_that_the_server_refused_was_not_the_last() -> None:
    assert TRANSITIONS[State.COMPLETE, Cause.LAST_MESSAGE_REFUSED] is State.OPEN


def test_a_second_last_message_changes_nothing() -> None:
    assert TRANSITIONS[State.COMPLETE, Cause.LAST_MESSAGE] is State.COMPLETE


def test_a_connection_shows_its_state() -> None:
    for kind, name in ((HTTPConnection, "HTTPConnection"), (WebSocketConnection, "WebSocketConnection")):
        connection = kind()
        connection.open({}, SimulatedServer.receive, SimulatedServer.send, Options("mute"), None)  # type: ignore[arg-type]  # never called
        assert repr(connection) == f"<{name} open>"


async def app(scope: Any, receive: Any, send: Any) -> None: ...


class Play:
    """A connection that is in `state`, without an event loop, and the server's side of it."""

    def __init__(self, state: State) -> None:
        self.error: Exception | None = None
        self.has_left = state is State.DISCONNECTED
        self.connection = HTTPConnection()
        self.connection.open(http_scope(), self._receive, self._send, Options("mute"), None)
        self.connection.open_without_task(app)
        if state is State.DISCONNECTED:
            drive(self.connection.receive())
        elif state is State.COMPLETE:
            drive(self.connection.send(START))
            drive(self.connection.send(FINAL))
        assert self.connection.state is state

    async def _receive(self) -> Any:
        return dict(DISCONNECT if self.has_left else REQUEST)

    async def _send(self, message: Any) -> None:
        if self.error is not None:
            raise self.error

    def take(self, cause: Cause) -> None:
        if cause is Cause.DISCONNECT_RECEIVED:
            self.has_left = True
            drive(self.connection.receive())
            return
        is_open, sends_last = self.connection.state is State.OPEN, cause is not Cause.SEND_FAILED
        if is_open and sends_last:
            drive(self.connection.send(START))
        if cause is Cause.LAST_MESSAGE_REFUSED:
            self.error = RuntimeError("refused")
        elif cause is Cause.SEND_FAILED:
            self.error = ConnectionResetError()
        with contextlib.suppress(RuntimeError, ConnectionResetError):
            drive(self.connection.send(START if is_open and not sends_last else FINAL))


# For this row see the next test: the message must be on its way.
@pytest.mark.parametrize(
    ("state", "cause"), [row for row in TRANSITIONS if row != (State.COMPLETE, Cause.LAST_MESSAGE_REFUSED)]
)
def test_a_connection_goes_by_the_table(state: State, cause: Cause) -> None:
    play = Play(state)
    play.take(cause)
    assert play.connection.state is TRANSITIONS[state, cause]


def test_a_connection_whose_last_message_is_refused_is_open_again() -> None:
    """The message is on its way, so the exchange is complete already; then the server refuses it."""
    connection = HTTPConnection()
    seen = []

    async def receive() -> Any:
        return dict(REQUEST)

    async def send(message: Any) -> None:
        if message is FINAL:
            seen.append(connection.state)
            raise RuntimeError("refused")

    connection.open(http_scope(), receive, send, Options("mute"), None)
    connection.open_without_task(app)
    drive(connection.send(START))
    with pytest.raises(RuntimeError, match="refused"):
        drive(connection.send(FINAL))
    assert [*seen, connection.state] == [State.COMPLETE, State.OPEN]
