"""Checks of arguments and of fields of records: a `TypeError` or `ValueError` that names what is wrong."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

from .._middleware import ASGIApp, single_callable
from .._options import takes


def check_app(app: Any) -> ASGIApp:
    """Return `app` as an application of the single callable."""
    name = getattr(app, "__qualname__", type(app).__qualname__)
    if callable(app) and not inspect.isclass(app) and not takes(app, 3):
        if takes(app, 0):
            raise TypeError(
                f"app must be an ASGI application, not {name}, which takes no arguments: if it is a factory, pass what "
                f"it returns, {name}()"
            )
        if takes(app, 2) and not takes(app, 1):
            raise TypeError(
                f"app must be an ASGI application, not {name}, which takes two arguments as a WSGI application does: "
                "pass it in an adapter, a2wsgi.WSGIMiddleware(app) or asgiref.wsgi.WsgiToAsgi(app)"
            )
    return single_callable(app)


def check_patience(value: object) -> None:
    check_seconds("patience", value)
    if value == 0:
        raise ValueError("patience must be more than 0 seconds, not 0: the app would have no turn of the event loop")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    expected = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {expected}, not {value!r}: pass a string")
    if value not in choices:
        raise ValueError(f"{name} must be {expected}, not {value!r}: look for a misspelling")


def check_count(name: str, value: object, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")


def check_close_code(name: str, value: object) -> None:
    check_count(name, value, least=1000)
    if value > 4999:  # type: ignore[operator]  # it is a number
        raise ValueError(f"{name} must be 1000 to 4999 (RFC 6455, 7.4), not {value!r}")


def check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if math.isnan(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, 0 or more and finite, not {value!r}")


def check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")


def check_sequence(name: str, value: Any, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """Return `value` as a tuple.

    Strings and mappings are refused: they are iterable, but never what was meant.
    """
    names = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(value, (str, bytes, bytearray, dict)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence of {names}, not {value!r}: look for missing brackets")
    items = tuple(value)
    for item in items:
        if not isinstance(item, kinds):
            raise TypeError(f"{name} must hold {names}, not {item!r}")
    return items
