"""Everything that runs on real servers: their conformance, the clients that the world has, workloads, uploads.

`TESTS_FULL=1` plays all of it in full, as `.ci/run` does. Without it, for the README's command, a part that still tells
of every promise: see where `IS_FULL` is asked for.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket

IS_FULL = bool(os.environ.get("TESTS_FULL"))


def free_port() -> int:
    """A port of the loopback that is free now, and that the kernel gives to no socket that asks for any."""
    chance = random.SystemRandom()
    for _ in range(1000):
        port = chance.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as trial:
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port among a thousand")
