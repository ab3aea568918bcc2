"""The report: both servers beside each other, in 80 columns."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TextIO

from .scenes import Evidence, Scene, count, faults, outcomes

_WIDTH = 80
_LABEL = 18
_COLUMN = (_WIDTH - _LABEL) // 2
_RED, _GREEN, _BOLD = "31", "32", "1"


class Report:
    def __init__(self, output: TextIO) -> None:
        self._output = output
        # https://no-color.org: "when present and not an empty string"
        self._is_coloured = output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._faults: list[str] = []
        self._disconnect_line = ""

    def begin(self, own_version: str, versions: dict[str, str]) -> None:
        self._print_wrapped(
            f"disconnect-mw {own_version} on uvicorn {versions['uvicorn']} ({versions['http']}, "
            f"{versions['websocket']}), Starlette {versions['starlette']}, Python {versions['python']}"
        )
        self._print_wrapped(
            "Two clients leave each server in the middle of each exchange: one closes the connection (FIN), one resets "
            "it (RST)."
        )
        self._print()
        self._print_row("", ("without the middleware", _BOLD), ("with the middleware", _BOLD))

    def add(self, scene: Scene, bare: Evidence, wrapped: Evidence) -> None:
        """Print what both servers did in a scene, and judge the one with the middleware."""
        self._print()
        self._print(self._paint(scene.title, _BOLD))
        self._print_row("  the log", _log_cell(bare), _log_cell(wrapped))
        self._print_row("  the app's work", _work_cell(scene, bare), _work_cell(scene, wrapped))
        self._print_row("  wasted messages", _wasted_cell(bare), _wasted_cell(wrapped))
        for side, evidence in (("without", bare), ("with", wrapped)):
            for number, line in enumerate(evidence.first_error):
                self._print(_shortened(f"  {'' if number else side:7} | {line}"))
        self._faults += [f"{scene.path[1:]}: {fault}" for fault in faults(scene, wrapped)]
        self._disconnect_line = max([self._disconnect_line, *wrapped.disconnect_lines], key=_messages_muted)

    def end(self) -> bool:
        """Print the verdict. Return whether the server with the middleware behaved as promised."""
        self._print()
        if self._disconnect_line:
            self._print("The middleware logs one line for each client that left, for example:")
            self._print_wrapped(f"INFO: {self._disconnect_line}", indent="  ")
            self._print()
        if not self._faults:
            self._print(self._paint("With the middleware everything was as promised.", _GREEN))
            return True
        self._print(self._paint("With the middleware this was not as promised:", _RED))
        for fault in self._faults:
            self._print_wrapped(f"- {fault}", indent="  ")
        return False

    def _print(self, line: str = "") -> None:
        print(line, file=self._output, flush=True)

    def _print_wrapped(self, text: str, indent: str = "") -> None:
        self._print(textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent))

    def _print_row(self, label: str, bare: tuple[str, str], wrapped: tuple[str, str]) -> None:
        cells = [self._paint(f"{text:{_COLUMN}}", colour) for text, colour in (bare, wrapped)]
        self._print(f"{label:{_LABEL}}{''.join(cells)}".rstrip())

    def _paint(self, text: str, colour: str) -> str:
        bare = text.rstrip()
        return f"\033[{colour}m{bare}\033[0m{text[len(bare) :]}" if self._is_coloured else text


def _log_cell(evidence: Evidence) -> tuple[str, str]:
    if evidence.errors or evidence.tracebacks:
        return f"{count(evidence.errors, 'ERROR')}, {count(evidence.tracebacks, 'traceback')}", _RED
    lines = len(evidence.disconnect_lines)
    return f"no ERROR, {count(lines, 'INFO line')}" if lines else "nothing", _GREEN


def _work_cell(scene: Scene, evidence: Evidence) -> tuple[str, str]:
    found = outcomes(scene, evidence)
    return _shortened(" / ".join(found), _COLUMN - 1), _GREEN if found == [scene.promised] else _RED


def _wasted_cell(evidence: Evidence) -> tuple[str, str]:
    return (str(evidence.wasted_messages), _RED) if evidence.wasted_messages else ("none", _GREEN)


def _messages_muted(line: str) -> int:
    found = re.search(r"(\d+) messages? muted", line)
    return int(found[1]) if found else -1


def _shortened(line: str, width: int = _WIDTH) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."
