"""A storm of thousands of clients that leave at once: `python -m tests.real.workloads`."""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..servers.setups import INSTALLED, Setup
from .crowd import WAYS, Census, Storm, census, disperse, gather, ratio, serving, storm
from .test_storm import CELLS, LIMIT

SETUPS = {
    setup.kind: setup
    for setup in (
        Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio"),
        Setup("uvicorn", INSTALLED, "asyncio", "h11", "websockets-sansio"),
        Setup("uvicorn", INSTALLED, "uvloop", "httptools", "websockets-sansio"),
    )
}

Cell = tuple[str, str, str]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.real.workloads", description=__doc__)
    parser.add_argument("--streams", type=int, default=5000, metavar="N", help="open at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each storm (%(default)s)")
    parser.add_argument("--setup", choices=SETUPS, default=next(iter(SETUPS)), help="of uvicorn (%(default)s)")
    options = parser.parse_args()
    if options.streams < 1 or options.rounds < 1:
        parser.error("--streams and --rounds must be 1 or more")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < options.streams + 100:
        parser.error(f"--streams {options.streams} needs as many files, and a process may open {most}: see ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    storms: dict[Cell, list[Storm]] = {(*cell, how): [] for cell in CELLS for how in WAYS}
    memory: dict[tuple[str, str], tuple[Census, Census, Census]] = {}
    with serving(SETUPS[options.setup]) as server:
        for app, variant in CELLS:
            storm(server, app, variant, 100, "fin")
        for number in range(1, options.rounds + 1):
            for app, variant, how in storms:
                print(f"round {number}: {app} {variant} {how}", file=sys.stderr)
                storms[app, variant, how].append(storm(server, app, variant, options.streams, how))
        for app, variant in CELLS:
            before = census(server, 0)
            guests = gather(server.port, server.visit(app, variant).path, options.streams)
            meanwhile = census(server)
            disperse(server, guests, "fin")
            memory[app, variant] = before, meanwhile, census(server, before.blocks)
        title = f"{options.streams} streams on uvicorn {server.version} ({options.setup}), dropped at once"
    console = Console(width=120)
    console.print(_turns(title, storms), _memory(memory, options.streams), sep="\n")
    errors = [event["text"] for event in server.events() if event.get("log") in ("ERROR", "CRITICAL")]
    console.print("\n".join(["errors:", *errors, *server.complaints()]) if errors else "no errors", markup=False)
    is_good = not errors and all(one.left == 0 for some in storms.values() for one in some)
    return not (is_good and all(_ratio(storms, cell) <= LIMIT for cell in storms))


def _ratio(storms: dict[Cell, list[Storm]], cell: Cell) -> float:
    """The deaf app, which bare would go on, is measured by the bare one that listens."""
    return ratio(storms[cell], storms["sse", "bare", cell[2]])


def _turns(title: str, storms: dict[Cell, list[Storm]]) -> Table:
    table = Table("app", "policy", "left by", title=title)
    for column in ("longest turn, ms", "median", "by the clock", "of it gc", "all ended, ms", "left", "times bare"):
        table.add_column(column, justify="right")
    for cell, some in storms.items():
        table.add_row(
            *cell,
            *(f"{1000 * seconds:.0f}" for seconds in _figures(some)),
            str(sum(one.left for one in some)),
            f"{_ratio(storms, cell):.2f}",
        )
    return table


def _figures(storms: Sequence[Storm]) -> tuple[float, ...]:
    return (
        min(one.turn for one in storms),
        statistics.median(one.turn for one in storms),
        min(one.on_the_wall for one in storms),
        max(one.collecting for one in storms),
        min(one.seconds for one in storms),
    )


def _memory(memory: dict[tuple[str, str], tuple[Census, Census, Census]], streams: int) -> Table:
    table = Table("app", "policy", title="before, open, and after")
    for column in ("objects", "blocks of memory", "MiB", "blocks per open stream"):
        table.add_column(column, justify="right")
    for cell, counts in memory.items():
        table.add_row(
            *cell,
            " ".join(f"{one.objects:,}" for one in counts),
            " ".join(f"{one.blocks:,}" for one in counts),
            " ".join(f"{one.bytes / (1 << 20):.0f}" for one in counts),
            f"{(counts[1].blocks - counts[0].blocks) / streams:.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
