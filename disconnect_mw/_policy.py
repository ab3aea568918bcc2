"""The policies and their checks."""

from __future__ import annotations

from typing import Any, Literal, get_args

Policy = Literal["ignore", "raise"]
"""What `send` does after the client has gone: nothing at all, or raise `ClientDisconnected`."""

# The versions in use that are true where sends are muted. Since 2.4 the specification has `send` raise after a
# disconnect, and Starlette then relies on that: it stops listening.
VERSIONS_BEFORE_RAISING = ("2.3", "2.1", "2.0", "2.2")
_NEAREST: dict[Policy, str] = {"ignore": "2.3", "raise": "2.4"}
_DEFAULT = "2.0"


def checked(option: str, policy: object) -> Policy:
    """`policy`, or an error that says what `option` takes."""
    expected = " or ".join(map(repr, get_args(Policy)))
    if not isinstance(policy, str):
        raise TypeError(f"{option} must be {expected}, not {policy!r}: pass a string")
    for choice in get_args(Policy):
        if policy == choice:
            return choice  # type: ignore[no-any-return]  # one of the literal's own strings
    raise ValueError(f"{option} must be {expected}, not {policy!r}: look for a misspelling")


def make_truthful(scope: Any, policy: Policy) -> None:
    """Have the scope claim a `spec_version` that is true under `policy`, whatever the server claims (P4).

    A version that is none ("", "3", None) counts as the specification's default, as one that is absent does. The dict
    that may be another request's too is replaced, not changed.
    """
    try:
        claimed = scope["asgi"]["spec_version"]
    except (KeyError, TypeError):  # absent (Daphne), or no mapping at all
        if policy == "raise":
            _claim(scope, _NEAREST[policy])
        return
    version = _true_version(policy, claimed)
    if version != claimed:
        _claim(scope, version)


def _true_version(policy: Policy, claimed: object) -> str:
    parts = claimed.split(".") if isinstance(claimed, str) else ()
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return _DEFAULT if policy == "ignore" else _NEAREST[policy]
    version = tuple(map(int, parts))
    is_true = version < (2, 4) if policy == "ignore" else version >= (2, 4)
    return str(claimed) if is_true else _NEAREST[policy]


def _claim(scope: Any, version: str) -> None:
    try:
        asgi = dict(scope["asgi"])
    except (KeyError, TypeError, ValueError):
        asgi = {}
    scope["asgi"] = {**asgi, "spec_version": version}
