"""Wakes a `send` that the server will never finish.

Once their connection is lost, these servers leave a `send` waiting: Hypercorn over HTTP/2, and uvicorn's wsproto up to
0.34.3, for ever; gunicorn's `asgi` worker until it cancels the app, after 3 s.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from ._backends import Backend, Call, Woken
from ._frames import frame_of, is_running
from ._timers import SharedTimer

# Seconds that a server has to wake the send itself, as most do, in the same turn.
_UNTIL_WOKEN = 0.05

# Servers by their modules, never imported; where none of them is loaded, nothing is woken. What other middleware does
# in its `send`, between the server and this middleware, is its own and never cut short.
BLOCKING = (
    "anycorn",  # as Hypercorn, of which it is a fork
    "disconnect_mw.testing._simulated_server",
    "gunicorn.asgi",
    "hypercorn",  # over HTTP/2
    "uvicorn.protocols.websockets.wsproto_impl",  # up to 0.34.3
)

# Middleware between a send and such a server that only hands the message on, to a task that the server blocks.
_HANDS_ON = ("starlette.middleware.base",)

_OF_EVENT_LOOPS = ("", "asyncio", "anyio", "trio", "uvloop")


# Connections whose sends are looked at in one turn of the event loop, at most.
_SENDERS_A_TURN = 64


class Sender(Protocol):
    """What of a connection is needed to wake its sends."""

    sends_by: ClassVar[tuple[types.CodeType, ...]]  # of its method `send`
    muted_by: ClassVar[types.CodeType]  # of what takes its messages after the disconnect
    scope: Any  # None when the exchange is over
    server_send: Call


def _wake_blocked(senders: Iterable[Sender], backend: Backend, token: Any) -> None:
    """Wake the sends that the server has blocked."""
    waiting = [*senders]
    for sender in waiting[:_SENDERS_A_TURN]:
        if sender.scope is not None:
            _wake(sender, backend)
    if len(waiting) > _SENDERS_A_TURN:
        backend.call_soon(functools.partial(_wake_blocked, waiting[_SENDERS_A_TURN:], backend, token))


def _wake(sender: Sender, backend: Backend) -> None:
    call = sender.server_send
    for task, awaited in backend.suspended_in(sender.sends_by, sender, call, backend.tasks_in(call)):
        is_muted = any(is_running(sender.muted_by, awaitable) for awaitable in awaited)  # by an inner install
        if not is_muted and _is_blocked(awaited) and backend.wake(task, call):
            _woken[task] = sender


blocked: SharedTimer[Sender] = SharedTimer(_UNTIL_WOKEN, _wake_blocked)
"""Connections whose client has disconnected."""

# Tasks whose send was woken, which is not taken back yet: a cancellation, on asyncio.
_woken: dict[Any, Sender] = {}


def absorb_wake(sender: Sender, backend: Backend, exception: BaseException) -> bool:
    """Take back the wake of the caller's send. Returns whether it was woken, and nothing else ended it."""
    if isinstance(exception, Woken):
        return True
    if not _woken:
        return False
    task = _current_task(backend)
    if _woken.get(task) is not sender:
        return False
    del _woken[task]
    return backend.absorb(task, exception)


def uncancel(backend: Backend) -> None:
    """Take back the wake of the caller's send, which other code on its way may have swallowed."""
    if _woken:
        task = _current_task(backend)
        if _woken.pop(task, None) is not None:
            backend.uncancel(task)


def close(sender: Sender, backend: Backend, token: Any) -> None:
    """Wake no send of `sender` from now on, and take back what was swallowed."""
    blocked.discard(sender, token)
    if _woken:
        for task in [task for task, woken in _woken.items() if woken is sender]:
            del _woken[task]
            backend.uncancel(task)


def _current_task(backend: Backend) -> Any:
    token = backend.token()
    return None if token is None else backend.current_task(token)


_modules = 0, False  # how many were loaded when that was last asked, and the answer


def can_block() -> bool:
    """Whether a server is loaded whose `send` may never return."""
    global _modules
    count, answer = _modules
    if len(sys.modules) != count:
        answer = any(name in sys.modules for name in BLOCKING)
        _modules = len(sys.modules), answer
    return answer


def _is_blocked(awaited: Iterable[Any]) -> bool:
    """Whether it is such a server's code, and no other middleware's, that a `send` waits in."""
    for frame in map(frame_of, reversed([*awaited])):
        module = "" if frame is None else str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in _OF_EVENT_LOOPS:
            return any(module == name or module.startswith(f"{name}.") for name in (*BLOCKING, *_HANDS_ON))
    return False
