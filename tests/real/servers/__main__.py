"""Plays the scenarios on many versions of every server: `python -m tests.real.servers`.

Once an app knows of the disconnect it must see the same on all of them. And each record of
`disconnect_mw.testing.servers` must give the same lines as its server. Each version has a virtual environment of its
own, created when it does not exist yet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import table
from .behaviour import Proof, prove, to_prove
from .conformance import CRASHES, DIFFERS, GOOD, HANGS, LIMIT, NOT_PLAYED, SAME, Column, play_all
from .environments import Environments, installed_versions
from .meter import Meter
from .scenarios import SCENARIOS, Scenario
from .setups import RARE, VERSIONS, Setup, setups_of

MARKS = {SAME: ".", LIMIT: "L", DIFFERS: "D", HANGS: "H", CRASHES: "C", NOT_PLAYED: "-"}
NOT_FOR_IT = " "

PLAYED = VERSIONS | RARE


def print_table(columns: Sequence[Column], scenarios: Sequence[Scenario]) -> None:
    """Print one row for each scenario, with one column for each server."""
    for index, column in enumerate(columns):
        print(f"{' |' * index} {column.title}")
    for scenario in scenarios:
        cells = (column.cells.get(scenario.name) for column in columns)
        marks = "".join(f" {MARKS[cell] if cell else NOT_FOR_IT}" for cell in cells)
        print(f"{marks}  {scenario.name}")
    print(". the same   " + "   ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items() if mark != "."))


def print_summary(columns: Sequence[Column]) -> None:
    for column in columns:
        verdicts = list(column.cells.values())
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in MARKS if verdict in verdicts)
        print(f"{column.title}: {counts or 'nothing'} ({column.seconds:.0f} s)")
        for reason, count in column.limits.items():
            print(f"    limit of the server, {count} times: {reason}")
        stories = [f"{name}: {column.cells[name]}\n  {story}" for name, story in column.stories.items()]
        for line in "\n".join((*column.troubles, *stories)).splitlines():
            print(f"    {line}")


def wanted_setups(names: Sequence[str]) -> Iterator[Setup]:
    """Return the set-ups of servers named as `hypercorn` (all versions) or `hypercorn==0.16.0`. Raises `ValueError`."""
    for name in names:
        server, _, version = name.partition("==")
        if server not in PLAYED:
            raise ValueError(f"there is no server {server!r} here: choose from {', '.join(PLAYED)}")
        for one in (version,) if version else PLAYED[server]:
            yield from setups_of(server, one)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.servers", description=__doc__)
    parser.add_argument("--cache", type=Path, help="the directory of the environments (default: a temporary one)")
    parser.add_argument("--python", default="3.11", help="version or path of the interpreter (default 3.11)")
    parser.add_argument("--allow-missing", action="store_true", help="do not fail if a version cannot be installed")
    parser.add_argument("--workers", type=int, default=6, help="servers that run at the same time (default 6)")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument(
        "--bare", action="store_true", help="play the apps without the middleware, to see the differences"
    )
    parser.add_argument("--records", action="store_true", help="prove the records, and play no scenarios")
    parser.add_argument("--write", type=Path, help="the file in which to replace the table (docs/conformance.rst)")
    parser.add_argument(
        "servers", nargs="*", default=PLAYED, help=f"NAME or NAME==VERSION (default: {' '.join(PLAYED)})"
    )
    options = parser.parse_args()
    try:
        setups = list(wanted_setups(options.servers))
    except ValueError as error:
        parser.error(str(error))
    scenarios = [scenario for scenario in SCENARIOS if options.only in scenario.name and not options.records]
    began = time.monotonic()
    missing: dict[str, str] = {}
    not_here: dict[str, str] = {}  # of RARE, whose absence is no failure
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary, Meter() as meter:
        home = (options.cache or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        environments = Environments(home, options.python)

        def run(setup: Setup) -> Column | None:
            name = f"{setup.server} {setup.version}"
            suitable = [scenario for scenario in scenarios if scenario.suits(setup)]
            if not setup.runs_here:
                missing[f"{name} {setup.kind}"] = "it does not run on this platform"
                return None
            try:
                python = environments.interpreter(setup)
                version = installed_versions(python, [setup.server])[setup.server]
            except OSError as failure:
                (not_here if setup.server in RARE else missing)[name] = f"it could not be installed: {failure}"
                return None
            proven = to_prove(setup) if options.records or not (options.only or options.bare) else None
            meter.expect(len(suitable) + (proven is not None))
            column = Column(setup, version)

            def heard(scenario: Scenario, verdict: str) -> None:
                meter.step(column.title)
                if verdict not in GOOD and not options.bare:
                    meter.tell(f"{column.title}: {scenario.name}: {verdict}")

            play_all(python, column, suitable, options.bare, heard)
            if proven is not None:
                proof = prove(python, proven)
                proofs.append(proof)
                meter.step(column.title)
                if not proof.is_good:
                    meter.tell(str(proof))
            if options.write and column.cells and setup.server in VERSIONS:
                bare[column.title] = table.play_bare(python, column)
            return column

        proofs: list[Proof] = []
        bare: dict[str, dict[str, str]] = {}
        with ThreadPoolExecutor(options.workers) as workers:
            columns = [column for column in workers.map(run, setups) if column is not None and column.cells]
    if options.write and columns:
        table.write(options.write, table.block([one for one in columns if one.title in bare], bare))
    if columns:
        print_table(columns, scenarios)
        print()
    print_summary(columns)
    for proof in sorted(proofs, key=str):
        print(proof)
    for name, reason in (missing | not_here).items():
        print(f"MISSING: {name} was not played: {reason}")
    bad = sum(not column.is_good for column in columns)
    print(f"{len(columns)} servers, {len(scenarios)} scenarios, {bad} servers with differences, ", end="")
    drifted = sum(not proof.is_good for proof in proofs)
    print(f"{len(proofs)} proofs of records, {drifted} with differences, ", end="")
    print(f"{len(missing)} missing, {time.monotonic() - began:.0f} s")
    return 1 if bad or drifted or not (columns or proofs) or (missing and not options.allow_missing) else 0


if __name__ == "__main__":
    sys.exit(main())
