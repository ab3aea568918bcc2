"""Everything that runs on real servers: their conformance, the clients that the world has, workloads, uploads.

`TESTS_FULL=1` plays all of it in full, as `.ci/run` does. Without it, for the README's command, a part that still tells
of every promise: see where `IS_FULL` is asked for.
"""

from __future__ import annotations

import os

IS_FULL = bool(os.environ.get("TESTS_FULL"))
