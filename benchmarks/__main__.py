"""`python -m benchmarks`: what the middleware costs, next to the least that any middleware in pure Python can cost."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

import disconnect_mw

from . import _imports, _instructions, _memory, _times
from ._workloads import NAMES, NEEDS_LOOP, ROWS, TITLES, WORKLOADS

PARTS = ("instructions", "time", "requests", "memory", "import")
LIMIT = "two"
GOALS = {"GET": 1.25, "stream": 1.10, "upload": 1.25}  # times the limit
REQUESTS_GOAL = 0.98  # times the bare app
MEMORY_GOAL = 1024  # bytes more than the bare app

_LABEL, _CELL = 20, 19


class Report:
    """What is printed: tables, and then which goal was reached."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.goals: list[tuple[str, str, str, bool]] = []  # what, wanted, got, reached

    def line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def table(self, title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> None:
        self.line()
        self.line(title)
        self.line(" " * _LABEL + "".join(f"{column:>{_CELL}}" for column in columns))
        for label, cells in lines.items():
            self.line(f"{label:{_LABEL}}" + "".join(f"{cell:>{_CELL}}" for cell in cells))

    def goal(self, what: str, wanted: str, got: str, reached: bool) -> None:
        self.goals.append((what, wanted, got, reached))

    def verdict(self) -> bool:
        """Print the goals. Were all of them reached?"""
        if self.goals:
            self.line()
            self.line("Goals")
            for what, wanted, got, reached in self.goals:
                self.line(f"  {what:44}{wanted:>11}{got:>11}  {'reached' if reached else 'MISSED'}")
        return all(reached for *_, reached in self.goals)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    report = Report(sys.stdout)
    valgrind = _instructions.valgrind_version()
    for line in _versions(valgrind):
        report.line(line)
    if "instructions" in options.parts:
        if valgrind is None:
            report.line()
            report.line("No valgrind here: the goals are judged by time, which other work on this machine")
            report.line("disturbs. Run this where valgrind is installed for numbers that repeat.")
        else:
            _report_instructions(report, options)
    if "time" in options.parts:
        _report_times(report, options, is_judged=valgrind is None or "instructions" not in options.parts)
    if "requests" in options.parts:
        _report_requests(report, options)
    if "memory" in options.parts:
        _report_memory(report)
    if "import" in options.parts:
        _report_import(report)
    all_reached = report.verdict()
    return 0 if all_reached or not options.check else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", dest="parts", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help=f"{LIMIT!r} is always there")
    parser.add_argument("--quick", action="store_true", help="once instead of the median of three; fewer rounds")
    parser.add_argument("--check", action="store_true", help="exit with status 1 unless every goal was reached")
    options = parser.parse_args(arguments)
    options.rows = [row for row in ROWS if row in options.rows or row == LIMIT]
    options.workloads = [workload for workload in WORKLOADS if workload in options.workloads]
    return options


def _versions(valgrind: str | None) -> list[str]:
    """disconnect_mw as it is imported: the distribution of that name may be another."""
    words = [
        f"disconnect_mw {disconnect_mw.__version__}",
        f"{platform.python_implementation()} {platform.python_version()}",
    ]
    for name in ("starlette", "uvicorn", "uvloop", "httptools"):
        try:
            words.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            words.append(f"no {name}")
    words.append(f"valgrind {valgrind}" if valgrind else "no valgrind")
    words.append(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 76:
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return lines


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="\r", file=sys.stderr, flush=True)


def _report_instructions(report: Report, options: argparse.Namespace) -> None:
    repetitions = 1 if options.quick else 3
    how_often = "once" if options.quick else "median of three"
    drivers = {"by hand": "without an event loop", "asyncio": "inside asyncio"}
    cells = [
        (driver, workload, row)
        for driver in drivers
        for workload in options.workloads
        for row in options.rows
        if row not in NEEDS_LOOP or (driver == "asyncio" and not options.quick)  # each takes callgrind 20 s
    ]
    counts = _instructions.measure(cells, repetitions, _progress)
    for driver, words in drivers.items():
        measured = {(workload, row): count for (of, workload, row), count in counts.items() if of == driver}
        title = f"Instructions per exchange {words} (callgrind, {how_often})"
        _compare(report, title, options, measured, lambda count: f"{count:,.0f}")
        _judge(report, options, measured, f"instructions, {driver}")


def _report_times(report: Report, options: argparse.Namespace, is_judged: bool) -> None:
    rounds = 15 if options.quick else 101
    measured = _times.measure(options.workloads, options.rows, rounds, _progress)
    title = f"Microseconds per exchange inside asyncio (interleaved, median of {rounds} rounds)"
    _compare(report, title, options, measured, lambda seconds: f"{seconds * 1e6:,.1f}")
    if is_judged:
        _judge(report, options, measured, "time")


def _compare(
    report: Report,
    title: str,
    options: argparse.Namespace,
    measured: Mapping[tuple[str, str], float],
    show: Callable[[float], str],
) -> None:
    def cell(workload: str, row: str) -> str:
        value, limit = measured[workload, row], measured[workload, LIMIT]
        return f"{show(value)} {value / limit:5.2f} x"

    report.table(
        title,
        [TITLES[workload] for workload in options.workloads],
        {
            NAMES[row]: [cell(workload, row) for workload in options.workloads]
            for row in options.rows
            if (options.workloads[0], row) in measured
        },
    )


def _judge(report: Report, options: argparse.Namespace, measured: Mapping[tuple[str, str], float], unit: str) -> None:
    if "ours" not in options.rows:
        return
    for workload in options.workloads:
        ratio, goal = measured[workload, "ours"] / measured[workload, LIMIT], GOALS[workload]
        report.goal(f"{TITLES[workload]}: {unit}", f"<= {goal:.2f} x", f"{ratio:.3f} x", ratio <= goal)


def _report_requests(report: Report, options: argparse.Namespace) -> None:
    try:
        from . import _requests
    except ImportError as exception:
        report.line()
        report.line(f"No requests per second: {exception}. pip install 'disconnect-mw[bench]' brings it.")
        return
    rounds, seconds = (11, 0.2) if options.quick else (61, 0.2)
    rows = ["bare", "two", "ours"]
    for app in _requests.PATHS:
        runs_on, measured = _requests.measure(app, rows, rounds, seconds, _progress)
        lines = {}
        for row in rows:
            per_second = statistics.median(one.per_second for one in measured[row])
            cpu = statistics.median(one.cpu_per_request for one in measured[row])
            ratio = _requests.per_second_ratio(measured[row], measured["bare"])
            cpu_ratio = _requests.cpu_ratio(measured[row], measured["bare"])
            lines[NAMES[row]] = [f"{per_second:,.0f} {ratio:6.3f} x", f"{cpu * 1e6:.1f} us {cpu_ratio:6.3f} x"]
        report.table(
            f"Requests, {app} app, uvicorn on {runs_on} ({rounds} rounds)",
            ["per second", "processor time"],
            lines,
        )
        # Of processor time, which the server of a busy machine takes all the same: by the clock the same two servers
        # were measured at 0.89 and at 0.64.
        ratio = _requests.cpu_ratio(measured["ours"], measured["bare"])
        report.goal(
            f"requests/s of processor time, {app} app",
            f">= {REQUESTS_GOAL:.2f} x",
            f"{ratio:.3f} x",
            ratio >= REQUESTS_GOAL,
        )


def _report_memory(report: Report) -> None:
    rows = [row for row in ROWS if row in ("bare", LIMIT, "ours")]
    measured = {(kind, row): _memory.per_stream(kind, row) for kind in _memory.STREAMS for row in rows}

    def cell(kind: str, row: str) -> str:
        return f"{measured[kind, row]:,.0f} {measured[kind, row] - measured[kind, 'bare']:+8,.0f}"

    report.table(
        "Bytes per open stream (tracemalloc)",
        list(_memory.STREAMS),
        {NAMES[row]: [cell(kind, row) for kind in _memory.STREAMS] for row in rows},
    )
    more = measured["open stream", "ours"] - measured["open stream", "bare"]
    report.goal("bytes per open stream", f"<= +{MEMORY_GOAL:,}", f"{more:+,.0f}", more <= MEMORY_GOAL)


def _report_import(report: Report) -> None:
    modules, seconds = _imports.measure()
    report.line()
    report.line(f"import disconnect_mw: {len(modules)} modules, {seconds * 1e3:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
