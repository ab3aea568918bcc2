"""Where a cell is worse than bare, or not as promised, and why that is so."""

from __future__ import annotations

from collections.abc import Iterable

LIMITS: dict[tuple[str, str, str], str] = {
    ("channels", "ws_both", "cancel"): (
        "Channels calls ``disconnect()`` after the handler of a received message, and not where that is cancelled; "
        "``websocket_policy`` at its default mutes, and tells by the message"
    ),
    ("channels", "ws_send", "mute"): (
        "where the server's ``send`` is silent the consumer would send for ever, bare; it is stopped by an exception, "
        "after which Channels does not call ``disconnect()``, as bare on uvicorn"
    ),
    ("channels", "ws_send", "cancel"): "the same, by a cancellation",
    ("mcp_sessions", "before", "cancel"): "a tool runs in the session's task, which outlasts the request",
    ("nicegui", "before", "cancel"): (
        "a page's function runs in a task of its own, which goes on; the request that waits for it is cancelled, and "
        "leaves the task of a time-out"
    ),
    ("nicegui", "bug", "cancel"): "the same",
    ("flask_a2wsgi", "before", "cancel"): "a thread cannot be cancelled: it goes on, and frees its worker",
    ("flask_a2wsgi", "stream", "cancel"): "the same",
    ("flask_asgiref", "before", "cancel"): "the same",
    ("flask_asgiref", "stream", "cancel"): "the same",
}
"""By framework, situation and variant."""


def limit_of(framework: str, situation: str, variant: str) -> str | None:
    return LIMITS.get((framework, situation, variant))


def unused(seen: Iterable[tuple[str, str, str]]) -> list[str]:
    """Limits that nothing has run into: they are to be deleted."""
    return [", ".join(limit) for limit in LIMITS.keys() - set(seen)]
