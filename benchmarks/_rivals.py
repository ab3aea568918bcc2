"""An interpreter that has the rivals, in pinned versions. They need a newer Python than this project does."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PINS = {"fastapi-disconnect": "0.4.0", "aiofence": "0.5.0", "aidial-sdk": "0.46.0"}
"""No extra of the project depends on them, so this is the one place that names them."""

PYTHONS = ("3.13", "3.14", "3.12")
"""All of the rivals run on these. The Python that runs this is preferred, then the first that is found."""

# What the project itself needs to be measured.
_OURS = ("asgiref>=3.5", "starlette>=0.40", "uvicorn[standard]>=0.34")

_SECONDS_TO_INSTALL = 300


class Interpreter(NamedTuple):
    path: str
    missing: dict[str, str]  # rivals that did not install, and why


def are_here(rivals: Sequence[str]) -> bool:
    """Whether the Python that runs this has them."""
    return all(version(rival) == PINS[rival] for rival in rivals)


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_interpreter(rivals: Sequence[str], home: Path) -> Interpreter:
    """An interpreter with all of the rivals, or as many as install. OSError where no Python can run them.

    Its environment is made in `home` if it is not there yet. The rivals are installed together, or one by one if that
    fails.
    """
    python = next(_pythons(), None)
    if python is None:
        raise OSError(f"there is no Python {' or '.join(sorted(PYTHONS))} here")
    pins = [f"{rival}=={PINS[rival]}" for rival in PINS]
    name = "-".join(("rivals", _run(python, "-c", "import platform; print(platform.python_version())").strip(), *pins))
    directory = (home / name).absolute()
    interpreter = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = directory / "complete"
    missing: dict[str, str] = {}
    if not done.exists():
        shutil.rmtree(directory, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        try:
            _make(python, directory)
            _install(interpreter, *_OURS)
            try:
                _install(interpreter, *pins)
                done.touch()
            except OSError:
                missing = dict(_install_each(interpreter))
        except subprocess.SubprocessError as failure:
            raise OSError(str(failure)) from failure
    return Interpreter(str(interpreter), {rival: why for rival, why in missing.items() if rival in rivals})


def _install_each(interpreter: Path) -> Iterator[tuple[str, str]]:
    for rival, pin in PINS.items():
        try:
            _install(interpreter, f"{rival}=={pin}")
        except OSError as failure:
            yield rival, str(failure)


def _pythons() -> Iterator[str]:
    """The Pythons on the path, and those that pyenv has built."""
    if ".".join(map(str, sys.version_info[:2])) in PYTHONS:
        yield sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for wanted in PYTHONS:
        for candidate in (shutil.which(f"python{wanted}"), *map(str, pyenv.glob(f"{wanted}.*/bin/python"))):
            if candidate is not None and _is_version(candidate, wanted):
                yield candidate


def _is_version(python: str, wanted: str) -> bool:
    """A name is not enough: pyenv's shims have every name, and fail for versions that are not chosen."""
    try:
        return _run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip() == wanted
    except OSError:
        return False


def _make(python: str, directory: Path) -> None:
    uv = _uv()
    if uv:
        _run(uv, "venv", "-q", "--python", python, str(directory))
    elif python == sys.executable:
        venv.create(directory, with_pip=True)
    else:
        _run(python, "-m", "venv", str(directory))


def _install(interpreter: Path, *wanted: str) -> None:
    uv = _uv()
    if uv:
        _run(uv, "pip", "install", "-q", "--python", str(interpreter), *wanted)
    else:
        _run(str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted)


def _uv() -> str | None:
    return shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def _run(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_INSTALL)
    if ended.returncode:
        raise OSError(f"{' '.join(command[:3])} … failed: {ended.stderr.strip()[-600:]}")
    return ended.stdout
