"""`python -m benchmarks`: what the middleware costs, next to the least that any middleware in pure Python can cost.

Every exchange runs inside asyncio. Instructions are counted by callgrind, and are the same to about 1 % however busy
the machine is.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import disconnect_mw

from . import _comparison, _counts, _imports, _instructions, _memory, _plot, _rivals, _times
from ._comparison import tell as _progress
from ._goals import GOALS, Goal
from ._rows import BASIC, LIMIT, NAMES, OURS, RIVALS, ROWS
from ._workloads import WORKLOADS

PARTS = ("instructions", "time", "requests", "memory", "import", "comparison")

_WIDTH, _LABEL, _CELL = 80, 20, 19
_TABLES = (("GET", "POST", "stream", "upload"), ("departure", "Starlette"))
"""The workloads that stand in one table."""

_NOTE = (
    "Unread: messages of a body that are read ahead although the app does not read, before it responds or while it "
    "does. MB: open streams, extrapolated from 500. FIN to cancel: until CancelledError in the handler, through "
    "uvicorn on asyncio. Turns: of the loop, since uvicorn knew. disconnect_mw's first check runs after 50 to 75 ms, "
    "and finds a client that left sooner. With aiofence the handler runs in one of its fences."
)


class Report:
    """What is printed: tables, and at the end which goals were reached."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._goals: list[tuple[str, str, str, bool]] = []  # what, wanted, got, is reached

    def line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def note(self, text: str) -> None:
        for line in textwrap.wrap(text, _WIDTH - 4):
            self.line(line)

    def table(self, title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> None:
        width = min(_CELL, (_WIDTH - _LABEL) // len(columns))
        self.line()
        self.line(title)
        self.line(" " * _LABEL + "".join(f"{column:>{width}}" for column in columns))
        for label, cells in lines.items():
            self.line((f"{label:{_LABEL}}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip())

    def judge(self, what: str, goal: Goal, got: float) -> None:
        self._goals.append((what, goal.wanted, goal.form.format(got), goal.is_reached(got)))

    def verdict(self) -> bool:
        """Print the goals. Returns whether all of them were reached."""
        if self._goals:
            self.line()
            self.line("Goals")
            for what, wanted, got, is_reached in self._goals:
                self.line(f"  {what:44}{wanted:>11}{got:>11}  {'reached' if is_reached else 'MISSED'}")
        return all(is_reached for *_, is_reached in self._goals)


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
            report.note(
                "No valgrind here: the goals are judged by time, which other work on this machine disturbs. Run this "
                "where valgrind is installed for numbers that repeat."
            )
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
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        dest="parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"what to measure: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=list(WORKLOADS),
        default=list(WORKLOADS),
        metavar="WORKLOAD",
        help=f"what the app does in an exchange: {', '.join(WORKLOADS)} (default: all). The client of 'departure' "
        "leaves; 'Starlette' is a StreamingResponse, and compared with the bare app",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        metavar="ROW",
        help=f"what wraps the app: {', '.join(ROWS)} (default: all in the comparison, elsewhere {', '.join(BASIC)}). "
        f"{LIMIT!r} is two closures, and always there; 'info' is the default options with the logger at INFO",
    )
    parser.add_argument("--quick", action="store_true", help="one run instead of the median of three; fewer rounds")
    parser.add_argument("--check", action="store_true", help="exit with status 1 unless every goal was reached")
    parser.add_argument(
        "--cache", type=Path, help="keep the environment of the rivals in this directory (default: a temporary one)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="X.svg",
        help="draw the comparison as X-light.svg and X-dark.svg, and save its numbers as X.json",
    )
    parser.add_argument("--redraw", type=Path, metavar="X.svg", help="draw it from X.json; measure nothing")
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
    """The version of disconnect_mw is the imported code's, because the distribution of that name may be another."""
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
    runs = {row: 1 if options.quick or row == "base" else 3 for row in options.rows_here}
    measured = _instructions.measure(options.workloads, runs, _progress)
    how_often = "one run" if options.quick else "median of three runs"
    _compare(report, f"Instructions per exchange inside asyncio (callgrind, {how_often})", measured, instructions)
    _judge(report, measured, "instructions")


def _report_times(report: Report, options: argparse.Namespace, is_judged: bool) -> None:
    rounds = 15 if options.quick else 101
    measured = _times.measure(options.workloads, options.rows_here, rounds, _progress)
    title = f"Microseconds per exchange inside asyncio (interleaved, median of {rounds} rounds)"
    _compare(report, title, measured, lambda seconds: f"{seconds * 1e6:,.1f}")
    if is_judged:
        _judge(report, measured, "time")


def instructions(count: float) -> str:
    return f"{count:,.0f}" if count < 1e6 else f"{count / 1e6:.3g}M"


def ratio(of: float, to: float) -> str:
    """The ratio in four characters."""
    times = of / to
    return f"{times:.2f}" if times < 9.995 else f"{times:4.1f}" if times < 99.95 else f"{times:4.0f}"


def _compare(
    report: Report, title: str, measured: Mapping[tuple[str, str], float], show: Callable[[float], str]
) -> None:
    """Print the tables of what was measured, by workload and row."""

    def cell(workload: str, row: str) -> str:
        value = measured.get((workload, row))
        unit = measured.get((workload, WORKLOADS[workload].compared_with))
        if value is None:
            return ""
        return show(value) if unit is None else f"{show(value)} {ratio(value, unit)} x"

    for table in _TABLES:
        workloads = [workload for workload in table if any(of == workload for of, _ in measured)]
        if not workloads:
            continue
        rows = [row for row in ROWS if any((workload, row) in measured for workload in workloads)]
        report.table(
            title,
            [WORKLOADS[workload].title for workload in workloads],
            {NAMES[row]: [cell(workload, row) for workload in workloads] for row in rows},
        )
        for workload in workloads:
            report.note(WORKLOADS[workload].note)


def _judge(report: Report, measured: Mapping[tuple[str, str], float], unit: str) -> None:
    for (workload, row), goal in GOALS.items():
        if (workload, row) in measured:
            mode = "" if row == "ours" else f", {NAMES[row].strip()}"
            times = measured[workload, row] / measured[workload, WORKLOADS[workload].compared_with]
            report.judge(f"{WORKLOADS[workload].title}{mode}: {unit}", goal, times)


def _report_requests(report: Report, options: argparse.Namespace) -> None:
    try:
        from . import _requests
    except ImportError as exception:
        report.line()
        report.line(f"No requests per second: {exception}. pip install 'disconnect-mw[bench]' brings it.")
        return
    rounds, seconds = (11, 0.2) if options.quick else (61, 0.2)
    rows = ["bare", LIMIT, "ours"]
    for app in _requests.PATHS:
        runs_on, measured = _requests.measure(app, rows, rounds, seconds, _progress)
        lines = {}
        for row in rows:
            per_second = statistics.median(one.per_second for one in measured[row])
            cpu = statistics.median(one.cpu_per_request for one in measured[row])
            times = _requests.per_second_ratio(measured[row], measured["bare"])
            cpu_times = _requests.cpu_ratio(measured[row], measured["bare"])
            lines[NAMES[row]] = [f"{per_second:,.0f} {times:6.3f} x", f"{cpu * 1e6:.1f} us {cpu_times:6.3f} x"]
        report.table(
            f"Requests, {app} app, uvicorn on {runs_on} ({rounds} rounds)",
            ["per second", "processor time"],
            lines,
        )
        # Of processor time, which does not depend on what else runs: by the clock the same two servers were measured
        # at 0.89 and at 0.64.
        if app == _requests.JUDGED:
            report.judge(
                f"requests/s of processor time, {app} app",
                GOALS["requests", "ours"],
                _requests.cpu_ratio(measured["ours"], measured["bare"]),
            )


def _report_memory(report: Report) -> None:
    rows = ["bare", LIMIT, "ours"]
    measured = {(kind, row): _memory.per_stream(kind, row) for kind in _memory.STREAMS for row in rows}

    def cell(kind: str, row: str) -> str:
        return f"{measured[kind, row]:,.0f} {measured[kind, row] - measured[kind, 'bare']:+8,.0f}"

    report.table(
        "Bytes per open stream (tracemalloc)",
        list(_memory.STREAMS),
        {NAMES[row]: [cell(kind, row) for kind in _memory.STREAMS] for row in rows},
    )
    more = measured["open stream", "ours"] - measured["open stream", "bare"]
    report.judge("bytes per open stream", GOALS["memory", "ours"], more)


def _report_import(report: Report) -> None:
    modules, seconds = _imports.measure()
    report.line()
    report.line(f"import disconnect_mw: {len(modules)} modules, {seconds * 1e3:.1f} ms")


def _report_comparison(report: Report, options: argparse.Namespace) -> bool:
    """All rows in one interpreter. Returns False where a picture was asked for and not drawn."""
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
    _judge_comparison(report, numbers, has_judged_ratios="instructions" in options.parts or "time" in options.parts)
    if options.plot is None:
        return True
    if missing or not numbers["instructions"] or not numbers["cancellations"]:
        report.line()
        report.line("!! NOT DRAWN: something could not be measured")
        return False
    _comparison.save(numbers, options.plot.with_suffix(".json"))
    _plot.draw(_comparison.load(options.plot.with_suffix(".json")), options.plot)
    return True


def _show_comparison(report: Report, numbers: _comparison.Numbers) -> None:
    rows = numbers["rows"]
    title = "Instructions per exchange inside asyncio (callgrind)"
    _compare(report, title, _cells(numbers["instructions"]), instructions)
    title = "Microseconds per exchange inside asyncio (interleaved, median of the rounds)"
    _compare(report, title, _cells(numbers["microseconds"]), lambda microseconds: f"{microseconds:,.1f}")
    counted = [workload for workload in numbers["tasks"] if workload in (*_TABLES[0], _counts.LONG)]
    report.table(
        "Tasks made per exchange",
        ["over 75 ms" if workload == _counts.LONG else workload for workload in counted],
        {NAMES[row]: [str(numbers["tasks"][workload][row]) for workload in counted] for row in rows},
    )

    def cancellation(row: str) -> list[str]:
        cancelled = numbers["cancellations"].get(row)
        return ["", ""] if cancelled is None else [f"{cancelled['microseconds']:.0f} us", str(cancelled["turns"])]

    report.table(
        "Other costs, and how soon a handler is cancelled",
        [f"unread of {_counts.CHUNKS_OFFERED}", "MB per 10,000", "FIN to cancel", "turns"],
        {
            NAMES[row]: [str(numbers["read_ahead"][row]), f"{numbers['megabytes'][row]:.1f}", *cancellation(row)]
            for row in rows
        },
    )
    report.note(_NOTE)


def _judge_comparison(report: Report, numbers: _comparison.Numbers, has_judged_ratios: bool) -> None:
    if not has_judged_ratios:
        unit = "instructions" if numbers["instructions"] else "time"
        _judge(report, _cells(numbers["instructions"] or numbers["microseconds"]), unit)
    for row, cancellation in numbers["cancellations"].items():
        if row in OURS:
            what = f"turns until cancelled, {NAMES[row].strip()}"
            report.judge(what, GOALS["turns", row], cancellation["turns"])


def _cells(measured: _comparison.PerCell) -> dict[tuple[str, str], float]:
    return {(workload, row): number for workload in measured for row, number in measured[workload].items()}


if __name__ == "__main__":
    sys.exit(main())
