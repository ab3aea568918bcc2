"""What a suspended task awaits, down to the innermost frame."""

from __future__ import annotations

import collections
import contextlib
import gc
import types
from collections.abc import Iterable, Iterator
from typing import Any

# What a suspended awaitable awaits, and its frame, by its kind.
_KINDS: dict[type, tuple[str, str]] = {
    types.CoroutineType: ("cr_await", "cr_frame"),
    types.GeneratorType: ("gi_yieldfrom", "gi_frame"),
    types.AsyncGeneratorType: ("ag_await", "ag_frame"),
}


def chain(awaitable: Any) -> Iterator[Any]:
    """`awaitable`, which is suspended, what it awaits, what that awaits, and so on."""
    seen = set()  # an object without such attributes may refer to what awaits it
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        yield awaitable
        awaitable = _awaited_by(awaitable)


def descendants(coroutine: Any) -> list[Any]:
    """The tasks of each group (asyncio's, anyio's) and gathering that `coroutine` has open, and of those in turn."""
    tasks: list[Any] = []
    coroutines = [coroutine]
    for one in coroutines:  # to which more are added meanwhile
        for awaitable in chain(one):
            variables = gc.get_referents(awaitable)
            shared = [thing for thing in variables if type(thing) is types.CellType]  # with a function inside
            for thing in (*variables, *gc.get_referents(*shared)):
                found = [task for task in _members(thing) if task not in tasks]
                tasks += found
                coroutines += [task.get_coro() for task in found]
    return tasks


def _members(thing: Any) -> list[Any]:
    """The tasks of a group or a gathering, which are private to these."""
    kind = type(thing)
    if kind.__module__.partition(".")[0] not in ("asyncio", "anyio"):
        return []
    tasks = getattr(thing, {"TaskGroup": "_tasks", "_GatheringFuture": "_children"}.get(kind.__name__, ""), ())
    return [task for task in tasks if hasattr(task, "get_coro")]


def ending_scopes(coroutine: Any) -> list[Any]:
    """The time-outs, cancel scopes and groups that `coroutine` has open, and that are ending what runs in them.

    A `with` block keeps the method by which it is left on the stack of its frame, which refers to the scope.
    """
    scopes: list[Any] = []
    for awaitable in chain(coroutine):
        things = [awaitable]
        for thing in things:  # to which more are added meanwhile
            for held in gc.get_referents(thing):
                inner = _scope_of(held)
                if _is_ending(inner) and not any(inner is one for one in scopes):
                    scopes.append(inner)
                elif type(inner) in _HOLDERS and not any(inner is one for one in things):
                    things.append(inner)
    return scopes


# What has the scopes of a `with` block inside: a generator that is suspended in one, and what contextlib makes of it.
_HOLDERS = frozenset(
    {
        types.CellType,
        types.GeneratorType,
        types.AsyncGeneratorType,
        contextlib._GeneratorContextManager,
        contextlib._AsyncGeneratorContextManager,
        contextlib.ExitStack,
        contextlib.AsyncExitStack,
        collections.deque,  # of such a stack
        tuple,
    }
)


def _scope_of(thing: Any) -> Any:
    """The scope itself, where `thing` is a method of one, or anyio's group around one."""
    if type(thing) is types.MethodType:
        thing = thing.__self__
    is_anyios = type(thing).__module__.partition(".")[0] == "anyio"
    return getattr(thing, "cancel_scope", thing) if is_anyios else thing


def _is_ending(scope: Any) -> bool:
    """Whether it is cancelling what runs in it, and has not been left. That is private to these, but anyio's half."""
    kind = type(scope)
    match kind.__module__.partition(".")[0], kind.__name__:
        case "asyncio", "Timeout":
            return getattr(getattr(scope, "_state", None), "name", "") == "EXPIRING"
        case "asyncio", "TaskGroup":
            owes_uncancel = getattr(scope, "_parent_cancel_requested", False) and not getattr(scope, "_exiting", True)
            return bool(getattr(scope, "_aborting", False) and (owes_uncancel or getattr(scope, "_tasks", ())))
        case "anyio", "CancelScope":
            return bool(getattr(scope, "_active", False) and scope.cancel_called)
    return False


def _awaited_by(awaitable: Any) -> Any:
    kind = _kind(awaitable)
    if kind is not None:
        return getattr(awaitable, kind[0])
    # A step of an async generator, or a coroutine's iterator, has no such attribute: what it refers to.
    return next((thing for thing in gc.get_referents(awaitable) if _kind(thing) is not None), None)


def _kind(thing: Any) -> tuple[str, str] | None:
    # The type is asked: an object may answer to any name, or raise (a mock, a proxy). Thousands may end at once, so the
    # frequent types come first; a future awaits nothing.
    type_ = type(thing)
    if type_ in _KINDS or hasattr(type_, "_asyncio_future_blocking"):
        return _KINDS.get(type_)
    return next((kind for kind in _KINDS.values() if hasattr(type_, kind[0])), None)


def frame_of(awaitable: Any) -> types.FrameType | None:
    """The frame of a suspended coroutine or generator."""
    kind = _kind(awaitable)
    return None if kind is None else getattr(awaitable, kind[1], None)  # Cython's generators have none


def package_of(frame: types.FrameType | None) -> str:
    """The package of the code of a frame; "" where there is none (a server in Rust)."""
    return "" if frame is None else str(frame.f_globals.get("__name__")).partition(".")[0]


def is_of_package(name: str, awaitable: Any) -> bool:
    """Whether the code of a suspended awaitable is of the package with this name."""
    return package_of(frame_of(awaitable)) == name


def is_method_of(owner: object, codes: Iterable[types.CodeType], awaitable: Any) -> bool:
    """Whether `awaitable` is a coroutine of a method with such a code, called on `owner`."""
    return any(thing is owner for thing in owners(codes, awaitable))


def owners(codes: Iterable[types.CodeType], awaitable: Any) -> list[Any]:
    """What the frame of `awaitable` refers to, the object of the method among it; nothing for other codes.

    Not asked of `f_locals`: reading those of a live frame keeps what they hold alive (3.11, 3.12).
    """
    return gc.get_referents(awaitable) if any(is_running(code, awaitable) for code in codes) else []


def is_running(code: types.CodeType, awaitable: Any) -> bool:
    """Whether `awaitable` is a coroutine of the function with this `code`."""
    return getattr(type(awaitable), "cr_code", None) is not None and awaitable.cr_code is code
