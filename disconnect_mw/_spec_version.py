"""The `spec_version` that the scope states (P4).

Frameworks choose their path by it. Since HTTP & WebSocket 2.4 the specification has `send` raise after a disconnect,
and Starlette (0.42 and later) then relies on that: its responses do not listen for the disconnect, and leave the
request body to whoever reads it.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, ValuesView
from typing import Any

_KEY = "spec_version"
_MUTED, _RAISING = "2.3", "2.4"
_DEFAULT = "2.0"


def stated_version(scope: Any) -> object:
    """What `scope` states; None where that is nothing (Daphne)."""
    try:
        return scope["asgi"][_KEY]
    except (KeyError, TypeError):
        return None


def states_raising(stated: object) -> bool:
    """Whether it is 2.4 or more. A value that is no version ("", "3", None) counts as the specification's default."""
    parts = _parts(stated)
    return parts is not None and parts >= (2, 4)


def right_version(stated: object, raises: bool) -> str:
    """The version that is right where `send` raises, or does not; the one stated, where that is right."""
    parts = _parts(stated)
    if parts is None:
        return _RAISING if raises else _DEFAULT
    if (parts >= (2, 4)) is raises:
        return str(stated)
    return _RAISING if raises else _MUTED


def _parts(stated: object) -> tuple[int, ...] | None:
    parts = stated.split(".") if isinstance(stated, str) else ()
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return None
    return tuple(map(int, parts))


def set_spec_version(scope: Any, raises: bool) -> None:
    """Have the scope state, once and for all, what is right where `send` raises, or does not.

    `scope["asgi"]` is replaced, not changed: a server may share one dict among requests.
    """
    stated = stated_version(scope)
    if stated is None and not raises:
        return
    version = right_version(stated, raises)
    if version != stated:
        scope["asgi"] = {**_others(scope), _KEY: version}


class SpecVersion:
    """The version that a scope and its copies state, asked for each time that somebody looks."""

    __slots__ = ("_asked", "_looked", "_raises", "is_relied_on", "stated")

    def __init__(self, stated: object, raises: Callable[[], bool], looked: Callable[[bool], None]) -> None:
        self.stated = stated  # by the server
        self._raises = raises
        self._looked = looked  # called at each look with what `raises` returned
        self._asked: list[AskedVersion] = []
        self.is_relied_on = False  # at the last look before the response began, `send` was said to raise

    def state_in(self, scope: Any) -> None:
        """Have `scope` state it."""
        if not any(scope.get("asgi") is asked for asked in self._asked):
            asked = AskedVersion({**_others(scope), _KEY: right_version(self.stated, self._raises())})
            asked.ask = self._look
            scope["asgi"] = asked
            self._asked.append(asked)

    def _look(self) -> str:
        raises = self._raises()
        self._looked(raises)
        return right_version(self.stated, raises)

    def close(self) -> None:
        """The exchange is over: keep the last answer, and do not hold the connection, which holds this."""
        raises = self._raises()
        for asked in self._asked:
            if asked.ask is not None:
                asked[_KEY] = right_version(self.stated, raises)
        self._raises, self._looked = bool, bool  # type: ignore[assignment]  # functions that do nothing


def _others(scope: Any) -> dict[str, Any]:
    try:
        return dict(scope["asgi"])
    except (KeyError, TypeError, ValueError):  # absent, or no mapping at all
        return {}


class AskedVersion(dict[str, Any]):
    """The scope's `asgi`, whose `spec_version` is asked for at each look, and in each copy at the time of copying.

    A deep copy is the same object, a pickle is of a plain dict. What other code sets stays.
    """

    __slots__ = ("ask",)
    ask: Callable[[], str] | None  # None once the version was set

    def __getitem__(self, key: str) -> Any:
        return self.ask() if key == _KEY and self.ask is not None else super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default

    def __setitem__(self, key: str, value: Any) -> None:
        if key == _KEY:
            self.ask = None
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
