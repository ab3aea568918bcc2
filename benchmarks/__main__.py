"""`python -m benchmarks`: what the middleware costs, next to the least that any middleware in pure Python can cost."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import disconnect_mw

from . import _comparison, _counts, _imports, _instructions, _memory, _plot, _rivals, _times
from ._comparison import LIMIT
from ._comparison import tell as _progress
from ._workloads import BASIC, NAMES, NEEDS_LOOP, RIVALS, ROWS, TITLES, WORKLOADS

PARTS = ("instructions", "time", "requests", "memory", "import", "comparison")
GOALS = {"GET": 1.25, "stream": 1.10, "upload": 1.25}  # times the limit
HOOK_GOAL = 2.0  # times the limit, for a request under 50 ms with a cancel policy and a hook
REQUESTS_GOAL = 0.98  # times the bare app
MEMORY_GOAL = 1024  # bytes more than the bare app
TURNS_GOAL = 2  # from when the server knows that its client has gone to the cancellation

_WIDTH, _LABEL, _CELL = 80, 20, 19

_NOTES = (
    "Messages pulled in of a body that the app does not read, before or while it",
    "answers; open streams, extrapolated from 500; from FIN to CancelledError through",
    "uvicorn on asyncio; turns of the loop since uvicorn knew. disconnect_mw first",
    "looks after 50 to 75 ms, and learns then of a client that left sooner. With",
    "aiofence the handler stands in one of its fences.",
)


class Report:
    """What is printed: tables, and then which goal was reached."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.goals: list[tuple[str, str, str, bool]] = []  # what, wanted, got, reached

    def line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def table(self, title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> None:
        width = min(_CELL, (_WIDTH - _LABEL) // len(columns))
        self.line()
        self.line(title)
        self.line(" " * _LABEL + "".join(f"{column:>{width}}" for column in columns))
        for label, cells in lines.items():
            self.line((f"{label:{_LABEL}}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip())

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
    if options.redraw is not None:
        _plot.draw(_comparison.load(options.redraw.with_suffix(".json")), options.redraw)
        return 0
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
    is_drawn = True
    if "comparison" in options.parts:
        is_drawn = _report_comparison(report, options)
    all_reached = report.verdict()
    return 0 if is_drawn and (all_reached or not options.check) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", dest="parts", nargs="+", choices=PARTS, default=PARTS, help="measure only these")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        help=f"{LIMIT!r} is always there (default: all in the comparison, elsewhere {' '.join(BASIC)})",
    )
    parser.add_argument("--quick", action="store_true", help="once instead of the median of three; fewer rounds")
    parser.add_argument("--check", action="store_true", help="exit with status 1 unless every goal was reached")
    parser.add_argument(
        "--cache", type=Path, help="where the environment of the rivals is kept (default: a temporary directory)"
    )
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the comparison, and keep its numbers beside it")
    parser.add_argument("--redraw", type=Path, metavar="SVG", help="draw it from the numbers beside it, and do no more")
    options = parser.parse_args(arguments)
    if options.plot is not None and (
        options.quick or options.rows or len(options.workloads) < len(WORKLOADS) or "comparison" not in options.parts
    ):
        parser.error(
            "--plot draws all of the comparison: leave out --quick, --rows, --workloads, and --only without it"
        )
    wanted = options.rows
    options.rows = [row for row in ROWS if wanted is None or row in wanted or row == LIMIT]
    options.rows_here = [
        row
        for row in options.rows
        if (row in BASIC if wanted is None else row not in RIVALS or _rivals.are_here([row]))
    ]
    options.workloads = [workload for workload in WORKLOADS if workload in options.workloads]
    return options


def _versions(valgrind: str | None) -> list[str]:
    """disconnect_mw as it is imported: the distribution of that name may be another."""
    words = [
        f"disconnect_mw {disconnect_mw.__version__}",
        f"{platform.python_implementation()} {platform.python_version()}",
    ]
    for name in ("starlette", "uvicorn", "uvloop", "httptools"):
        version = _rivals.version(name)
        words.append(f"no {name}" if version is None else f"{name} {version}")
    words.append(f"valgrind {valgrind}" if valgrind else "no valgrind")
    words.append(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    return _wrapped(words)


def _wrapped(words: Sequence[str]) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > 76:
            lines.append("")
        lines[-1] += f", {word}" if lines[-1] else word
    return lines


def _report_instructions(report: Report, options: argparse.Namespace) -> None:
    repetitions = 1 if options.quick else 3
    how_often = "once" if options.quick else "median of three"
    drivers = {"by hand": "without an event loop", "asyncio": "inside asyncio"}
    cells = {
        (driver, workload, row): 1 if row == "base" else repetitions
        for driver in drivers
        for workload in options.workloads
        for row in options.rows_here
        if row not in NEEDS_LOOP or (driver == "asyncio" and not (options.quick and row == "base"))  # which takes 20 s
    }
    counts = _instructions.measure(cells, _progress)
    for driver, words in drivers.items():
        measured = {(workload, row): count for (of, workload, row), count in counts.items() if of == driver}
        title = f"Instructions per exchange {words} (callgrind, {how_often})"
        _compare(report, title, options.workloads, measured, instructions)
        _judge(report, options, measured, f"instructions, {driver}")


def _report_times(report: Report, options: argparse.Namespace, is_judged: bool) -> None:
    rounds = 15 if options.quick else 101
    measured = _times.measure(options.workloads, options.rows_here, rounds, _progress)
    title = f"Microseconds per exchange inside asyncio (interleaved, median of {rounds} rounds)"
    _compare(report, title, options.workloads, measured, lambda seconds: f"{seconds * 1e6:,.1f}")
    if is_judged:
        _judge(report, options, measured, "time")


def instructions(count: float) -> str:
    return f"{count:,.0f}" if count < 1e6 else f"{count / 1e6:.3g}M"


def ratio(of: float, to: float) -> str:
    """In four characters."""
    times = of / to
    return f"{times:.2f}" if times < 9.995 else f"{times:4.1f}" if times < 99.95 else f"{times:4.0f}"


def _compare(
    report: Report,
    title: str,
    workloads: Sequence[str],
    measured: Mapping[tuple[str, str], float],
    show: Callable[[float], str],
) -> None:
    def cell(workload: str, row: str) -> str:
        value = measured[workload, row]
        return f"{show(value)} {ratio(value, measured[workload, LIMIT])} x"

    report.table(
        title,
        [TITLES[workload] for workload in workloads],
        {
            NAMES[row]: [cell(workload, row) for workload in workloads]
            for row in ROWS
            if (workloads[0], row) in measured
        },
    )


def _judge(report: Report, options: argparse.Namespace, measured: Mapping[tuple[str, str], float], unit: str) -> None:
    if "ours" not in options.rows_here:
        return
    for workload, goal in GOALS.items():
        if workload in options.workloads:
            times = measured[workload, "ours"] / measured[workload, LIMIT]
            report.goal(f"{TITLES[workload]}: {unit}", f"<= {goal:.2f} x", f"{times:.3f} x", times <= goal)


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


def _report_comparison(report: Report, options: argparse.Namespace) -> bool:
    """All rows in one interpreter. If there was something to draw, was it drawn?"""
    wanted = _comparison.Options(options.rows, options.workloads, options.quick)
    numbers, missing = _comparison.measure_with_rivals(wanted, options.cache, _progress)
    report.line()
    report.line("The comparison")
    for line in _wrapped([f"{name} {version}" for name, version in numbers["versions"].items()]):
        report.line(line)
    for rival, why in missing.items():
        report.line()
        report.line(f"!! NOT COMPARED: {rival} {_rivals.PINS[rival]}: {why}")
    _show_comparison(report, numbers)
    _judge_comparison(report, numbers)
    if options.plot is None:
        return True
    if missing or not numbers["instructions"] or not numbers["departures"]:
        report.line()
        report.line("!! NOT DRAWN: something could not be measured")
        return False
    _comparison.save(numbers, options.plot.with_suffix(".json"))
    _plot.draw(_comparison.load(options.plot.with_suffix(".json")), options.plot)
    return True


def _show_comparison(report: Report, numbers: _comparison.Numbers) -> None:
    workloads, rows = numbers["workloads"], numbers["rows"]
    units: list[tuple[str, _comparison.PerCell, Callable[[float], str]]] = [
        ("Instructions per exchange inside asyncio (callgrind)", numbers["instructions"], instructions),
        (
            "Microseconds per exchange inside asyncio (interleaved, median of the rounds)",
            numbers["microseconds"],
            lambda microseconds: f"{microseconds:,.1f}",
        ),
    ]
    for title, measured, show in units:
        cells = {(workload, row): number for workload in measured for row, number in measured[workload].items()}
        if cells:
            _compare(report, title, workloads, cells, show)
    report.table(
        "Tasks made per exchange",
        ["over 75 ms" if workload == _counts.LONG else workload for workload in numbers["tasks"]],
        {NAMES[row]: [str(tasks[row]) for tasks in numbers["tasks"].values()] for row in rows},
    )

    def departure(row: str) -> list[str]:
        departed = numbers["departures"].get(row)
        return ["", ""] if departed is None else [f"{departed['microseconds']:.0f} us", str(departed["turns"])]

    report.table(
        "Other costs, and how soon a handler is cancelled",
        [f"unread of {_counts.CHUNKS_OFFERED}", "MB per 10,000", "FIN to cancel", "turns"],
        {
            NAMES[row]: [str(numbers["read_ahead"][row]), f"{numbers['megabytes'][row]:.1f}", *departure(row)]
            for row in rows
        },
    )
    for line in _NOTES:
        report.line(line)


def _judge_comparison(report: Report, numbers: _comparison.Numbers) -> None:
    unit, measured = "instructions", numbers["instructions"]
    if not measured:
        unit, measured = "time", numbers["microseconds"]
    if "hook" in numbers["rows"]:
        for workload in numbers["workloads"]:
            times = measured[workload]["hook"] / measured[workload][LIMIT]
            what = f"cancel + hook, {TITLES[workload]}: {unit}"
            report.goal(what, f"<= {HOOK_GOAL:.2f} x", f"{times:.3f} x", times <= HOOK_GOAL)
    turns = [numbers["departures"][row]["turns"] for row in ("cancel", "hook") if row in numbers["departures"]]
    if turns:
        report.goal(
            "server knows -> handler cancelled, turns", f"<= {TURNS_GOAL}", str(max(turns)), max(turns) <= TURNS_GOAL
        )


if __name__ == "__main__":
    sys.exit(main())
