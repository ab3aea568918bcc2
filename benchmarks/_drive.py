"""What runs under callgrind: `python -m benchmarks._drive WORKLOAD ROW COUNT DRIVER` does so many exchanges."""

from __future__ import annotations

import gc
import sys

from ._workloads import CHUNKS_RECEIVED, ROWS, WORKLOADS, App, exchange


def by_hand(app: App, chunks: int, count: int) -> None:
    for _ in range(count):
        try:
            exchange(app, chunks).send(None)
        except StopIteration:
            continue
        raise RuntimeError("the exchange suspended: look for a middleware that needs an event loop")


async def in_loop(app: App, chunks: int, count: int) -> None:
    for _ in range(count):
        await exchange(app, chunks)


def main(workload: str, row: str, count: str, driver: str) -> None:
    app = ROWS[row](WORKLOADS[workload])
    chunks = CHUNKS_RECEIVED[workload]
    gc.disable()
    if driver == "asyncio":
        import asyncio  # here only: without a loop, nothing under test may count on its being there

        asyncio.run(in_loop(app, chunks, int(count)))
    else:
        by_hand(app, chunks, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
