"""Time per exchange inside asyncio: rows interleaved, medians. Two runs of one program differ by up to 19 %."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Callable

from . import _drive
from ._workloads import LOOKED_AT, RIVALS, ROWS, WORKLOADS

# Exchanges in one round of one row, so that a round takes some milliseconds.
_COUNTS = {"GET": 500, "POST": 500, "stream": 30, "upload": 50}


def measure(
    workloads: list[str], rows: list[str], rounds: int, progress: Callable[[str], None]
) -> dict[tuple[str, str], float]:
    """Seconds of processor time per exchange, under (workload, row)."""
    gc.collect()
    gc.disable()
    try:
        with_rounds = {}
        for workload in workloads:
            progress(f"time: {workload}")
            with_rounds.update(asyncio.run(_rounds(workload, rows, rounds)))
    finally:
        gc.enable()
    return {cell: statistics.median(times) for cell, times in with_rounds.items()}


async def _rounds(workload: str, rows: list[str], rounds: int) -> dict[tuple[str, str], list[float]]:
    apps = {row: ROWS[row](WORKLOADS[workload]) for row in rows}
    times: dict[tuple[str, str], list[float]] = {(workload, row): [] for row in rows}
    for number in range(rounds + 1):
        for row, app in apps.items():
            count = _count(workload, row)
            before = time.process_time()
            await _drive.in_loop(app, workload, count, row)
            if number:  # the first round warms up
                times[workload, row].append((time.process_time() - before) / count)
        gc.collect()
    return times


def _count(workload: str, row: str) -> int:
    if row in LOOKED_AT:
        return _COUNTS["GET"]  # as many that the timer of their round weighs nothing
    return max(1, _COUNTS[workload] // (20 if row == "base" else 5 if row in RIVALS else 1))
