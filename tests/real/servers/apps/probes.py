"""`probe`, which makes an app of a function for each set of options, and the hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

from disconnect_mw import Disconnect, DisconnectMiddleware

from ..play import Stage, emit

PATIENCE = 2.0
"""Seconds after which an app stops waiting: for its `send` to raise, for its cancellation."""

GRACE = 0.2
"""Seconds for which an app may go on under the options named `grace`."""

SECONDS_TO_END = 0.2
"""Longer than what waits to be told has to react, before it is cancelled."""

Probe = Callable[[Stage], Awaitable[None]]

APPS: dict[tuple[str, str], Any] = {}
"""Every app, by name and variant: the options of ours, or the order of middleware; "bare" has none of ours."""


# Hooks. They add a line to the transcript of the run in the record's path.


def hook(disconnect: Disconnect) -> None:
    emit(run=disconnect.path.rpartition("/")[2], line=f"hook: {record_text(disconnect)}", known=True)


def record_text(disconnect: Disconnect) -> str:
    """Return the fields of the record that are the same on all servers."""
    path = disconnect.path.rpartition("/")[0]
    peer = None if disconnect.peer is None else disconnect.peer[0]
    code = "a code" if isinstance(disconnect.code, int) else disconnect.code
    is_plausible = 0 < disconnect.seconds < PATIENCE
    return (
        f"{disconnect.protocol} {disconnect.method} {path} from {peer}, {disconnect.phase}, {code}, "
        f"after {'some' if is_plausible else disconnect.seconds} time"
    )


async def async_hook(disconnect: Disconnect) -> None:
    hook(disconnect)
    await anyio.sleep(0.01)
    emit(run=disconnect.path.rpartition("/")[2], line="the hook has ended", known=True)


def raising_hook(disconnect: Disconnect) -> None:
    hook(disconnect)
    raise ValueError("a bug of the hook's own")


async def raising_async_hook(disconnect: Disconnect) -> None:
    await async_hook(disconnect)
    raise ValueError("a bug of the hook's own")


def cancels_what_waits(scope: Any) -> Any:
    return "cancel" if scope["path"].startswith("/waits/") else None


OPTIONS: dict[str, dict[str, Any]] = {
    "mute": {"policy": "mute", "websocket_policy": "mute"},
    "raise": {"policy": "raise", "websocket_policy": "raise"},
    "cancel": {"policy": "cancel", "websocket_policy": "cancel"},
    "grace": {"policy": "mute", "websocket_policy": "mute", "grace": GRACE},
    "cancel-grace": {"policy": "cancel", "websocket_policy": "cancel", "grace": GRACE},
    "hook": {"on_disconnect": hook},
    "async-hook": {"on_disconnect": async_hook},
    "raising-hook": {"on_disconnect": raising_hook},
    "raising-async-hook": {"on_disconnect": raising_async_hook},
    "policy-for": {"policy_for": cancels_what_waits},
}


def probe(run: Probe) -> Probe:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await run(Stage(scope, receive, send))
        finally:
            scope["tests.play"].has_ended = True

    for variant, options in OPTIONS.items():
        APPS[run.__name__, variant] = DisconnectMiddleware(app, **options)
    APPS[run.__name__, "bare"] = app
    return run


async def together(*functions: Callable[[], Awaitable[Any]]) -> None:
    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(_awaited, function)


async def _awaited(function: Callable[[], Awaitable[Any]]) -> None:
    await function()


async def start_waiting(tasks: TaskGroup, function: Callable[[], Awaitable[Any]]) -> None:
    """Start `function` in a task of its own; return when that waits."""
    starting = anyio.Event()

    async def run() -> None:
        starting.set()
        await function()

    tasks.start_soon(run)
    await starting.wait()
