"""The report on the terminal: a progress bar while clients are played, then one table, and what to do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ._evidence import PHASES, Advice, Departure, Finding, OnServer, Report, Result, Side

_WIDTH = 80
_SHOWN = 3
_NARROW = 60
"""Columns below which a route is a block of lines, and no row of a table."""

_WORDS = {
    "blocked": "blocks the server",
    "ended": "ends the server",
    "stubborn": "does not end, swallows its cancellation",
    "endless": "does not end",
    "tasks": "task left",
    "pool": "pool connection lost",
    "half": "half an upload kept",
    "memory": "memory grows",
    "traceback": "traceback",
    "noise": "traceback",
    "line": "log line",
    "flood": "floods the log",
    "bug": "bug, traceback",
}


class TerminalDisplay:
    """Shows the progress on a terminal, and nothing elsewhere."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task("", total=None)

    def say(self, what: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what[:60])

    def expect(self, steps: int) -> None:
        if self._progress is not None and self._task is not None:
            total = self._progress.tasks[self._task].total or 0
            self._progress.update(self._task, total=total + steps)

    def step(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)


@contextlib.contextmanager
def display(errors: TextIO, *, is_quiet: bool) -> Iterator[TerminalDisplay]:
    """A bar on the standard error, with what is being tried and the time left."""
    if is_quiet or not errors.isatty() or os.environ.get("TERM") == "dumb":
        yield TerminalDisplay(None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=errors), transient=True) as progress:
        yield TerminalDisplay(progress)


class Terminal:
    """Prints the report. Colours are for terminals (NO_COLOR and FORCE_COLOR are kept to)."""

    def __init__(self, output: TextIO, *, is_quiet: bool) -> None:
        # On a terminal its own width; a pipe or a file gets 80 columns, or $COLUMNS.
        width = None if output.isatty() or os.environ.get("COLUMNS") else _WIDTH
        self._console = Console(file=output, width=width, highlight=False, soft_wrap=False, legacy_windows=False)
        self._is_quiet = is_quiet

    def print(self, report: Report) -> None:
        if self._is_quiet:
            self._print_faults(report)
            return
        for server in report.servers:
            self._print_server(report, server)
        self._print_advice(report)
        self._print_verdict(report)

    def _line(self, text: str, style: str = "", indent: int = 0) -> None:
        self._console.print(Padding(Text(text, style=style), (0, 0, 0, indent)))

    def _print_faults(self, report: Report) -> None:
        for server in report.servers:
            if server.problem:
                self._line(f"{_title(server)}: {server.problem}")
            for result in server.results:
                for finding in result.findings:
                    self._line(f"{_title(server)}, {result.route.title}: {finding.sentence} ({_when(finding)})")
                if result.is_same is False:
                    self._line(f"{_title(server)}, {result.route.title}: {result.same}")

    def _print_server(self, report: Report, server: OnServer) -> None:
        python = server.facts.get("python")
        self._line(f"{report.app} on {_title(server)}{f', Python {python}' if python else ''}", "bold")
        if server.problem:
            self._line(f"not tried: {server.problem}", "red", 2)
            for line in server.lines:
                self._line(line, "dim", 4)
        if server.has_own:
            self._line(
                "The app has the middleware already: it is checked as it is, and bare with that turned off.", "", 2
            )
        played = [result for result in server.results if result.is_skipped is None]
        if played:
            if self._console.width < _NARROW:
                self._print_blocks(played)
            else:
                self._print_table(played)
        for result in server.results:
            if result.is_skipped is not None:
                self._line(f"{result.route.title} is not tried: {result.is_skipped}", "", 2)
        for note in server.notes:
            self._line(note, "", 2)
        for logged in server.log[:3]:
            self._line(f"logged for no client that is known: {logged.level} {logged.exception or logged.text}", "", 2)
        self._console.print()

    def _print_table(self, results: list[Result]) -> None:
        table = Table(expand=False, pad_edge=False, show_edge=False, header_style="bold")
        for name, ratio in (("route", 3), ("the client leaves", 3), ("without the middleware", 3), ("with it", 3)):
            table.add_column(name, ratio=ratio, overflow="fold")
        for result in results:
            title = Text(result.route.title, overflow="fold")
            for phase, bare, wrapped in _rows(result):
                table.add_row(title, Text(phase), bare, wrapped)
                title = Text("")
            table.add_section()
        self._console.print(table)

    def _print_blocks(self, results: list[Result]) -> None:
        for result in results:
            self._console.print(Text(result.route.title, style="bold", overflow="fold"))
            for phase, bare, wrapped in _rows(result):
                self._line(phase, "", 1)
                for label, cell in (("without: ", bare), ("with: ", wrapped)):
                    self._console.print(Padding(Text(label).append_text(cell), (0, 0, 0, 2)))

    def _print_advice(self, report: Report) -> None:
        shown: dict[str, list[tuple[str, Advice]]] = {}
        for result in report.results:
            for advice in result.advice:
                shown.setdefault(advice.why, []).append((result.route.title, advice))
        if shown:
            self._line("What to do", "bold")
        for number, those in enumerate(shown.values(), 1):
            titles = [*dict.fromkeys(title for title, _ in those)]
            more = f" and {len(titles) - _SHOWN} more" if len(titles) > _SHOWN else ""
            self._line(f"{number}. {', '.join(titles[:_SHOWN])}{more}: {those[0][1].happens}")
            self._line(those[0][1].why, "dim", 3)
            for name, style in (("place", ""), ("line", "cyan")):
                said = [*dict.fromkeys(value for _, advice in those if (value := getattr(advice, name)) is not None)]
                for value in said[:_SHOWN]:
                    self._line(f"at {value}" if name == "place" else value, style, 3)
        if shown:
            self._console.print()

    def _print_verdict(self, report: Report) -> None:
        played = [[result for result in server.results if not result.is_skipped] for server in report.servers]
        servers, count = sum(map(bool, played)), max(map(len, played), default=0)
        on = f" on {servers} servers" if servers > 1 else ""
        routes = f"{count} route{'' if count == 1 else 's'}{on} in {report.seconds:.0f} s"
        if report.is_interrupted:
            self._line(f"Interrupted: this is what was found so far ({routes}).", "yellow")
        elif report.misbehaves:
            self._line(f"With the middleware something misbehaves ({routes}).", "red")
        else:
            self._line(f"With the middleware nothing misbehaves ({routes}).", "green")


def _title(server: OnServer) -> str:
    return f"{server.name} {server.version}".strip()


def _when(finding: Finding) -> str:
    return ", ".join(PHASES[phase] for phase in finding.phases)


def _rows(result: Result) -> Iterator[tuple[str, Text, Text]]:
    """The rows of a route: each phase, the memory, and the client that stays."""
    for phase, words in PHASES.items():
        bare, wrapped = (
            [one for one in side.departures if one.phase == phase] for side in (result.bare, result.wrapped)
        )
        if bare or wrapped:
            yield words, _cell(bare, result.bare_findings, phase), _cell(wrapped, result.findings, phase)
    if result.bare.memory or result.wrapped.memory:
        times = max(side.memory.departures for side in result.sides if side.memory is not None)
        yield f"{times} times", _memory_cell(result.bare), _memory_cell(result.wrapped)
    if result.is_same is None:
        yield "never (it stays)", Text("–"), Text(result.same or "cannot be told")
    else:
        same = Text("the same answer", "green") if result.is_same else Text(result.same, "red")
        yield "never (it stays)", Text(""), same


def _cell(departures: list[Departure], findings: list[Finding], phase: str) -> Text:
    if not departures:
        return Text("–")
    words = [_WORDS[finding.code] for finding in findings if phase in finding.phases and finding.code != "memory"]
    if words:
        return Text(", ".join(dict.fromkeys(words)), "red")
    played = [one for one in departures if not one.not_played]
    if not played:
        return Text(departures[0].not_played or "", "dim")
    if any(one.seconds is None for one in played):
        return Text("goes on, in a thread" if any(one.in_thread for one in played) else "goes on for long", "yellow")
    seconds = max(one.seconds or 0.0 for one in played)
    return Text("ends at once" if seconds < 0.1 else f"ends after {seconds:.1f} s", "green")


def _memory_cell(side: Side) -> Text:
    memory = side.memory
    if memory is None:
        return Text(f"not measured: {side.no_memory}", "dim")
    if memory.bytes_per_departure <= 2048:
        return Text("no memory kept", "green")
    kept = f"{memory.bytes_per_departure / 1024:.1f} KiB kept for each"
    return Text(f"{kept}, as for those that stay", "dim") if memory.grows_anyway else Text(kept, "red")
