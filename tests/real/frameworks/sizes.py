"""How much work there is: what is known on both sides, in the server's process and in the tests."""

from __future__ import annotations

STEPS = 20

STEPS_UNTIL_IT_LEAVES = 4
"""The client. They take longer than the 75 ms after which the middleware has checked for the first time."""

SECONDS_OF_GRACE = 4
"""Long enough for a busy machine to do in a part of it what comes at once."""

GATEWAY_POLICIES = ("mute", "raise", "cancel", "finish")
"""The last with a grace."""

POOL = 2
"""Connections that each policy's gateway may have to its upstream server."""

KINDS = ("none", "client", "anyio")
"""Of shield: none, `client.shield()`, `anyio.CancelScope(shield=True)`."""

PLACES = (
    "handler",
    "handler_finally",
    "body",
    "stream_finally",
    "coroutine_finally",
    "dependency",
    "stream_dependency",
    "events_finally",
    "sse_finally",
    "sse_coroutine_finally",
)
"""Where an app may await what must not be cut: see `apps.shields`."""

STACK_NAMES = ("alone", "inside", "outside", "nested", "both")
"""Where the middleware stands: alone, inside or outside of a BaseHTTPMiddleware, twice, on both sides of one."""

SAID = {"read_late": ("one", "two"), "channels": ("one",), "reads_once": ("one",)}
"""What the clients of WebSockets say before they leave, by app. Of what is unread, one message is read ahead."""

POSITIONS = ("bare", "inside", "outside", "both")
"""Where the middleware stands: nowhere, inside or outside of Sentry, tracing and metrics, on both sides of them."""

TOOL_SITUATIONS = ("before", "stream", "upload")
"""The first two under `cancel`."""
