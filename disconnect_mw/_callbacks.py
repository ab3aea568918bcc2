"""The callbacks of `ClientConnection.on_disconnect`. Imported once there is one."""

from __future__ import annotations

import contextvars
import enum
import functools
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

from . import _backends
from ._backends import Backend, is_cancelled_error
from ._telling import finish_hook, log_failure
from ._watcher import DisconnectWaiters

# Callbacks with `in_thread=True` that run at a time; the others wait. Not asyncio's own pool, which may be full of the
# very threads that they are to stop.
_THREADS = 32


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "disconnect_mw")


# A child has the pool of its parent, and none of the threads. Windows has no fork, and nothing to register there.
getattr(os, "register_at_fork", dict)(after_in_child=_threads.cache_clear)


class _Root(Protocol):
    """What is needed of a connection."""

    backend: Backend
    token: Any
    scope: Any
    parts: Any

    def record(self) -> object: ...

    def require_waiters(self) -> DisconnectWaiters: ...


class _Found(Protocol):
    """The innermost connection; its `scope` is None when its exchange is over."""

    scope: Any


class _State(enum.Enum):
    WAITING = "waiting"
    DUE = "due"
    RUNNING = "running"
    CALLED = "called"
    CANCELLED = "cancelled"


class DisconnectCallback:
    """A callback that waits for the disconnect. Leaving it as a context manager cancels it.

    `with client.on_disconnect(connection.interrupt): …` keeps the callback from what comes after the block.
    """

    __slots__ = (
        "_arguments",
        "_context",
        "_ended",
        "_found",
        "_function",
        "_in_thread",
        "_lock",
        "_root",
        "_runs_in",
        "_state",
    )

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], in_thread: bool) -> None:
        if not callable(function):
            raise TypeError(f"on_disconnect takes a function and its arguments, not {function!r}: do not call it")
        if in_thread and inspect.iscoroutinefunction(function):
            raise TypeError("on_disconnect takes a plain function with in_thread=True, not an async one: leave it out")
        self._function: Callable[..., Any] | None = function
        self._arguments = arguments
        self._in_thread = in_thread
        self._context = contextvars.copy_context()
        self._state = _State.WAITING
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._runs_in: int | None = None
        self._root: _Root | None = None
        self._found: _Found | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.value}>"

    def __enter__(self) -> DisconnectCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> bool:
        """Do not call it any more. From any thread.

        Returns False if it has been called already. Where it runs in another thread just now, this waits for its end,
        so that it harms nothing that comes later; but not on an event loop, which must not be blocked.
        """
        with self._lock:
            runs_in, root = self._runs_in, self._root
            if self._state in (_State.WAITING, _State.DUE):
                self._end(_State.CANCELLED)
            is_cancelled = self._state is _State.CANCELLED
        if is_cancelled:
            if root is not None:
                root.backend.call_in(root.token, functools.partial(self._leave, root))
        elif runs_in not in (None, threading.get_ident()) and _backends.current()[1] is None:
            self._ended.wait()
        return is_cancelled

    def _leave(self, root: _Root) -> None:
        if root.parts.waiters is not None:
            root.parts.waiters.discard(self)

    def wait_for(self, root: _Root, found: _Found) -> None:
        """Call it when the client of `root` leaves, unless the exchange of `found` has ended before."""
        self._root, self._found = root, found
        root.backend.call_in(root.token, functools.partial(self._begin, root, found))

    def _begin(self, root: _Root, found: _Found) -> None:
        if root.record() is not None:
            self.call()
        elif self._state is _State.WAITING and root.scope is not None and found.scope is not None:
            root.require_waiters().add(self)

    def set(self) -> None:
        """The client has left, or the response is complete, or the exchange over."""
        root, found = self._root, self._found
        if self._state is not _State.WAITING or root is None or found is None:
            return
        if root.scope is None or found.scope is None:
            self.cancel()
        elif root.record() is not None:
            self.call()

    def call(self) -> None:
        """Call it, once, now or in a thread. Raises no `Exception`."""
        with self._lock:
            if self._state is not _State.WAITING:
                return
            self._state = _State.DUE
        if not self._in_thread:
            self._run()
            return
        function: Any = self._function
        try:
            _threads().submit(self._run)
        except RuntimeError:  # there is no room for a thread, or the interpreter ends
            log_failure(function)

    def _run(self) -> None:
        with self._lock:
            if self._state is not _State.DUE:
                return
            self._state = _State.RUNNING
            self._runs_in = threading.get_ident()
        function: Any = self._function
        root = self._root
        try:
            result = self._context.run(function, *self._arguments)
            if inspect.isawaitable(result) and root is not None:
                root.backend.call_in(root.token, functools.partial(self._finish, root, function, result))
        except BaseException as exception:
            # A thread of the pool is none that an exit could end.
            if not (self._in_thread or isinstance(exception, Exception) or is_cancelled_error(exception)):
                raise
            log_failure(function)
        finally:
            with self._lock:
                self._end(_State.CALLED)

    def _finish(self, root: _Root, function: Any, result: Any) -> None:
        root.backend.spawn_background(finish_hook(function, result, root.backend), self._context)

    def _end(self, state: _State) -> None:
        """Hold nothing of the app's any more."""
        self._state = state
        self._runs_in = self._function = self._root = self._found = None
        self._arguments = ()
        self._ended.set()
