"""What is skipped is said loudly."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for reason in dict.fromkeys(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())):
        if "NOT tested here" in reason:
            terminalreporter.write_line(f"!! {reason}", red=True, bold=True)
