"""The `spec_version` that the scope states (P4).

Frameworks choose their path by it. Since HTTP & WebSocket 2.4 the specification has `send` raise after a disconnect,
and Starlette then relies on that: it does not listen.
"""

from __future__ import annotations

from typing import Any

from ._options import Policy

_MUTED, _RAISING = "2.3", "2.4"
_DEFAULT = "2.0"


def set_spec_version(scope: Any, policy: Policy) -> None:
    """Have the scope state a version that is right under `policy`, whatever the server states.

    A value that is no version ("", "3", None) counts as the specification's default, as an absent one does. The dict
    that may be another request's too is replaced, not changed.
    """
    try:
        stated = scope["asgi"]["spec_version"]
    except (KeyError, TypeError):  # absent (Daphne), or no mapping at all
        if policy == "raise":
            _set(scope, _RAISING)
        return
    if stated == _MUTED and policy != "raise":  # as nearly always
        return
    version = _right_version(policy, stated)
    if version != stated:
        _set(scope, version)


def _right_version(policy: Policy, stated: object) -> str:
    parts = stated.split(".") if isinstance(stated, str) else ()
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return _RAISING if policy == "raise" else _DEFAULT
    raises = tuple(map(int, parts)) >= (2, 4)
    if policy == "raise":
        return str(stated) if raises else _RAISING
    return _MUTED if raises else str(stated)


def _set(scope: Any, version: str) -> None:
    try:
        asgi = dict(scope["asgi"])
    except (KeyError, TypeError, ValueError):
        asgi = {}
    asgi["spec_version"] = version
    scope["asgi"] = asgi
