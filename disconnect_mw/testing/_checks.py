"""Checks of the fields of clients and records: a `TypeError` or `ValueError` that names the field, if one is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


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
