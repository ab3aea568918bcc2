"""What runs under callgrind: `python -m benchmarks._drive WORKLOAD ROW COUNT DRIVER` does so many exchanges."""

from __future__ import annotations

import gc
import sys

from ._workloads import AFTER_LAST, LOOKED_AT, ROWS, WORKLOADS, App, exchange

# Longer than it takes until somebody looks at an exchange that is still under way (see `disconnect_mw._watch`).
SECONDS_TO_LOOK = 0.1


def by_hand(app: App, workload: str, count: int) -> None:
    for _ in range(count):
        try:
            exchange(app, workload).send(None)
        except StopIteration:
            continue
        raise RuntimeError("the exchange suspended: look for a middleware that needs an event loop")


async def in_loop(app: App, workload: str, count: int, row: str = "ours") -> None:
    after_last = AFTER_LAST[row]
    for _ in range(count):
        await exchange(app, workload, after_last)
    if row in LOOKED_AT:
        # That none of these is there any more when it would be looked at is a part of what each costs.
        import asyncio

        await asyncio.sleep(SECONDS_TO_LOOK)


def main(workload: str, row: str, count: str, driver: str) -> None:
    app = ROWS[row](WORKLOADS[workload])
    gc.disable()
    if driver == "asyncio":
        import asyncio  # here only: without a loop, nothing under test may count on its being there

        asyncio.run(in_loop(app, workload, int(count), row))
    else:
        by_hand(app, workload, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
