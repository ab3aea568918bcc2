"""The scenarios against many versions of uvicorn: `python -m tests.real`.

From the moment an app knows that its client has gone it must see the same on all of them. Each version has a virtual
environment of its own, made when it is not there yet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .clients import Hang
from .scenarios import SCENARIOS, Scenario, limit_of
from .servers import Outcome, Server, Setup

VERSIONS = ("0.13.4", "0.20.0", "0.27.0", "0.28.0", "0.28.1", "0.30.6", "0.34.3", "newest")

SETUPS = (Setup("h11", "websockets", "asyncio"), Setup("httptools", "wsproto", "uvloop"))
SANSIO = Setup("h11", "websockets-sansio", "asyncio")  # newer than the versions that are named here

HANGS_TO_GIVE_UP = 3

MARKS = {"same": ".", "limit": "L", "differs": "D", "hangs": "H", "not played": "-"}


@dataclass
class Column:
    """What one server has given."""

    version: str
    setup: Setup
    cells: dict[str, str] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"uvicorn {self.version} {self.setup}"

    @property
    def is_good(self) -> bool:
        return not self.stories and set(self.cells.values()) <= {"same", "limit"}


def requirements(version: str) -> list[str]:
    """What goes together with that uvicorn."""
    if version == "newest":
        return ["uvicorn", "websockets", "uvloop"]
    # uvicorn's `websockets` implementation is that library's old one, and up to 0.35 or so it sets a policy for uvloop
    # and asks for a loop where none is running, which uvloop 0.22 refuses.
    return [f"uvicorn=={version}", "websockets<14", "uvloop<0.22"]


def environment(version: str, home: Path, python: str) -> str:
    """The interpreter of an environment that has this uvicorn."""
    directory = home / f"uvicorn-{version}"
    interpreter = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = directory / "complete"
    if done.exists():
        return str(interpreter)
    shutil.rmtree(directory, ignore_errors=True)
    wanted = [*requirements(version), "h11", "httptools", "wsproto", "starlette>=0.40", "asgiref>=3.5"]
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if uv:
        run(uv, "venv", "-q", "--python", python, str(directory))
        run(uv, "pip", "install", "-q", "--python", str(interpreter), *wanted)
    else:
        if python == sys.executable:
            venv.create(directory, with_pip=True)
        else:
            run(python, "-m", "venv", str(directory))
        run(str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted)
    done.touch()
    return str(interpreter)


def run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
    if ended.returncode:
        raise OSError(f"{' '.join(command[:3])} … failed: {ended.stderr.strip()[-600:]}")


def play_all(python: str, version: str, setup: Setup, scenarios: Sequence[Scenario]) -> Column:
    """Every scenario on one server; a new server after each hang."""
    column = Column(version, setup)
    left, hangs = list(scenarios), 0
    while left:
        server = Server(python, setup)
        try:
            with server:
                column.version = server.version
                while left and hangs < HANGS_TO_GIVE_UP:
                    scenario = left.pop(0)
                    if judge(column, scenario, server) == "hangs":
                        hangs += 1
                        break
        except Hang as hang:
            column.stories.append(f"the server itself: {hang}")
            hangs = HANGS_TO_GIVE_UP
        else:
            if hangs == 0:
                column.stories += [f"told on stderr: {line}" for line in server.complaints()]
        if hangs >= HANGS_TO_GIVE_UP:
            column.cells.update({scenario.name: "not played" for scenario in left})
            break
    return column


def judge(column: Column, scenario: Scenario, server: Server) -> str:
    """Play `scenario` and note what came of it."""
    limit = limit_of(scenario, column.setup, server.version)
    outcome: Outcome | None = None
    story = ""
    verdict = "limit"
    if limit is None or limit.allows is not None:
        try:
            outcome, story = scenario.play(server)
        except AssertionError as failure:
            verdict, story = ("hangs" if isinstance(failure, Hang) else "differs"), str(failure)
        else:
            if outcome == scenario.expected:
                verdict = "same"
            elif limit is None or limit.allows is None or not limit.allows(outcome, scenario.expected):
                verdict = "differs"
    column.cells[scenario.name] = verdict
    if verdict == "limit" and limit is not None:
        column.limits[limit.reason] = column.limits.get(limit.reason, 0) + 1
    elif verdict != "same":
        column.stories.append(
            f"{scenario.name}: {verdict}\n  expected {scenario.expected}\n  got      {outcome}\n{story}"
        )
    return verdict


def print_table(columns: Sequence[Column], scenarios: Sequence[Scenario]) -> None:
    """One row per scenario, one column per server."""
    for index, column in enumerate(columns):
        print(f"{'  |' * index}  {column.title}")
    for scenario in scenarios:
        marks = "".join(f"  {MARKS[column.cells.get(scenario.name, 'not played')]}" for column in columns)
        print(f"{marks}  {scenario.name}")
    print(". the same   " + "   ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items() if mark != "."))


def print_summary(columns: Sequence[Column]) -> None:
    for column in columns:
        verdicts = list(column.cells.values())
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in MARKS if verdict in verdicts)
        print(f"{column.title}: {counts}")
        for reason, count in column.limits.items():
            print(f"    limit of the server, {count} times: {reason}")
        for story in column.stories:
            print(f"    {story}".replace("\n", "\n    "))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real", description=__doc__)
    parser.add_argument("--cache", type=Path, help="where the environments are kept (default: a temporary directory)")
    parser.add_argument("--python", default="3.11", help="version or path of the interpreter (default 3.11)")
    parser.add_argument("--allow-missing", action="store_true", help="a version that does not install is no failure")
    parser.add_argument("--workers", type=int, default=2, help="servers at once (default 2)")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("versions", nargs="*", default=VERSIONS, help=f"of uvicorn (default: {' '.join(VERSIONS)})")
    options = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if options.only in scenario.name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary:
        home = (options.cache or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)

        def of_version(version: str) -> list[Column] | str:
            try:
                python = environment(version, home, options.python)
            except (OSError, subprocess.SubprocessError) as failure:
                return f"{type(failure).__name__}: {failure}"
            setups = (*SETUPS, SANSIO) if version == "newest" else SETUPS
            return [play_all(python, version, setup, scenarios) for setup in setups]

        with ThreadPoolExecutor(options.workers) as workers:
            results = list(zip(options.versions, workers.map(of_version, options.versions), strict=True))
    columns = [column for _, result in results if not isinstance(result, str) for column in result]
    missing = {version: result for version, result in results if isinstance(result, str)}
    print_table(columns, scenarios)
    print()
    print_summary(columns)
    for version, reason in missing.items():
        print(f"MISSING: uvicorn {version} was not played, because it did not install: {reason}")
    bad = sum(not column.is_good for column in columns)
    print(f"{len(columns)} servers, {len(scenarios)} scenarios, {bad} servers with differences, ", end="")
    print(f"{len(missing)} versions missing, {time.monotonic() - began:.0f} s")
    return 1 if bad or not columns or (missing and not options.allow_missing) else 0


if __name__ == "__main__":
    sys.exit(main())
