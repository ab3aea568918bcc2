"""Prints a line in red for each server that is not played."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.stats.get("skipped", ()):
        if "NOT played" in str(report.longrepr):
            terminalreporter.write_line(f"!! {report.longrepr[2]}", red=True, bold=True)
