"""Time per exchange inside asyncio: rows interleaved, medians. Two runs of one program differ by up to 19 %."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Sequence

from . import _drive
from ._rows import ROWS, WATCHED, logging_of
from ._workloads import WORKLOADS


def measure(
    workloads: Sequence[str], rows: Sequence[str], rounds: int, progress: Callable[[str], None]
) -> dict[tuple[str, str], float]:
    """Seconds of processor time per exchange, by workload and row."""
    gc.collect()
    gc.disable()
    try:
        with_rounds = {}
        for workload in workloads:
            progress(f"time: {workload}")
            played = [row for row in rows if row in WORKLOADS[workload].rows]
            with_rounds.update(asyncio.run(_rounds(workload, played, rounds)))
    finally:
        gc.enable()
    return {cell: statistics.median(times) for cell, times in with_rounds.items()}


async def _rounds(workload: str, rows: Sequence[str], rounds: int) -> dict[tuple[str, str], list[float]]:
    apps = {row: ROWS[row](WORKLOADS[workload].app) for row in rows}
    times: dict[tuple[str, str], list[float]] = {(workload, row): [] for row in rows}
    for number in range(rounds + 1):
        for row, app in apps.items():
            count = _repetitions(workload, row)
            with logging_of(row):
                before = time.process_time()
                await _drive.run(app, workload, row, count)
                taken = time.process_time() - before
            if number:  # the first round warms up
                times[workload, row].append(taken / count)
        gc.collect()
    return times


def _repetitions(workload: str, row: str) -> int:
    if row in WATCHED:
        return WORKLOADS["GET"].repetitions  # so many that the one timer of a round does not show
    return _drive.repetitions(workload, row)
