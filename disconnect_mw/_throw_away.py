"""Makes a virtual environment that is thrown away: by uv where there is one, else by venv and pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SECONDS_TO_INSTALL = 300.0
_SECONDS_BETWEEN_SIGNS = 0.5


class NotInstalled(Exception):
    """`said` is what the installer has said; `is_late` whether it took too long."""

    def __init__(self, said: str, *, is_late: bool = False) -> None:
        super().__init__(said)
        self.said, self.is_late = said, is_late

    @property
    def is_offline(self) -> bool:
        """Without a network pip, too, says that there is no such version."""
        return "from versions: none" in self.said or "connection broken" in self.said

    def misses(self, package: str) -> bool:
        """Whether there is no such version of `package`."""
        return not self.is_offline and (
            f"no version of {package}" in self.said or "No matching distribution" in self.said
        )

    @property
    def last_line(self) -> str:
        lines = [line.strip(" │╰─▶×") for line in self.said.splitlines()]
        lines = [line for line in lines if line and not line.startswith(("WARNING", "hint", "[notice]"))]
        return lines[-1] if lines else "nothing"


def installer() -> str:
    """The name of what installs here."""
    return "uv" if shutil.which("uv") else "venv and pip"


def make(directory: Path, installs: Sequence[Sequence[str]], show: Callable[[], None]) -> str:
    """Make an environment below `directory` and install there, one call of the installer after another.

    Return its interpreter. `show` is called twice a second meanwhile. Raises `NotInstalled`, also for a call that takes
    longer than 300 s.
    """
    home = directory / "environment"
    python = str(home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    uv = shutil.which("uv")
    if uv is not None:
        begin = [uv, "venv", "--quiet", "--python", sys.executable, str(home)]
        install = [uv, "pip", "install", "--quiet", "--python", python]
    else:
        begin = [sys.executable, "-m", "venv", str(home)]
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (begin, *([*install, *packages] for packages in installs)):
        _run(command, directory, show)
    return python


def _run(command: Sequence[str], directory: Path, show: Callable[[], None]) -> None:
    said_path = directory / "installer.log"
    limit = time.monotonic() + SECONDS_TO_INSTALL
    with said_path.open("wb") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        while process.poll() is None:
            if time.monotonic() > limit:
                raise NotInstalled("", is_late=True)
            show()
            try:
                process.wait(_SECONDS_BETWEEN_SIGNS)
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.kill()  # does nothing if it has ended
        process.wait()
    if process.returncode:
        raise NotInstalled(said_path.read_text(errors="replace"))
