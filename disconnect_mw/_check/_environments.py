"""Where the servers of the check run: the environment that runs now, or throw-away ones with the app's packages."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .. import _throw_away
from ._options import CheckError
from ._places import SERVERS

_PACKAGE = Path(__file__).parents[1]

_RUN_WITH = {
    "uvicorn": ("httptools", "websockets"),
    "gunicorn": ("h11", "uvicorn", "websockets"),
    "hypercorn": ("h2",),
}
"""What a server is installed with, as its users do, where the app's packages have none of that."""


@dataclasses.dataclass(frozen=True)
class Environment:
    python: str
    import_path: str
    versions: dict[str, str]  # of the servers


def installed_servers() -> dict[str, str]:
    """The servers that are installed in the environment that runs now, and their versions."""
    return {name: version for name in SERVERS if (version := _version(name)) is not None}


def this_environment() -> Environment:
    return Environment(sys.executable, os.pathsep.join(map(os.path.abspath, sys.path)), installed_servers())


def throw_away_environment(
    server: str, version: str | None, requirements: Path | None, directory: Path, show: Callable[[], None]
) -> Environment:
    """Install that version of a server, or the newest, beside the app's packages.

    Those are what `requirements` lists, else what is installed in the environment that runs now, in the same versions.
    Raises `CheckError` if the installation fails or takes longer than 300 s.
    """
    wanted = server if version is None else f"{server}=={version}"
    import_path = directory / "import"
    shutil.copytree(_PACKAGE, import_path / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    paths = [str(import_path)]
    if requirements is None:
        pinned, editable = _packages_here()
        # Without their dependencies: they are all there, and what they want of the server does not count.
        listed = directory / "requirements.txt"
        listed.write_text("".join(f"{line}\n" for line in pinned), encoding="utf-8")
        first = ["--no-deps", "-r", str(listed)]
        paths += editable
        has = {_name_of(line) for line in pinned}
    else:
        first = ["-r", str(requirements.resolve())]
        has = {_name_of(line) for line in requirements.read_text(encoding="utf-8").splitlines()}
    second = [wanted, "asgiref", *_with_it(server, version, has)]
    try:
        python = _throw_away.make(directory, [first, second], show)
    except _throw_away.NotInstalled as failure:
        raise CheckError(_why_not(wanted, failure)) from None
    # The version is not asked for again: only gunicorn's matters, and None is the newest.
    return Environment(python, os.pathsep.join(paths), {server: version or "999"})


def _with_it(server: str, version: str | None, has: set[str]) -> list[str]:
    others = [name for name in _RUN_WITH.get(server, ()) if name not in has]
    if server == "uvicorn" and version is not None and [*map(int, re.findall(r"\d+", version))][:2] < [0, 20]:
        # uvicorn before 0.20 fails with websockets 14 and later.
        return [*(name for name in others if name != "websockets"), "websockets<14"]
    return others


def _packages_here() -> tuple[list[str], list[str]]:
    """What is installed here, as requirements, and the directories of what is installed in editable mode."""
    pinned, editable = [], []
    for distribution in importlib.metadata.distributions():
        name = _name_of(distribution.metadata["Name"] or "")
        if name in (*SERVERS, "", "disconnect-mw", "pip", "setuptools", "uv"):
            continue
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            editable.append(name)
        elif origin.get("url"):
            pinned.append(f"{name} @ {origin['url']}")
        else:
            pinned.append(f"{name}=={distribution.version}")
    outside = [path for path in sys.path if path and "site-packages" not in path and not _is_of_python(path)]
    return sorted(set(pinned)), [os.path.abspath(path) for path in outside] if editable else []


def _is_of_python(path: str) -> bool:
    return any(os.path.realpath(path).startswith(os.path.realpath(base)) for base in (sys.base_prefix, sys.prefix))


def _name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9][\w.-]*", requirement.strip())
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _why_not(wanted: str, failure: _throw_away.NotInstalled) -> str:
    if failure.is_late:
        return f"{wanted} was not installed within {_throw_away.SECONDS_TO_INSTALL:.0f} s: try again"
    name = wanted.partition("=")[0]
    if failure.misses(name):
        return f"there is no {wanted} for this Python: see pip index versions {name}"
    last = failure.last_line
    return f"{wanted} could not be installed with the app's packages; the installer's last line: {last}"
