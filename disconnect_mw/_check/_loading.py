"""Imports the app under check, and says in one sentence why that fails.

Runs in the server's process.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
import types
from typing import Any, NoReturn

from .._environment import takes_nothing
from .._middleware import single_callable
from ._places import is_apps, name_of

_FRAMES_SHOWN = 4


class NotLoaded(Exception):
    """Why there is no app: one sentence, and the lines of a traceback that matter."""

    def __init__(self, sentence: str, lines: list[str]) -> None:
        super().__init__(sentence)
        self.sentence, self.lines = sentence, lines


def load(path: str, app_dir: str, *, is_factory: bool) -> Any:
    """Return the app that `path` names, "module:app", or what the factory returns. Raises `NotLoaded`."""
    module_name, _, name = path.partition(":")
    name = name or "app"
    sys.path.insert(0, app_dir)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            _refuse(f"there is no module {error.name!r} in {app_dir}: name the app as module:app, or pass --app-dir")
        _refuse(f"{module_name} cannot be imported: {error}", error)
    except (Exception, SystemExit) as error:
        _refuse(f"{module_name} cannot be imported: {name_of(error)}: {error}", error)
    found: Any = module
    for attribute in name.split("."):
        if not hasattr(found, attribute):
            near = ", ".join(_apps_of(module))
            _refuse(f"there is no {attribute!r} in {module_name}: " + (f"it has {near}" if near else "name the app"))
        found = getattr(found, attribute)
    if is_factory or takes_nothing(found):
        try:
            found = found()
        except Exception as error:
            _refuse(f"the factory {path} fails: {name_of(error)}: {error}", error)
    try:
        return single_callable(found)
    except TypeError:
        _refuse(f"{path} is no ASGI application but {found!r:.80}: name the app, as module:app")


def _apps_of(module: Any) -> list[str]:
    """The names in a module that may be its app."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and not inspect.isclass(value)
        and not isinstance(value, types.BuiltinFunctionType)
        and "app" in name.lower()
    ][:3]


def _refuse(sentence: str, error: BaseException | None = None) -> NoReturn:
    raise NotLoaded(sentence, [] if error is None else shown_lines(error))


def shown_lines(error: BaseException) -> list[str]:
    """The lines of a traceback that matter to the app's author: the innermost frames of the app's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_apps(frame.filename)] or frames[-1:]
    lines = [*traceback.format_list(own[-_FRAMES_SHOWN:]), *traceback.format_exception_only(error)]
    return [line for line in "".join(lines).splitlines() if line.strip(" ^~")]
