"""Plays every situation of every framework on every server: `python -m tests.real.frameworks`.

Bare, and under each policy. Nothing may be worse than bare, no departure may be logged as an error, by the edge or with
the log filter, and all must come out as `cells.json` has it, of which `docs/frameworks.rst` is made. `--write` writes
both anew. The newest versions need Python 3.13.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..servers.clients import Hang
from ..servers.environments import Environments, installed_versions
from ..servers.meter import Meter
from ..servers.server import Crash
from . import docs, limits, records, setups
from .cells import Column, faults, play
from .records import Record
from .situations import WAYS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.frameworks", description=__doc__)
    parser.add_argument("--cache", type=Path, help="the directory of the environments (default: a temporary one)")
    parser.add_argument("--python", default="3.13", help="version or path of the interpreter (default 3.13)")
    parser.add_argument("--workers", type=int, default=6, help="servers that run at the same time (default 6)")
    parser.add_argument("--write", action="store_true", help="write what comes out into the record and onto the page")
    parser.add_argument("frameworks", nargs="*", help=f"of {', '.join(setups.FRAMEWORKS)} (default: all)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.frameworks if name not in setups.FRAMEWORKS]
    if unknown:
        parser.error(f"there is no framework {unknown[0]!r} here: choose from {', '.join(setups.FRAMEWORKS)}")
    began = time.monotonic()
    chosen = [setups.FRAMEWORKS[name] for name in options.frameworks or setups.FRAMEWORKS]
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary, Meter() as meter:
        home = (options.cache or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        environments = Environments(home, options.python)
        plays = _plays(environments, chosen)
        columns: dict[tuple[str, str, str], Column] = {}
        failures: list[str] = []

        def run(one: tuple[str, str, str, str]) -> None:
            framework, version, server, python = one
            column = Column(framework, setups.SERVERS[server])
            try:
                ways = ("fin",) if version == setups.BEFORE[setups.FRAMEWORKS[framework].package] else WAYS
                play(column, python, setups.FRAMEWORKS[framework].on(server), ways=ways)
            except (Hang, Crash, AssertionError) as failure:
                failures.append(f"{framework} {version} on {server}: {failure}")
            else:
                columns[framework, version, server] = column
            meter.step(f"{framework} {version} on {server}")

        meter.expect(len(plays))
        with ThreadPoolExecutor(options.workers) as workers:
            list(workers.map(run, plays))
        newest = environments.make("frameworks-newest", setups.newest())
        versions = installed_versions(newest, list(setups.SERVERS))
        python = subprocess.check_output([newest, "-c", "import platform; print(platform.python_version())"], text=True)
    seen = []
    for key, column in sorted(columns.items()):
        for (situation, variant, _), fault in faults(column):
            if limits.limit_of(column.framework, situation, variant) is None:
                failures.append(f"{key[1]}: {fault}")
            else:
                seen.append((column.framework, situation, variant))
    if options.write and len(columns) < len(plays):
        failures.append("nothing is written, since not all of them were played")
    elif options.write:
        record = Record(python.strip(), versions, columns)
        if options.frameworks:
            record = records.merged(records.read(), record)
        records.write(record)
        docs.PAGE.write_text(docs.page(records.read()), encoding="utf-8")
    else:
        failures += records.differences(records.read(), columns)
    if not options.frameworks:
        failures += [f"no play ran into this limit: {limit}" for limit in limits.unused(seen)]
    for failure in failures:
        print(failure)
    cells = sum(len(column.cells) for column in columns.values())
    print(f"{len(plays)} columns, {cells} cells, {len(failures)} faults, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


def _plays(environments: Environments, chosen: Sequence[setups.Framework]) -> list[tuple[str, str, str, str]]:
    """Framework, version, server and interpreter of each; those that take longest come first."""
    plays = []
    for frameworks, name, requirements in (
        (setups.FIRST, "newest", setups.newest()),
        (setups.OTHERS, "others", setups.others()),
    ):
        wanted = [framework for framework in chosen if framework in frameworks]
        if wanted:
            python = environments.make(f"frameworks-{name}", requirements)
            versions = installed_versions(python, [framework.package for framework in wanted])
            plays += [
                (framework.name, versions[framework.package], server, python)
                for framework in wanted
                for server in framework.servers
            ]
    for name, (packages, requirements) in setups.environments_before().items():
        wanted = [framework for framework in chosen if framework.package in packages]
        if wanted:
            python = environments.make(f"frameworks-{name}", requirements)
            plays += [(framework.name, setups.BEFORE[framework.package], "uvicorn", python) for framework in wanted]
    return sorted(plays, key=lambda one: -len(setups.FRAMEWORKS[one[0]].situations))


if __name__ == "__main__":
    sys.exit(main())
