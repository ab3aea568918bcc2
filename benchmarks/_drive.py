"""What runs under callgrind: `python -m benchmarks._drive ROW WORKLOAD...` runs exchanges inside asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

from ._rows import RIVALS, ROWS, SECONDS_TO_CHECK, WATCHED, App, logging_of
from ._workloads import WORKLOADS, after_body, exchange

MARK = "getsid"
"""The C function that this program calls before and after the exchanges that count. CPython calls it nowhere else.

callgrind writes its counter to a file at each call (`--dump-before`). So one process counts several workloads, and no
count has the interpreter's start in it.
"""


async def run(app: App, workload: str, row: str, count: int) -> None:
    """Run so many exchanges, one after the other."""
    played = WORKLOADS[workload]
    after = after_body(played, row)
    for _ in range(count):
        if played.in_task:
            await asyncio.create_task(exchange(app, played, after))
        else:
            await exchange(app, played, after)
    if row in WATCHED:
        # The watcher then drops these exchanges, because they have ended: a part of what each costs.
        await asyncio.sleep(SECONDS_TO_CHECK)


def repetitions(workload: str, row: str) -> int:
    """How many exchanges one count or timing has.

    Fewer for the rivals, which take more instructions, and for BaseHTTPMiddleware, which takes the most.
    """
    return max(5, WORKLOADS[workload].repetitions // (25 if row == "base" else 5 if row in RIVALS else 1))


async def run_counted(workload: str, row: str, count: int) -> None:
    app = ROWS[row](WORKLOADS[workload].app)
    await run(app, workload, row, max(5, count // 5))  # past the point where CPython has specialised its bytecode
    os.getsid(0)
    await run(app, workload, row, count)
    os.getsid(0)


def main(row: str, *workloads: str) -> None:
    gc.disable()
    with logging_of(row):
        for workload in workloads:
            asyncio.run(run_counted(workload, row, repetitions(workload, row)))


if __name__ == "__main__":
    main(*sys.argv[1:])
