"""The options of the middleware, and their checks."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ._records import Disconnect

Policy = Literal["mute", "raise", "cancel"]
"""What `send` does after the disconnect, and what becomes of the app.

`"mute"`: nothing, and the app goes on. `"raise"`: it raises `ClientDisconnected`. `"cancel"`: nothing, and the app is
cancelled.
"""

PolicyFor = Callable[[Any], "Policy | None"]
Hook = Callable[[Disconnect], Any]


@dataclass(frozen=True)
class Options:
    """What to do for one exchange when its client leaves."""

    policy: Policy
    grace: float | None = None
    send_timeout: float | None = None
    hooks: tuple[Hook, ...] = ()

    @functools.cached_property
    def seconds_to_cancel(self) -> float | None:
        """From the disconnect to the cancellation of the app; None where the app goes on to its end."""
        if self.grace is None:
            return 0.0 if self.policy == "cancel" else None
        return None if self.grace == math.inf else self.grace

    @functools.cached_property
    def need_watcher(self) -> bool:
        """Whether a disconnect must be detected even where the app does not ask."""
        return self.policy != "mute" or self.seconds_to_cancel is not None or self.hooks != ()

    def within(self, outer: Options) -> Options:
        """These options of an inner install, completed by those of the install around it."""
        return Options(
            outer.policy if self.policy == "mute" else self.policy,
            outer.grace if self.grace is None else self.grace,
            outer.send_timeout if self.send_timeout is None else self.send_timeout,
            outer.hooks + tuple(hook for hook in self.hooks if hook not in outer.hooks),
        )


*_others, _last = map(repr, get_args(Policy))
CHOICES = f"{', '.join(_others)} or {_last}"


def is_policy(policy: object) -> bool:
    return isinstance(policy, str) and policy in get_args(Policy)


def check_policy(option: str, policy: object) -> Policy:
    """`policy`, or an error that says what `option` takes."""
    if not isinstance(policy, str):
        raise TypeError(f"{option} must be {CHOICES}, not {policy!r}: pass a string")
    for choice in get_args(Policy):
        if policy == choice:
            return choice  # type: ignore[no-any-return]  # one of the literal's own strings
    advice = 'it is called "mute" now' if policy == "ignore" else "look for a misspelling"
    raise ValueError(f"{option} must be {CHOICES}, not {policy!r}: {advice}")


def check_grace(grace: object) -> float | None:
    seconds = _check_seconds("grace", "zero or more", grace)
    if seconds is not None and not seconds >= 0:  # written so that NaN is refused too
        raise ValueError(f"grace must be zero or more seconds, or None, not {grace!r}: math.inf is for no limit at all")
    return seconds


def check_send_timeout(send_timeout: object) -> float | None:
    seconds = _check_seconds("send_timeout", "more than zero", send_timeout)
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(
            f"send_timeout must be more than zero seconds, or None, not {send_timeout!r}: None is for no limit at all"
        )
    return seconds


def _check_seconds(option: str, how_many: str, seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real):
        raise TypeError(f"{option} must be {how_many} seconds, or None, not {seconds!r}: pass a number")
    try:
        return float(seconds)
    except OverflowError:
        raise ValueError(f"{option} must be {how_many} seconds, or None: no float holds a number that large") from None


def check_function(option: str, argument: str, function: object, is_async: bool) -> Any:
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
                f"{option} must be a function, not {name_of(function)}, whose yield makes it a generator that nothing "
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
