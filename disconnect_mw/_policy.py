"""The policies and the other terms of an exchange, and their checks."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from ._records import Disconnect

Policy = Literal["mute", "raise", "cancel"]
"""What `send` does after the client has gone, and what becomes of the application.

`"mute"`: nothing at all, and it goes on. `"raise"`: it raises `ClientDisconnected`. `"cancel"`: nothing at all, and
the application is cancelled.
"""

PolicyFor = Callable[[Any], "Policy | None"]
Hook = Callable[["Disconnect"], Any]


@dataclass(frozen=True)
class Terms:
    """What an exchange is to do about a client that leaves."""

    policy: Policy
    grace: float | None = None
    send_timeout: float | None = None
    hooks: tuple[Hook, ...] = ()

    @functools.cached_property
    def seconds_to_cancel(self) -> float | None:
        """After the client has left; None for an application that goes on to its end."""
        if self.grace is None:
            return 0.0 if self.policy == "cancel" else None
        return None if self.grace == math.inf else self.grace

    @functools.cached_property
    def asks(self) -> bool:
        """Is it of use to find out about a departure, although the application does not ask?"""
        return self.policy != "mute" or self.seconds_to_cancel is not None or self.hooks != ()

    def within(self, outer: Terms) -> Terms:
        """These terms, for a part of an application that has `outer` as a whole: what is not said stays as it was."""
        return Terms(
            outer.policy if self.policy == "mute" else self.policy,
            outer.grace if self.grace is None else self.grace,
            outer.send_timeout if self.send_timeout is None else self.send_timeout,
            outer.hooks + tuple(hook for hook in self.hooks if hook not in outer.hooks),
        )


# The versions in use that are true where sends are muted. Since 2.4 the specification has `send` raise after a
# disconnect, and Starlette then relies on that: it stops listening.
VERSIONS_BEFORE_RAISING = ("2.3", "2.1", "2.0", "2.2")
_MUTED, _RAISING = "2.3", "2.4"
_DEFAULT = "2.0"


*_others, _last = map(repr, get_args(Policy))
CHOICES = f"{', '.join(_others)} or {_last}"


def is_policy(policy: object) -> bool:
    return isinstance(policy, str) and policy in get_args(Policy)


def checked(option: str, policy: object) -> Policy:
    """`policy`, or an error that says what `option` takes."""
    if not isinstance(policy, str):
        raise TypeError(f"{option} must be {CHOICES}, not {policy!r}: pass a string")
    for choice in get_args(Policy):
        if policy == choice:
            return choice  # type: ignore[no-any-return]  # one of the literal's own strings
    raise ValueError(f"{option} must be {CHOICES}, not {policy!r}: look for a misspelling")


def checked_grace(grace: object) -> float | None:
    seconds = _checked_seconds("grace", "zero or more", grace)
    if seconds is not None and not seconds >= 0:  # as it is written, not a number is no number of seconds either
        raise ValueError(f"grace must be zero or more seconds, or None, not {grace!r}: math.inf is for no limit at all")
    return seconds


def checked_send_timeout(send_timeout: object) -> float | None:
    seconds = _checked_seconds("send_timeout", "more than zero", send_timeout)
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(
            f"send_timeout must be more than zero seconds, or None, not {send_timeout!r}: None is for no limit at all"
        )
    return seconds


def _checked_seconds(option: str, how_many: str, seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real):
        raise TypeError(f"{option} must be {how_many} seconds, or None, not {seconds!r}: pass a number")
    try:
        return float(seconds)
    except OverflowError:
        raise ValueError(f"{option} must be {how_many} seconds, or None: no float holds a number that large") from None


def checked_function(option: str, argument: str, function: object, is_async: bool) -> Any:
    """`function`, or an error if it cannot be called with one argument."""
    if function is None:
        return None
    if not callable(function):
        raise TypeError(f"{option} must be a function of one argument, {argument}, not {function!r}")
    if not is_async and (
        inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    ):
        raise TypeError(f"{option} must be a plain function, not {name_of(function)}, which is async: remove the async")
    for one in (function, getattr(function, "__call__", None)):  # noqa: B004
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise TypeError(
                f"{option} must be a function, not {name_of(function)}, whose yield makes it a generator that nobody "
                "would run: remove the yield"
            )
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise TypeError(
            f"{option} must be a function of one argument, {argument}, not {name_of(function)}: {error}"
        ) from None
    except ValueError:  # no signature to be had: of a builtin, say
        pass
    return function


def name_of(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if isinstance(name, str) else repr(function)


def make_truthful(scope: Any, policy: Policy) -> None:
    """Have the scope claim a `spec_version` that is true under `policy`, whatever the server claims (P4).

    A version that is none ("", "3", None) counts as the specification's default, as one that is absent does. The dict
    that may be another request's too is replaced, not changed.
    """
    try:
        claimed = scope["asgi"]["spec_version"]
    except (KeyError, TypeError):  # absent (Daphne), or no mapping at all
        if policy == "raise":
            _claim(scope, _RAISING)
        return
    if claimed in VERSIONS_BEFORE_RAISING:  # as nearly all are
        if policy == "raise":
            _claim(scope, _RAISING)
        return
    version = _true_version(policy, claimed)
    if version != claimed:
        _claim(scope, version)


def _true_version(policy: Policy, claimed: object) -> str:
    parts = claimed.split(".") if isinstance(claimed, str) else ()
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return _RAISING if policy == "raise" else _DEFAULT
    raises = tuple(map(int, parts)) >= (2, 4)
    if policy == "raise":
        return str(claimed) if raises else _RAISING
    return _MUTED if raises else str(claimed)


def _claim(scope: Any, version: str) -> None:
    try:
        asgi = dict(scope["asgi"])
    except (KeyError, TypeError, ValueError):
        asgi = {}
    asgi["spec_version"] = version
    scope["asgi"] = asgi
