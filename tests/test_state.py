"""The machine: one total table (P1, P2, P3)."""

from __future__ import annotations

import pytest

from disconnect_mw._http import HTTPConnection
from disconnect_mw._options import Options
from disconnect_mw._state import TRANSITIONS, Cause, State
from disconnect_mw._websocket import WebSocketConnection

from .support.simulated_server import SimulatedServer


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
