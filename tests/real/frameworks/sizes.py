"""How much work there is: what is known on both sides, in the server's process and in the tests."""

from __future__ import annotations

STEPS = 20

STEPS_UNTIL_IT_LEAVES = 4
"""The client. They take longer than the 75 ms after which the middleware has checked for the first time."""

SECONDS_OF_GRACE = 1
