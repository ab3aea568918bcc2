"""The newest releases of the servers and frameworks, against the pinned ones: `python -m tests.real.newest`.

Plays the scenarios on the newest release of each server, and the fast tests with the newest of all that the extra
`test` pins. Where nothing is newer nothing is played. Only what the middleware promises can fail: a scenario under the
middleware that comes out otherwise. All else is told: what is newer, records that a server no longer keeps, fast tests
that fail, what does not install or start.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .servers.behaviour import Proof, prove, to_prove
from .servers.conformance import CRASHES, DIFFERS, GOOD, HANGS, Column, play_all
from .servers.environments import Environments, installed_versions
from .servers.meter import Meter
from .servers.pins import pins
from .servers.scenarios import SCENARIOS, Scenario
from .servers.setups import NEWEST, VERSIONS, Setup, setups_of

TOP = Path(__file__).parents[2]

SECONDS_FOR_THE_FAST_TESTS = 900

FAST_TESTS = ("-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup", "--ignore=tests/real")

FOR_SERVERS_ONLY = {
    "autobahn",
    "daphne",
    "granian",
    "gunicorn",
    "h2",
    "hypercorn",
    "twisted",
    "uvicorn-worker",
    "wsproto",
}
"""What no fast test runs."""

BROKEN = (DIFFERS, HANGS, CRASHES)
"""Of a scenario under the middleware. What was not played, because the server does not start, breaks no promise."""


@dataclass
class Findings:
    """What came of the newest releases."""

    newer: dict[str, dict[str, str]] = field(default_factory=dict)  # by server, or "the fast tests": what is newer
    columns: list[Column] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)  # what pytest told
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """Each scenario under the middleware that came out otherwise."""
        return [
            f"{column.title}: {name}: {verdict}\n{column.stories[name]}"
            for column in self.columns
            for name, verdict in column.cells.items()
            if verdict in BROKEN
        ]

    def summary(self) -> str:
        """All that differs, to read."""
        lines = ["The newest releases against the pinned ones:"]
        pinned = pins()
        for who, newer in self.newer.items():
            told = ", ".join(f"{name} {version} (pinned: {pinned[name]})" for name, version in newer.items())
            lines.append(f"* {who}: {told or 'nothing is newer, so nothing is played again'}")
            lines += [f"    {line}" for line in self._of(who)]
        lines += [f"* {who} is NOT played: {reason}" for who, reason in self.missing.items()]
        return "\n".join(lines)

    def _of(self, who: str) -> list[str]:
        lines = []
        for column in sorted((one for one in self.columns if one.setup.server == who), key=lambda one: one.title):
            cells = list(column.cells.values())
            good = sum(cell in GOOD for cell in cells)
            others = [f"{cells.count(cell)} {cell}" for cell in dict.fromkeys(cells) if cell not in GOOD]
            lines.append(f"with the middleware, {column.title}: {', '.join([f'{good} the same', *others])}")
            lines += [f"    {line}" for trouble in column.troubles for line in trouble.splitlines()]
        for proof in sorted((one for one in self.proofs if one.server == who), key=str):
            lines += [f"bare: {line}" if not number else line for number, line in enumerate(str(proof).splitlines())]
        return lines + (self.tests if who == THE_FAST_TESTS else [])


THE_FAST_TESTS = "the fast tests"


def newer_than_pinned(versions: dict[str, str]) -> dict[str, str]:
    pinned = pins()
    return {name: version for name, version in versions.items() if version != pinned[name]}


def play_servers(environments: Environments, findings: Findings, meter: Meter, workers: int) -> None:
    setups = []
    for server in VERSIONS:
        setup = setups_of(server, NEWEST)[0]
        try:
            findings.newer[server] = newer_than_pinned(
                installed_versions(environments.interpreter(setup), setup.requirements())
            )
        except OSError as failure:
            findings.missing[server] = str(failure)
            continue
        if findings.newer[server]:
            setups += setups_of(server, NEWEST)

    def play(setup: Setup) -> None:
        python = environments.interpreter(setup)
        column = Column(setup, NEWEST)
        findings.columns.append(column)

        def on_verdict(scenario: Scenario, verdict: str) -> None:
            meter.step(column.title)
            if verdict in BROKEN:
                meter.tell(f"{column.title}: {scenario.name}: {verdict}")

        play_all(python, column, [scenario for scenario in SCENARIOS if scenario.suits(setup)], on_verdict=on_verdict)
        proven = to_prove(setup)
        if proven is not None:
            findings.proofs.append(prove(python, proven))

    setups = [setup for setup in setups if setup.runs_here]
    meter.expect(sum(scenario.suits(setup) for setup in setups for scenario in SCENARIOS))
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(play, setups))


def run_fast_tests(environments: Environments, findings: Findings, package: str) -> None:
    try:
        # greenlet is of the extra of SQLAlchemy that the tests need.
        python = environments.make("tests-newest", [package, *pins(), "greenlet"])
        findings.newer[THE_FAST_TESTS] = newer_than_pinned(installed_versions(python, list(pins())))
    except OSError as failure:
        findings.missing[THE_FAST_TESTS] = str(failure)
        return
    if findings.newer[THE_FAST_TESTS].keys() - FOR_SERVERS_ONLY:
        command = [python, "-m", "pytest", *FAST_TESTS]
        try:
            ended = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=SECONDS_FOR_THE_FAST_TESTS)
        except subprocess.TimeoutExpired:
            findings.tests = [f"they do not end in {SECONDS_FOR_THE_FAST_TESTS} s"]
        else:
            findings.tests = told_by_pytest(ended.stdout + ended.stderr)
    elif findings.newer[THE_FAST_TESTS]:
        findings.tests = ["not run again: they run none of these"]


def told_by_pytest(output: str) -> list[str]:
    """Which tests fail, and how many there are."""
    lines = output.splitlines()
    return [line for line in lines if line.startswith(("FAILED", "ERROR"))] + lines[-1:]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.newest", description=__doc__)
    parser.add_argument("--cache", type=Path, help="where the environments are kept (default: a temporary directory)")
    parser.add_argument("--python", default=sys.executable, help="version or path of the interpreter (default: this)")
    parser.add_argument("--package", default=str(TOP), help="what is tested: a wheel (default: this checkout)")
    parser.add_argument("--workers", type=int, default=6, help="servers at once (default 6)")
    options = parser.parse_args(arguments)
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary, Meter() as meter:
        environments = Environments((options.cache or Path(temporary)).absolute(), options.python)
        play_servers(environments, findings, meter, options.workers)
        run_fast_tests(environments, findings, options.package)
    print(findings.summary())
    for one in findings.broken:
        print(f"\nBROKEN: {one}")
    print(f"{len(findings.broken)} scenarios broken on the newest releases")
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main())
