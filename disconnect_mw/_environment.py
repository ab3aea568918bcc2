"""The options from the environment, for installs by import path, where nothing can be passed."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from ._options import CHOICES, NOT_GIVEN, Policy, check_grace, check_max_orphans, check_send_timeout
from ._telling import LOGGER

PREFIX = "DISCONNECT_MW_"
LOG, APP = f"{PREFIX}LOG", f"{PREFIX}APP"

T = TypeVar("T")


def _policy(text: str) -> str:
    if text not in get_args(Policy):
        raise ValueError
    return text


def _grace(text: str) -> float | None:
    return check_grace(float(text))


def _send_timeout(text: str) -> float | None:
    return check_send_timeout(float(text))


def _max_orphans(text: str) -> int | None:
    return check_max_orphans(int(text))


_OPTIONS: dict[str, tuple[Any, Callable[[str], Any], str]] = {
    "policy": ("mute", _policy, CHOICES),
    "websocket_policy": ("raise", _policy, CHOICES),
    "grace": (None, _grace, "zero or more seconds, or 'inf' for no limit at all"),
    "send_timeout": (None, _send_timeout, "more than zero seconds; unset it for no limit"),
    "max_orphans": (None, _max_orphans, "a whole number of apps, 1 or more; unset it for no limit"),
}
"""The default, what makes a value of the variable's text, and what it takes."""

VARIABLES = {option: f"{PREFIX}{option.upper()}" for option in _OPTIONS}

_complained: set[str] = set()


def complete(**options: Any) -> dict[str, Any]:
    """These options, of which those that are `NOT_GIVEN` are taken from their variables.

    A variable that is empty counts as unset. Raises `ValueError`, and logs the same sentence, for a value that is not
    valid: Starlette makes its middleware in the lifespan, whose exceptions uvicorn takes for "not supported".
    """
    log = os.environ.get(LOG)
    if log:
        _configure_logging(log)
    for name in os.environ:
        if name.startswith(PREFIX) and name not in {LOG, APP, *VARIABLES.values()} and name not in _complained:
            _complained.add(name)
            LOGGER.warning("%s is no variable of disconnect_mw: look for a misspelling", name)
    found = {option: value for option, value in options.items() if value is not NOT_GIVEN}
    for option in options.keys() - found.keys():
        found[option] = _read(option)
    if (
        found["max_orphans"] is not None
        and options["max_orphans"] is NOT_GIVEN
        and found["policy"] == found["websocket_policy"] == "raise"
    ):
        # Where an argument chose the policy the variable, which is for all installs, does not apply to this one.
        if options["policy"] is NOT_GIVEN:
            raise _error(f"{VARIABLES['max_orphans']} needs apps that can go on without a client: set another policy")
        found["max_orphans"] = None
    return found


def _read(option: str) -> Any:
    default, convert, takes = _OPTIONS[option]
    variable = VARIABLES[option]
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return convert(text)
    except ValueError:
        raise _error(f"{variable} must be {takes}, not {text!r}") from None


def _configure_logging(text: str) -> None:
    from .observe import logging  # a package further up, which only this variable, or the app, imports

    if logging.is_configured():  # by the app, which wins, or by an install before this
        return
    level, _, format = (part.strip() for part in text.partition(","))
    try:
        logging.configure(level.upper(), format or "text")  # type: ignore[arg-type]  # it is checked there
    except ValueError:
        raise _error(f"{LOG} must be a level, 'info', or a level and a format, 'info,json', not {text!r}") from None


def _error(sentence: str) -> ValueError:
    LOGGER.error(sentence)
    return ValueError(sentence)


# The app


def load_app() -> Any:
    """The app, or what the factory returns, that the variable names. Raises `ValueError` where it names none."""
    path = os.environ.get(APP, "")
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise _error(f"{APP} must be the import path of an app, as 'package.module:app', not {path!r}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the app's own import has failed
        raise _error(f"{APP} is {path!r}, but there is no module {error.name!r}: look at sys.path") from None
    is_factory = name.endswith("()")
    for attribute in name.removesuffix("()").split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise _error(f"{APP} is {path!r}, but there is no {attribute!r} in {module_name!r}") from None
    if is_factory or takes_nothing(found):
        found = found()
    if not callable(found):
        raise _error(f"{APP} is {path!r}, which is no ASGI application but {found!r}")
    return found


def takes_nothing(found: Any) -> bool:
    """Whether it is a factory, which no application is: that takes one argument (ASGI 2) or three."""
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return False
    return not _takes_three(found)


def _takes_three(found: Any) -> bool:
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError:
        return False
    return True
