"""How much work there is: what is known on both sides, in the server's process and in the tests."""

from __future__ import annotations

TOKENS = 20
"""That a model has to give."""

SECONDS_PER_TOKEN = 0.04

TOKENS_UNTIL_IT_LEAVES = 3
"""The client. That takes longer than the 50 ms after which somebody looks for it."""

BETWEEN = 0
"""The number of the order whose client leaves between the two rows of it."""

POOL = 6
"""Connections to the database."""
