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
    ("blacksheep", "stream", "cancel"): (
        "it is not cancelled on uvicorn where a2wsgi is installed: the middleware cannot look into compiled generators"
    ),
    ("blacksheep", "events", "cancel"): "the same",
    ("quart", "bug", "mute"): (
        "the bug is told, and beside it Quart's ``ClientDisconnectedError``, which the middleware does not know"
    ),
    ("quart", "bug", "cancel"): "the same",
}
"""By framework, situation and variant."""


def limit_of(framework: str, situation: str, variant: str) -> str | None:
    return LIMITS.get((framework, situation, variant))


def unused(seen: Iterable[tuple[str, str, str]]) -> list[str]:
    """Limits that nothing has run into: they are to be deleted."""
    return [", ".join(limit) for limit in LIMITS.keys() - set(seen)]
