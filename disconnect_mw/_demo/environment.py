"""The environment of the demo's servers: the one that runs now, or a throw-away one with another uvicorn."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from .server import DemoError

NEEDED = ("rich", "starlette", "uvicorn", "websockets")
"""What the extra `demo` installs."""

_PACKAGE = Path(__file__).parents[1]
_SECONDS_TO_INSTALL = 300.0
_SECONDS_BETWEEN_SIGNS = 0.5


@dataclasses.dataclass(frozen=True)
class Environment:
    python: str
    import_path: str


def this_environment() -> Environment:
    """Return the environment that runs now. Raises `DemoError` if packages of the extra `demo` are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f"the demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed here: "
            'pip install "disconnect-mw[demo]"'
        )
    return Environment(sys.executable, os.pathsep.join(map(os.path.abspath, sys.path)))


def throw_away_environment(uvicorn: str, directory: Path, output: TextIO) -> Environment:
    """Install that version of uvicorn, and what else the demo needs, below `directory`.

    The servers import a copy of the package that runs now: beside the original there may be another uvicorn. Raises
    `DemoError` if the installation fails or takes longer than 300 s.
    """
    if not re.fullmatch(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)*", uvicorn):
        raise DemoError(f"--uvicorn must be a version such as 0.28.0, not {uvicorn!r}")
    import_path = directory / "import"
    shutil.copytree(_PACKAGE, import_path / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    home = directory / "environment"
    python = str(home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    uv = shutil.which("uv")
    if uv is not None:
        make = [uv, "venv", "--quiet", "--python", sys.executable, str(home)]
        install = [uv, "pip", "install", "--quiet", "--python", python]
    else:
        make = [sys.executable, "-m", "venv", str(home)]
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # uvicorn before 0.20 fails with websockets 14 and later.
    websockets = "websockets<14" if [*map(int, re.findall(r"\d+", uvicorn))] < [0, 20] else "websockets"
    packages = [f"uvicorn=={uvicorn}", "starlette", "asgiref", "httptools", websockets]
    what = f"Installing uvicorn {uvicorn} in a throw-away environment ({'uv' if uv else 'venv and pip'})"
    progress = _Progress(what, output)
    try:
        for command in (make, [*install, *packages]):
            _run(command, directory, uvicorn, progress)
    finally:
        progress.end()
    return Environment(python, str(import_path))


def _run(command: list[str], directory: Path, uvicorn: str, progress: _Progress) -> None:
    said_path = directory / "installer.log"
    limit = time.monotonic() + _SECONDS_TO_INSTALL
    with said_path.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        while process.poll() is None:
            if time.monotonic() > limit:
                raise DemoError(f"uvicorn {uvicorn} was not installed within {_SECONDS_TO_INSTALL:.0f} s: try again")
            progress.show()
            try:
                process.wait(_SECONDS_BETWEEN_SIGNS)
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.kill()  # does nothing if it has ended
        process.wait()
    if process.returncode:
        raise DemoError(_why_not_installed(uvicorn, said_path.read_text(errors="replace")))


def _why_not_installed(uvicorn: str, said: str) -> str:
    """Return the reason in one sentence. Without a network pip, too, says that there is no such version."""
    is_offline = "from versions: none" in said or "connection broken" in said
    if not is_offline and ("no version of uvicorn" in said or "No matching distribution" in said):
        return f"there is no uvicorn {uvicorn} for this Python: see pip index versions uvicorn"
    lines = [line.strip(" │╰─▶×") for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("WARNING", "hint", "[notice]"))]
    last = lines[-1] if lines else "nothing"
    return f"uvicorn {uvicorn} could not be installed (is there a network?); the installer's last line: {last}"


class _Progress:
    """One line of progress; on a terminal it counts the seconds."""

    def __init__(self, what: str, output: TextIO) -> None:
        self._what, self._output = what, output
        self._started = time.monotonic()
        self._is_terminal = output.isatty()
        if not self._is_terminal:
            print(f"{what} ...", file=output, flush=True)

    def show(self) -> None:
        if self._is_terminal:
            print(f"\r{self._what} ... {self._seconds()}", end="", file=self._output, flush=True)

    def end(self) -> None:
        print("" if self._is_terminal else f"... {self._seconds()}", file=self._output, flush=True)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._started:.0f} s"
