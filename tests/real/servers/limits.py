"""Limits: what a server cannot show, why, and what it may show instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .scenarios import AFTER_THE_END, GREETED, HTTP1, HTTP2, WEBSOCKET, Scenario
from .server import Outcome
from .setups import Setup


@dataclass(frozen=True)
class Limit:
    """Why a server cannot show the expected outcome, and which other it may show; None: the scenario is not played."""

    reason: str
    allows: Callable[[Outcome, Outcome], bool] | None


def limit_of(scenario: Scenario, setup: Setup, version: str) -> Limit | None:
    """Return what `scenario` cannot show on this server, or None."""
    number = tuple(map(int, version.split(".")[:3]))
    find = _LIMITS.get(setup.server)
    return None if find is None else find(scenario, setup, number)


def stops_late(setup: Setup, version: str) -> bool:
    """Whether the server may ignore a signal to stop while a WebSocket is open."""
    return setup.server == "granian" and version.startswith("1.")


# uvicorn


def _is_silence(outcome: Outcome, expected: Outcome) -> bool:
    """The app went on sending until it stopped by itself, and saw the same from then on."""
    if outcome.seen == expected.seen[1:]:
        return replace(outcome, seen=expected.seen) == expected
    seen = (*expected.seen, "SILENCE") if expected.seen == GREETED.seen else ("SILENCE",)
    return outcome == Outcome(seen, info_lines=0)


def _is_raised_outside(outcome: Outcome, expected: Outcome) -> bool:
    """The server's exception was raised in the middleware outside ours, and ended the exchange without a log line."""
    return (
        outcome.seen == expected.seen[: len(outcome.seen)]
        and outcome.ends == ("raised uvicorn.ClientDisconnected",)
        and not outcome.errors
        and outcome.info_lines <= 1
    )


def _is_raised_by_itself(outcome: Outcome, expected: Outcome) -> bool:
    """The server logged the app's error, and then its own: its 500 went to the client that had left."""
    own = expected.errors[0], "uvicorn.ClientDisconnected"
    return outcome == replace(expected, errors=own)


_SILENT = Limit("websocket.send is silent after a lost connection (wsproto in 0.13.4)", _is_silence)
_UNREPORTED = Limit("receive never reports a WebSocket that was lost by FIN (wsproto in 0.13.4)", None)
_RAISED_OUTSIDE = Limit("send raises in the middleware outside ours (0.28.0)", _is_raised_outside)
_RAISED_BY_ITSELF = Limit("the server's own answer to an app's bug raises as well (0.28.0)", _is_raised_by_itself)


def _of_uvicorn(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    is_websocket = scenario.protocol == WEBSOCKET
    if is_websocket and setup.ws == "wsproto" and number == (0, 13, 4) and scenario.how != "clean":
        if scenario.app in ("ws_only_ever_sends", "ws_feed"):
            return _SILENT
        return _UNREPORTED if scenario.how in ("fin", "half") else None
    if number == (0, 28, 0) and scenario.is_of_starlette and not is_websocket:
        if scenario.variant == "around":
            return _RAISED_BY_ITSELF if scenario.expected.errors else None
        # The middleware outside ours (always Starlette's ServerErrorMiddleware) sends to a server that raises.
        if scenario.variant in ("outside", "both") or scenario.app in ("bug", "missing_file", "body"):
            return _RAISED_OUTSIDE
    return None


# The other servers


def _is_no_complaint(outcome: Outcome, expected: Outcome) -> bool:
    """No exception tells the app of its mistake."""
    if expected.seen[-1] == "too late: the server complains":
        return outcome == replace(expected, seen=(*expected.seen[:-1], "too late: NO COMPLAINT"))
    return outcome == Outcome((), info_lines=0)


def _is_complaint_in_log(outcome: Outcome, expected: Outcome) -> bool:
    """No exception tells the app of its mistake; the server's log does."""
    return outcome == Outcome((), info_lines=0, errors=("builtins.RuntimeError",))


def _is_nothing_after_its_end(outcome: Outcome, expected: Outcome) -> bool:
    seen = [line.replace(AFTER_THE_END[0], "after the end: nothing") for line in expected.seen]
    return outcome == replace(expected, seen=tuple(seen))


def _is_complete(outcome: Outcome, expected: Outcome) -> bool:
    return outcome == replace(expected, info_lines=0)


def _is_complete_or_refused(outcome: Outcome, expected: Outcome) -> bool:
    """Or the server cannot wait for a client that reads slowly, and raises, as it does without ours."""
    return _is_complete(outcome, expected) or _is_runtime_error(outcome, expected)


def _is_logged_each_time(outcome: Outcome, expected: Outcome) -> bool:
    return replace(outcome, repeats=()) == expected


def _is_cancelled(outcome: Outcome, expected: Outcome) -> bool:
    return outcome.ends == ("raised asyncio.CancelledError",) and not outcome.errors and not outcome.repeats


def _is_raised_by_h11(outcome: Outcome, expected: Outcome) -> bool:
    raised = "h11.LocalProtocolError"
    return outcome == replace(expected, ends=(f"raised {raised}",), errors=(raised,))


_ONLY_SENDS = ("send_only", "never_receives", "blocked_send", "blocked_send_heard", "blocked_send_alone")
_SENDS_OFTEN = ("sends_until_it_ends", "sends_until_told", "streams")  # in the 50 ms until the first check
_LOGGED_EACH_TIME = Limit(
    "the server logs each send to a client that has left, and the middleware learns of the disconnect only when it or "
    "the app receives",
    _is_logged_each_time,
)

_SENDS_FILE = "the server sends the file itself (pathsend): the app's response is complete by then"

_NO_COMPLAINT = "the server takes a message that must not come, and does not complain"
_SENT_TOO_MUCH = ("sends_after_its_end", "sends_too_much")
_BEFORE_ACCEPT = ("ws_before_accept", "ws_returns_before_accept", "ws_closes_before_accept")


def _is_runtime_error(outcome: Outcome, expected: Outcome) -> bool:
    raised = "builtins.RuntimeError"
    return outcome == Outcome((), (f"raised {raised}",), info_lines=0, errors=(raised,))


def _of_daphne(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    if scenario.app in ("answers_during_upload", "body", "upload", "upload_in_time") or "cut upload" in scenario.name:
        return Limit(
            "the server takes the whole upload before it calls the app, so a cut one never reaches the app", None
        )
    if scenario.app in _SENT_TOO_MUCH:
        return Limit(_NO_COMPLAINT, _is_no_complaint)
    is_raised = scenario.expected.errors and scenario.expected.ends != ("returned",)
    if is_raised and scenario.variant not in ("mute", "alone"):
        return Limit("the server checks once a second for what apps have raised: played with one variant", None)
    return None


def _of_granian(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    if scenario.app in _BEFORE_ACCEPT:
        return Limit("the server never reports a WebSocket client that leaves before it is accepted", None)
    if number < (2,) and (limit := _of_granian_1(scenario)) is not None:
        return limit
    if scenario.app in (*_ONLY_SENDS, *_SENDS_OFTEN):
        return _LOGGED_EACH_TIME
    if scenario.app in ("sends_too_much", "ws_stays"):
        return Limit(_NO_COMPLAINT, _is_no_complaint)
    if scenario.app == "upload_in_time":
        return Limit(
            "the server may lose a message that comes while a receive is cancelled, as it does without ours", None
        )
    if scenario.app == "file":
        return Limit(_SENDS_FILE, _is_complete)
    return None


_UNHEARD_BY_GRANIAN_1 = (
    *("before_start", "cancelled_reader", "lets_a_group_out", "lets_out", "listen", "peeks", "polls", "returns_early"),
    *("tight_loop", "two_readers", "bug_file", "bug_outbound", "bug_timeout", "bug_value"),
    *("asks", "asks_from_thread", "commits", "endures", "endures_behind", "finishes", "goes_on", "polls_now_and_then"),
    *("sets_its_policy", "sets_policy", "sets_policy_behind", "stalls", "stream_to_its_end", "waits", "waits_for_it"),
    "works",
)


def _of_granian_1(scenario: Scenario) -> Limit | None:
    if scenario.app == "sends_after_its_end":
        return Limit("granian 1's whole process ends when a message comes after the last one", None)
    if scenario.app in ("ws_stays", "ws_is_not_gone"):
        return Limit("granian 1 closes a WebSocket without a close frame", None)
    if scenario.app in ("upload_in_time", "polls_blindly"):
        return Limit("granian 1's receive turns anyio's cancellation into one that ends the app", None)
    if scenario.app == "ws_echo":
        return Limit(
            "granian 1 may repeat the handshake to a client that is lost just after it, and Starlette complains",
            _is_runtime_error,
        )
    if scenario.protocol == WEBSOCKET or scenario.name.startswith("cut "):
        return None
    if scenario.app in _UNHEARD_BY_GRANIAN_1 or scenario.app == "reads_late":
        return Limit("granian 1 reports a disconnect only when a send has failed, or in an upload", None)
    if scenario.how == "half":
        return Limit("granian 1 does not report a client that closes its sending side", None)
    return None


def _of_anycorn(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    limit = _of_both_corns(scenario)
    if limit is None and scenario.app == "file":
        return Limit(_SENDS_FILE, _is_complete_or_refused)
    return limit


def _of_hypercorn(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    if scenario.protocol == HTTP1 and scenario.app in _ONLY_SENDS and setup.loop != "trio":
        return _LOGGED_EACH_TIME
    if scenario.protocol == HTTP1 and scenario.app == "file" and scenario.variant in ("outside", "both"):
        return Limit(
            "a middleware outside ours ends the response before its announced length, as it does without ours",
            _is_raised_by_h11,
        )
    return _of_both_corns(scenario)


def _of_both_corns(scenario: Scenario) -> Limit | None:
    """Of anycorn, a fork of Hypercorn, and of Hypercorn."""
    if scenario.app == "ws_stays":
        return Limit("once the client has answered the close, the server takes any message silently", _is_no_complaint)
    if scenario.protocol == HTTP2 and scenario.is_of_starlette and scenario.how != "stays":
        # Here Starlette's ServerErrorMiddleware, which answers an app's bug with a 500, is outside ours.
        is_bug = scenario.app in ("bug", "missing_file") and scenario.variant in ("alone", "inside")
        if is_bug or scenario.variant in ("outside", "both"):
            return Limit("over HTTP/2 a send blocks for ever, and a middleware outside ours sends", None)
    return None


def _of_gunicorn(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    if setup.worker != "asgi":
        return None  # its limits are those of the newest uvicorn: none
    if scenario.app == "after_its_end":
        return Limit(
            "the server's receive waits after the end, as long as the client is there", _is_nothing_after_its_end
        )
    if scenario.app in _SENT_TOO_MUCH:
        return Limit(_NO_COMPLAINT, _is_no_complaint)
    if scenario.app == "blocked_send_alone" and scenario.variant == "mute":
        return Limit("the app does not receive, and the server cancels it after 3 s", _is_cancelled)
    if scenario.app == "file" and scenario.variant in ("outside", "both") and scenario.how == "rst":
        return Limit(
            "the server may block a send of a middleware outside ours, and cancels it after 3 s", _is_cancelled
        )
    if scenario.app == "sends_before_its_start":
        return Limit("the server complains in its own log and not to the app", _is_complaint_in_log)
    return None


def _is_stopped(outcome: Outcome, expected: Outcome) -> bool:
    """The app has ended, by its own end or by the server's cancellation, and nothing is logged as an error."""
    is_ended = set(outcome.ends) <= {"returned", "raised asyncio.CancelledError"}
    return is_ended and not outcome.errors and not outcome.repeats and outcome.info_lines <= 1


def _is_stopped_or_raised_outside(outcome: Outcome, expected: Outcome) -> bool:
    return _is_stopped(outcome, expected) or outcome == replace(expected, ends=("raised h2corn.SendAfterCloseError",))


def _is_raised_outside_by_caddy(outcome: Outcome, expected: Outcome) -> bool:
    """The same, before the background task."""
    return outcome == replace(expected, seen=expected.seen[:1], ends=("raised __main__.ClientDisconnected",))


def _is_complaint(outcome: Outcome, expected: Outcome) -> bool:
    """The app's mistake raises, and the server's log says nothing of it."""
    own = ("raised h2corn.SendAfterCloseError",), ("raised __main__.ClientDisconnected",)
    return outcome.seen == expected.seen and outcome.ends in own and not outcome.info_lines


def _of_h2corn(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    if scenario.how != "stays":
        is_outside = scenario.variant in ("outside", "both")  # of ours there is middleware, to which its send raises
        allows = _is_stopped_or_raised_outside if is_outside else _is_stopped
        return Limit("the server cancels the app when a send meets the lost connection", allows)
    if scenario.app == "upload_in_time":
        return Limit("the server's receive fails once it has been cancelled, as it does without ours", None)
    if scenario.app == "sends_after_its_end":
        return Limit("the server raises, and logs nothing of it", _is_complaint)
    if scenario.app in ("sends_before_its_start", "sends_too_much", "ws_stays"):
        return Limit(_NO_COMPLAINT, _is_no_complaint)
    return None


def _of_caddysnake(scenario: Scenario, setup: Setup, number: tuple[int, ...]) -> Limit | None:
    if scenario.app == "stream" and scenario.variant in ("outside", "both"):
        return Limit("send raises in the middleware outside ours", _is_raised_outside_by_caddy)
    if scenario.app == "upload_in_time":
        return Limit("the server holds the beginning of an upload back, as it does without ours", None)
    if scenario.app == "sends_before_its_start":
        return Limit("the server leaves a client without an answer where the app makes a mistake", None)
    if scenario.app == "sends_after_its_end":
        return Limit("the server raises, and logs nothing of it", _is_complaint)
    if scenario.app in ("sends_too_much", "ws_stays"):
        return Limit(_NO_COMPLAINT, _is_no_complaint)
    return None


_LIMITS: dict[str, Callable[[Scenario, Setup, tuple[int, ...]], Limit | None]] = {
    "uvicorn": _of_uvicorn,
    "daphne": _of_daphne,
    "granian": _of_granian,
    "hypercorn": _of_hypercorn,
    "anycorn": _of_anycorn,
    "gunicorn": _of_gunicorn,
    "h2corn": _of_h2corn,
    "caddysnake": _of_caddysnake,
}
