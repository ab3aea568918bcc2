"""The event loop that runs an exchange, behind one protocol: asyncio (uvloop included), trio, or none at all.

No event loop is imported that does not run already: asyncio and trio are found in `sys.modules`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ._base import BY_HAND, AppScope, Backend, Call, Handle, SendTimedOut, Waiter, Woken, is_cancelled_error

if TYPE_CHECKING:
    import asyncio

__all__ = ["AppScope", "Backend", "Call", "Handle", "SendTimedOut", "Waiter", "Woken", "is_cancelled_error"]


def _find_running_loop() -> asyncio.AbstractEventLoop | None:
    global running_loop, asyncio_backend
    asyncio = sys.modules.get("asyncio")
    get_running_loop = getattr(asyncio, "_get_running_loop", None)
    if get_running_loop is None or get_running_loop() is None:
        return None
    from ._asyncio import ASYNCIO

    asyncio_backend = ASYNCIO
    running_loop = get_running_loop  # from now on asyncio's own function: it is called for every exchange
    return running_loop()  # type: ignore[no-any-return]  # reached through sys.modules


running_loop = _find_running_loop
"""As `asyncio.get_running_loop`, but None where no loop runs."""

asyncio_backend: Backend
"""Set once `running_loop` has found a loop. Read both as attributes of this module, since they are rebound."""


def current() -> tuple[Backend, Any]:
    """The backend of the event loop that runs, and its token."""
    if is_trio_running():
        from ._trio import TRIO

        return TRIO, TRIO.token()
    loop = running_loop()
    return (BY_HAND, None) if loop is None else (asyncio_backend, loop)


def is_trio_running() -> bool:
    trio: Any = sys.modules.get("trio")
    try:
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    except AttributeError:  # before trio 0.29, or while the module is being imported
        return _is_run_by(trio)


def _is_run_by(trio: Any) -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except (AttributeError, RuntimeError):
        return False
    return True


def is_asyncio_queue(thing: object) -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(thing, asyncio.Queue)
