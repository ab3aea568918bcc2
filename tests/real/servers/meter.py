"""Shows how far the plays have come."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 15


class Meter:
    """Shows the progress: a bar on a terminal, a line every 15 seconds elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = Progress(*self._columns, console=console, disable=not console.is_terminal, transient=True)
        self._is_bar = console.is_terminal
        self._task = self._bar.add_task("", total=0)
        self._total = self._done = 0
        self._told = self._began = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, count: int) -> None:
        with self._lock:
            self._total += count
            self._bar.update(self._task, total=self._total)

    def tell(self, line: str) -> None:
        """Print a line above the bar."""
        with self._lock:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, what: str) -> None:
        with self._lock:
            self._done += 1
            self._bar.update(self._task, description=what, advance=1)
            now = time.monotonic()
            if not self._is_bar and now - self._told > SECONDS_BETWEEN_LINES:
                self._told = now
                print(f"{now - self._began:4.0f} s: {self._done} of {self._total} played; {what}", file=sys.stderr)
