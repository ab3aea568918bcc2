"""The options of the middleware, and their checks."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ._orphans import Orphans
from ._records import Disconnect

Policy = Literal["mute", "finish", "cancel", "raise"]
"""What becomes of an app whose client has left.

- `"mute"`: it goes on; what it sends is dropped, and it hears of the disconnect if it listens.
- `"finish"`: it goes on to its end; what it sends is dropped, and it does not hear of the disconnect before.
- `"cancel"`: it is ended once, and may clean up.
- `"raise"`: its next `send` raises `ClientDisconnected`.
"""


class _NotGiven:
    def __repr__(self) -> str:
        return "<from the environment>"


NOT_GIVEN: Any = _NotGiven()
"""The default of an option that is read from its variable where no argument is passed."""

PolicyFor = Callable[[Any], "Policy | None"] | Mapping[str, Policy]
Hook = Callable[[Disconnect], Any]


@dataclass(frozen=True)
class Options:
    """What to do for one exchange when its client leaves."""

    policy: Policy
    grace: float | None = None
    send_timeout: float | None = None
    hooks: tuple[Hook, ...] = ()
    orphans: Orphans | None = None
    install: object = field(default=None, compare=False)  # tells the middlewares apart

    @functools.cached_property
    def seconds_to_cancel(self) -> float | None:
        """From the disconnect to the cancellation of the app; None where the app goes on to its end."""
        if self.grace is None:
            return 0.0 if self.policy == "cancel" else None
        return None if self.grace == math.inf else self.grace

    @functools.cached_property
    def needs_watcher(self) -> bool:
        """Whether a disconnect must be detected even where the app does not ask."""
        is_bounded = self.seconds_to_cancel is not None or self.orphans is not None
        return self.policy != "mute" or is_bounded or self.hooks != ()

    def within(self, outer: Options) -> Options:
        """These options of an inner install, completed by those of the install around it."""
        return Options(
            outer.policy if self.policy == "mute" else self.policy,
            outer.grace if self.grace is None else self.grace,
            outer.send_timeout if self.send_timeout is None else self.send_timeout,
            outer.hooks + tuple(hook for hook in self.hooks if hook not in outer.hooks),
            outer.orphans if self.orphans is None else self.orphans,
            outer.install,
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


def check_max_orphans(max_orphans: object) -> int | None:
    if max_orphans is None:
        return None
    if isinstance(max_orphans, bool) or not isinstance(max_orphans, int):
        raise TypeError(f"max_orphans must be a whole number of apps, or None, not {max_orphans!r}: pass an int")
    if max_orphans < 1:
        raise ValueError(
            f'max_orphans must be 1 or more apps, or None, not {max_orphans!r}: to let none go on, use policy="cancel"'
        )
    return max_orphans


def check_policy_for(policy_for: object) -> Callable[[Any], Policy | None] | None:
    """A function of the scope."""
    if isinstance(policy_for, Mapping):
        return PathPolicies(policy_for)
    return check_function("policy_for", "the scope", policy_for, is_async=False)  # type: ignore[no-any-return]


class PathPolicies:
    """The policies of `policy_for=` by patterns of the path; the first that matches counts."""

    def __init__(self, policies: Mapping[Any, Any]) -> None:
        for pattern, policy in policies.items():
            if not isinstance(pattern, str):
                raise TypeError(f'policy_for must have patterns of paths as its keys, not {pattern!r}: such as "/v1/*"')
            if pattern[:1] not in ("/", "*", "?", "["):
                raise ValueError(f"policy_for has a pattern that matches no path, {pattern!r}: begin it with a slash")
            if "{" in pattern:
                wanted = re.sub(r"\{[^}]*\}?", "*", pattern)
                raise ValueError(f"policy_for matches paths, and no templates of a router: {wanted!r}, not {pattern!r}")
            check_policy(f"policy_for[{pattern!r}]", policy)
        self._policies = dict(policies)

    def __call__(self, scope: Any) -> Policy | None:
        path = scope.get("path", "")
        return next((self._policies[each] for each in self._policies if fnmatch.fnmatchcase(path, each)), None)


def _check_seconds(option: str, how_many: str, seconds: object) -> float | None:
    if seconds is None:
        return None
    from numbers import Real  # not imported unless an option needs it

    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        raise TypeError(f"{option} must be {how_many} seconds, or None, not {seconds!r}: pass a number")
    try:
        return float(seconds)
    except OverflowError:
        raise ValueError(f"{option} must be {how_many} seconds, or None: no float holds a number that large") from None


def takes(function: Any, count: int) -> bool:
    """Whether it can be called with so many arguments, as far as its signature tells (a builtin may have none)."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


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
