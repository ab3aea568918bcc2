"""Virtual environments, one for each version of a server, created when they do not exist yet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Sequence
from pathlib import Path

from .setups import PYTHON_OF, Setup

SECONDS_TO_INSTALL = 300


class Environments:
    """The environments below the directory `home`, for the interpreter `python` (a version or a path)."""

    def __init__(self, home: Path, python: str) -> None:
        self._home = home
        self._python = python
        self._locks: dict[str, threading.Lock] = {}
        self._failures: dict[str, str] = {}

    def interpreter(self, setup: Setup) -> str:
        """Return the interpreter that has the server of `setup`. Raises `OSError` if that cannot be installed."""
        python = _found(PYTHON_OF[setup.server]) if setup.server in PYTHON_OF else self._python
        return self.make(f"{setup.server}-{setup.version}", setup.requirements(), python)

    def make(self, name: str, wanted: list[str], python: str = "") -> str:
        """Return the interpreter of the environment `name`, made with what is `wanted`. Raises `OSError` likewise."""
        with self._locks.setdefault(name, threading.Lock()):
            if name in self._failures:
                raise OSError(self._failures[name])
            try:
                return self._made(name, wanted, python or self._python)
            except (OSError, subprocess.SubprocessError) as failure:
                self._failures[name] = f"{type(failure).__name__}: {failure}"
                raise OSError(self._failures[name]) from failure

    def _made(self, name: str, wanted: list[str], python: str) -> str:
        directory = self._home / name
        interpreter = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        done = directory / "complete"
        if done.exists():
            return str(interpreter)
        shutil.rmtree(directory, ignore_errors=True)
        uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
        if uv:
            _run(uv, "venv", "-q", "--python", python, str(directory))
            _run(uv, "pip", "install", "-q", "--python", str(interpreter), *wanted)
        else:
            if python == sys.executable:
                venv.create(directory, with_pip=True)
            else:
                _run(python, "-m", "venv", str(directory))
            _run(str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted)
        done.touch()
        return str(interpreter)


def _found(version: str) -> str:
    """Return the interpreter of that version that pyenv has built, or the version, for others to find."""
    built = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    return str(next(built, version))


def installed_versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions that the package index gave to that interpreter."""
    code = f"import importlib.metadata as m, json; print(json.dumps([m.version(one) for one in {list(packages)}]))"
    return dict(zip(packages, json.loads(_run(python, "-c", code)), strict=True))


def _run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_INSTALL)
    if ended.returncode:
        raise OSError(f"{' '.join(command[:3])} … failed: {ended.stderr.strip()[-600:]}")
    return ended.stdout
