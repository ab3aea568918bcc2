"""The environment of the demo's servers: the one that runs now, or a throw-away one with another uvicorn."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _throw_away
from .server import DemoError

if TYPE_CHECKING:
    from rich.console import Console

NEEDED = ("rich", "starlette", "uvicorn", "websockets")
"""What the extra `demo` installs, and the demo imports."""

_PACKAGE = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Environment:
    python: str
    import_path: str


def require(*packages: str) -> None:
    """Raise `DemoError` if one of these is not installed here."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f"the demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here: "
            'pip install "disconnect-mw[demo]"'
        )


def this_environment() -> Environment:
    """Return the environment that runs now. Raises `DemoError` if packages of the extra `demo` are missing."""
    require(*NEEDED)
    return Environment(sys.executable, os.pathsep.join(map(os.path.abspath, sys.path)))


def throw_away_environment(uvicorn: str, directory: Path, console: Console) -> Environment:
    """Install that version of uvicorn, and what else the demo needs, below `directory`.

    The servers import a copy of the package that runs now: beside the original there may be another uvicorn. Raises
    `DemoError` if the installation fails or takes longer than 300 s.
    """
    if not re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*", uvicorn):
        raise DemoError(f"--uvicorn must be a version such as 0.28.0, not {uvicorn!r}")
    import_path = directory / "import"
    shutil.copytree(_PACKAGE, import_path / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    # uvicorn before 0.20 fails with websockets 14 and later.
    websockets = "websockets<14" if [*map(int, re.findall(r"\d+", uvicorn))] < [0, 20] else "websockets"
    packages = [f"uvicorn=={uvicorn}", "starlette", "asgiref", "httptools", websockets]
    what = f"Installing uvicorn {uvicorn} in a throw-away environment ({_throw_away.installer()})"
    began = time.monotonic()
    try:
        with console.status(f"{what} ..."):  # on a terminal only
            python = _throw_away.make(directory, [packages], lambda: None)
    except _throw_away.NotInstalled as failure:
        raise DemoError(_why_not_installed(uvicorn, failure)) from None
    console.print(f"{what}: {time.monotonic() - began:.0f} s")
    return Environment(python, str(import_path))


def _why_not_installed(uvicorn: str, failure: _throw_away.NotInstalled) -> str:
    """Return the reason in one sentence."""
    if failure.is_late:
        return f"uvicorn {uvicorn} was not installed within {_throw_away.SECONDS_TO_INSTALL:.0f} s: try again"
    if failure.misses("uvicorn"):
        return f"there is no uvicorn {uvicorn} for this Python: see pip index versions uvicorn"
    last = failure.last_line
    return f"uvicorn {uvicorn} could not be installed (is there a network?); the installer's last line: {last}"
