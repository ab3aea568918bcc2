"""The `spec_version` that the scope states (P4).

Frameworks choose their path by it. Since HTTP & WebSocket 2.4 the specification has `send` raise after a disconnect,
and Starlette (0.42 and later) then relies on that: its responses do not listen for the disconnect, and leave the
request body to whoever reads it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from types import FrameType
from typing import Any

_KEY = "spec_version"
_MUTED, _RAISING = "2.3", "2.4"
_DEFAULT = "2.0"


# What is right where `send` does not raise, and where it does, by what nearly all servers state.
_USUAL = {"2.3": ("2.3", _RAISING), "2.4": (_MUTED, "2.4"), "2.5": (_MUTED, "2.5"), None: (_DEFAULT, _RAISING)}


def stated_version(scope: Any) -> object:
    """What `scope` states; None where that is nothing (Daphne), "" where it is None."""
    try:
        stated = scope["asgi"][_KEY]
    except (KeyError, TypeError):
        return None
    return "" if stated is None else stated


def right_version(stated: object, raises: bool) -> str:
    """The version that is right where `send` raises, or does not; the one stated, where that is right.

    A value that is no version ("", "3", None) counts as the specification's default.
    """
    try:
        return _USUAL[stated][raises]  # type: ignore[index]  # whatever it is
    except (KeyError, TypeError):
        pass
    if not _is_version(stated):
        return _RAISING if raises else _DEFAULT
    if states_raising(stated) is raises:
        return str(stated)
    return _RAISING if raises else _MUTED


def states_raising(stated: object) -> bool:
    """Whether it is 2.4 or more."""
    return stated != _MUTED and _is_version(stated) and tuple(map(int, str(stated).split("."))) >= (2, 4)


def _is_version(stated: object) -> bool:
    parts = stated.split(".") if isinstance(stated, str) else ()
    return len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)


def replace_version(scope: Any, version: str, asgi: dict[str, Any] | None = None) -> None:
    """Have the scope state `version`.

    `scope["asgi"]` is replaced, not changed: a server may share one dict among requests.
    """
    if asgi is None:
        asgi = {}
    try:
        asgi.update(scope["asgi"])
    except (KeyError, TypeError, ValueError):  # absent, or no mapping at all
        pass
    dict.__setitem__(asgi, _KEY, version)
    scope["asgi"] = asgi


def _looker() -> str:
    """The module whose code looks at a version."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__"))


class AskedVersion(dict[str, Any]):
    """The scope's `asgi`, whose `spec_version` is asked for at each look, and in each copy at the time of copying.

    Copies of the scope share it. A deep copy is the same object, a pickle is of a plain dict. What other code sets
    stays.
    """

    __slots__ = ("_ask", "is_relied_on", "stated")

    stated: object  # by the server
    is_relied_on: bool  # at the last look before the response began, `send` was said to raise
    _ask: Callable[[str], bool] | None

    def ask(self, scope: Any, ask: Callable[[str], bool], raises: bool) -> None:
        """Be the `asgi` of `scope`, and call `ask` at each look: whether `send` raises. By now it does if `raises`.

        It is called with the name of the module that looks.
        """
        self.is_relied_on = False
        self._ask = ask
        replace_version(scope, right_version(self.stated, raises), self)

    def ask_about_body(self, ask: Callable[[str], bool]) -> None:
        """The same for a copy of the usual server's `asgi`, while a request body is unread."""
        self.stated = _MUTED
        self.is_relied_on = False
        self._ask = ask
        super().__setitem__(_KEY, _RAISING)

    def close(self) -> None:
        """The exchange is over: do not hold the connection, which holds this."""
        self._ask = None

    def __getitem__(self, key: str) -> Any:
        if key == _KEY and self._ask is not None:
            return right_version(self.stated, self._ask(_looker()))
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def __setitem__(self, key: str, value: Any) -> None:
        if key == _KEY:
            self._ask = None
        super().__setitem__(key, value)

    def __iter__(self) -> Iterator[str]:  # that it is overridden has `dict(...)` and `{**...}` use `__getitem__`
        return super().__iter__()

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # of a copy
        return dict(self).items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # of a copy
        return dict(self).values()

    def __deepcopy__(self, memo: Any) -> AskedVersion:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)
