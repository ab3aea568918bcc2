"""What a suspended task awaits, down to the innermost frame."""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Iterable, Iterator, Set
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
    tasks: dict[int, Any] = {}  # by identity, as are the groups: a mock may be equal to anything
    groups: dict[int, Any] = {}
    coroutines = [coroutine]
    for one in coroutines:  # to which more are added meanwhile
        for awaitable in chain(one):
            variables = gc.get_referents(awaitable)
            shared = [thing for thing in variables if type(thing) is types.CellType]  # with a function inside
            for thing in (*variables, *gc.get_referents(*shared)):
                if id(thing) not in groups:
                    groups[id(thing)] = thing
                    found = {id(task): task for task in _members(thing) if id(task) not in tasks}
                    tasks |= found
                    coroutines += [task.get_coro() for task in found.values()]
    return [*tasks.values()]


def _members(thing: Any) -> list[Any]:
    """The tasks of a group or a gathering, which are private to these."""
    kind = type(thing)
    if kind.__module__.partition(".")[0] not in ("asyncio", "anyio"):
        return []
    tasks = getattr(thing, {"TaskGroup": "_tasks", "_GatheringFuture": "_children"}.get(kind.__name__, ""), ())
    return [task for task in tasks if hasattr(task, "get_coro")]


def ending_scopes(task: Any) -> list[Any]:
    """The time-outs, cancel scopes and groups that `task` has open, and that are ending what runs in them.

    A `with` block keeps the method by which it is left on the stack of its frame, which refers to the scope.
    """
    found: dict[int, Any] = {}
    for awaitable in chain(task.get_coro()):
        things = [awaitable]
        seen = {id(awaitable)}
        for thing in things:  # to which more are added meanwhile
            for held in _held_by(thing):
                if id(held) not in seen:
                    seen.add(id(held))
                    if _is_ending(held, task):
                        found[id(held)] = held
                    elif type(held) in _HOLDERS:
                        things.append(held)
    return [*found.values()]


# What has the scopes of a `with` block inside: a generator that is suspended in one, and what contextlib makes of it.
_STACKS = (contextlib.ExitStack, contextlib.AsyncExitStack)
_HOLDERS = frozenset(
    {
        types.CellType,
        types.GeneratorType,
        types.AsyncGeneratorType,
        contextlib._GeneratorContextManager,
        contextlib._AsyncGeneratorContextManager,
        *_STACKS,
    }
)


def _held_by(thing: Any) -> Iterator[Any]:
    """What `thing` refers to, and in place of a method or of anyio's group the scope itself."""
    things = gc.get_referents(thing)
    if type(thing) in _STACKS:
        things = [callback for _, callback in getattr(thing, "_exit_callbacks", ())]
    for held in things:
        scope = held.__self__ if type(held) is types.MethodType else held
        is_anyios = str(type(scope).__module__).partition(".")[0] == "anyio"
        yield getattr(scope, "cancel_scope", scope) if is_anyios else scope


def _is_ending(scope: Any, task: Any) -> bool:
    """Whether it is cancelling what runs in it, was entered by `task`, and has not been left.

    All that is private to these, but for one half of anyio's.
    """
    kind = type(scope)
    match str(kind.__module__).partition(".")[0], kind.__name__:
        case "asyncio", "Timeout":
            is_ending = getattr(getattr(scope, "_state", None), "name", "") == "EXPIRING"
            return is_ending and getattr(scope, "_task", task) is task
        case "asyncio", "TaskGroup":
            owes_uncancel = getattr(scope, "_parent_cancel_requested", False) and not getattr(scope, "_exiting", True)
            is_ending = bool(getattr(scope, "_aborting", False) and (owes_uncancel or getattr(scope, "_tasks", ())))
            return is_ending and getattr(scope, "_parent_task", task) is task
        case "anyio", "CancelScope":
            is_ending = bool(getattr(scope, "_active", False) and scope.cancel_called)
            return is_ending and getattr(scope, "_host_task", task) is task
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


def outermost_package(coroutine: Any, ignored: Set[str]) -> str:
    """The package of the outermost frame of a task, suspended or the one that runs, that is of none of these."""
    outermost = frame_of(coroutine)
    packages: list[str] = []  # not the frames, of which this function's own would refer to itself
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame is not outermost:
        packages.append(package_of(frame))
        frame = frame.f_back
    if frame is None:  # another task runs
        packages = [package_of(frame_of(one)) for one in chain(coroutine)][::-1]
    else:
        packages.append(package_of(frame))
    return next((package for package in reversed(packages) if package not in ignored), "")


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
