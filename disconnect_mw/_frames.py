"""What a suspended task awaits, down to the innermost frame."""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Container, Iterable, Iterator, Set
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
        if type(awaitable) is types.CoroutineType:  # as nearly all of them
            awaitable = awaitable.cr_await
        else:
            awaitable = _awaited_by(awaitable)


def family(coroutine: Any) -> tuple[list[Any], list[Any]]:
    """The tasks of each group (asyncio's, anyio's) and gathering that `coroutine` has open, and of those in turn.

    And all that these and `coroutine` await. A departure asks, so the referents of a whole chain are asked for at once.
    """
    tasks: dict[int, Any] = {}  # by identity: a mock may be equal to anything
    coroutines, awaited = [coroutine], []
    for one in coroutines:  # to which more are added meanwhile
        of_one = list(chain(one))
        awaited += of_one
        variables = _referents(of_one)
        shared = [thing for thing in variables if type(thing) is types.CellType]  # with a function inside
        for thing in (*variables, *_referents(shared)):
            if _base_named(_MEMBERS, thing) is not None:
                found = {id(task): task for task in _members(thing) if id(task) not in tasks}
                tasks |= found
                coroutines += [task.get_coro() for task in found.values()]
    return [*tasks.values()], awaited


# What most of a frame's variables are.
_PLAIN = frozenset(
    (
        *(type(None), bool, bytes, dict, float, int, list, set, str, tuple, type),
        *(types.CodeType, types.CoroutineType, types.FunctionType, types.ModuleType),
    )
)


def _referents(things: list[Any]) -> list[Any]:
    """What these refer to, without what is no group, no scope, and holds none."""
    return [thing for thing in gc.get_referents(*things) if type(thing) not in _PLAIN]


_MEMBERS = {"TaskGroup": "_tasks", "_GatheringFuture": "_children"}
"""Where a group, or a gathering, has its tasks: that is private to these."""


def _members(thing: Any) -> list[Any]:
    kind = _base_named(_MEMBERS, thing)
    if kind is None or _package_of_type(kind) not in ("asyncio", "anyio"):
        return []
    return [task for task in getattr(thing, _MEMBERS[kind.__name__], ()) if hasattr(task, "get_coro")]


def _base_named(names: Container[str], thing: Any) -> type | None:
    """The class of `thing`, or one that it inherits from, with one of these names."""
    for kind in type(thing).__mro__:
        if kind.__name__ in names:
            return kind
    return None


def _package_of_type(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


def ending_scopes(task: Any) -> list[Any]:
    """The time-outs, cancel scopes and groups that `task` has open, and that are ending what runs in them.

    A `with` block keeps the method by which it is left on the stack of its frame, which refers to the scope.
    """
    found: dict[int, Any] = {}
    things = list(chain(task.get_coro()))
    seen = set(map(id, things))
    while things:
        held = {id(thing): thing for thing in _held_by(things) if id(thing) not in seen}
        seen |= held.keys()
        things = []
        for key, thing in held.items():
            if _holds(thing):
                things.append(thing)
            elif _is_ending(thing, task):
                found[key] = thing
    return [*found.values()]


# What has the scopes of a `with` block inside: a generator that is suspended in one, and what contextlib makes of it.
_STACKS = frozenset({contextlib.ExitStack, contextlib.AsyncExitStack})
_HOLDERS = frozenset(
    {
        types.CellType,
        types.GeneratorType,
        types.AsyncGeneratorType,
        contextlib._GeneratorContextManager,
        contextlib._AsyncGeneratorContextManager,
    }
)


def _holds(thing: Any) -> bool:
    return type(thing) in _HOLDERS or not _STACKS.isdisjoint(type(thing).__mro__)


_SCOPES = frozenset({"Timeout", "TaskGroup", "CancelScope"})
"""The names of asyncio's and anyio's classes. Nearly all that a frame refers to is of another name."""


def _held_by(things: list[Any]) -> Iterator[Any]:
    """The scopes, and their holders, that these refer to, a scope's method for the scope."""
    callbacks = [
        getattr(thing, "_exit_callbacks", ()) for thing in things if not _STACKS.isdisjoint(type(thing).__mro__)
    ]
    for held in (*_referents(things), *(callback for added in callbacks for _, callback in added)):
        scope = held.__self__ if type(held) is types.MethodType else held
        if _holds(scope):
            yield scope
        elif (kind := _base_named(_SCOPES, scope)) is not None:
            yield getattr(scope, "cancel_scope", scope) if _package_of_type(kind) == "anyio" else scope


def _is_ending(scope: Any, task: Any) -> bool:
    """Whether it is cancelling what runs in it, was entered by `task`, and has not been left.

    All that is private to these, but for one half of anyio's.
    """
    kind = _base_named(_SCOPES, scope)
    match kind and (_package_of_type(kind), kind.__name__):
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


def is_of_module(name: str, awaitable: Any) -> bool:
    """Whether the code of a suspended awaitable is of the module, or of the package, with this name."""
    frame = frame_of(awaitable)
    return frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(f"{name}.")


def is_method_of(owner: object, codes: Iterable[types.CodeType], awaitable: Any) -> bool:
    """Whether `awaitable` is a coroutine of a method with such a code, called on `owner`."""
    return any(thing is owner for thing in owners(codes, awaitable))


def owners(codes: Iterable[types.CodeType], awaitable: Any) -> list[Any]:
    """What the frame of `awaitable` refers to, the object of the method among it; nothing for other codes.

    Not asked of `f_locals`: reading those of a live frame keeps what they hold alive (3.11, 3.12).
    """
    return gc.get_referents(awaitable) if _code_of(awaitable) in codes else []


def is_running(code: types.CodeType, awaitable: Any) -> bool:
    """Whether `awaitable` is a coroutine of the function with this `code`."""
    return _code_of(awaitable) is code


def _code_of(coroutine: Any) -> Any:
    return coroutine.cr_code if hasattr(type(coroutine), "cr_code") else None
