"""The options from the environment, for installs by import path, where nothing can be passed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, get_args

from ._options import CHOICES, NOT_GIVEN, Policy, check_grace, check_max_orphans, check_send_timeout, takes
from ._telling import LOGGER

# Characters of a value that are shown where it is wrong.
_CHARACTERS = 100

PREFIX = "DISCONNECT_MW_"
LOG, APP = f"{PREFIX}LOG", f"{PREFIX}APP"


def _policy(text: str) -> str:
    if text.lower() not in get_args(Policy):
        raise ValueError
    return text.lower()


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

    A variable that is empty counts as unset; blanks around a value, and its case, do not matter. Raises `ValueError`,
    and logs the same sentence, for a value that is not valid: Starlette makes its middleware in the lifespan, whose
    exceptions uvicorn takes for "not supported".
    """
    log = _text(LOG)
    if log:
        _configure_logging(log)
    if LOGGER.disabled and LOGGER.handlers:  # by logging.config, after the app had asked for the lines
        LOGGER.disabled = False
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
    default, convert, wanted = _OPTIONS[option]
    variable = VARIABLES[option]
    text = _text(variable)
    if not text:
        return default
    try:
        return convert(text)
    except ValueError:
        raise _error(f"{variable} must be {wanted}, not {_shown(text)}") from None


def _text(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…")


def _configure_logging(text: str) -> None:
    from .observe import logging  # a package further up, which only this variable, or the app, imports

    if logging.is_configured():  # by the app, which wins, or by an install before this
        return
    level, _, format = (part.strip() for part in text.partition(","))
    try:
        logging.configure(level, format.lower() or "text")  # type: ignore[arg-type]  # it is checked there
    except ValueError:
        wanted = "a level, 'info', or a level and a format, 'info,json'"
        raise _error(f"{LOG} must be {wanted}, not {_shown(text)}") from None


def _error(sentence: str) -> ValueError:
    LOGGER.error(sentence)
    return ValueError(sentence)


# The app


def load_app() -> Any:
    """The app, or what the factory returns, that the variable names. Raises `ValueError` where it names none."""
    path = _text(APP)
    module_name, colon, name = (part.strip() for part in path.partition(":"))
    if not (module_name and colon and name) or module_name.startswith(".") or {"/", "\\"} & {*module_name}:
        raise _error(f"{APP} must be the import path of an app, as 'package.module:app', not {_shown(path)}")
    if module_name == f"{__package__}.app":
        raise _error(f"{APP} is {path!r}, which serves the app that it names: it must name another one")
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
    if is_factory and not takes(found, 0):
        raise _error(f"{APP} is {path!r}, which is no factory but {found!r}: a factory takes no arguments")
    if is_factory or takes_nothing(found):
        found = found()
    if not callable(found):
        raise _error(f"{APP} is {path!r}, which is no ASGI application but {found!r}")
    return found


def takes_nothing(found: Any) -> bool:
    """Whether it is a factory, which no application is: that takes one argument (ASGI 2) or three."""
    return takes(found, 0) and not takes(found, 3)
