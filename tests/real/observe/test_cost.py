"""With metrics and traces on, the middleware and what it tells them cost a client that stays next to nothing."""

from __future__ import annotations

import pytest

from benchmarks._instructions import between_marks, valgrind_version

from .. import IS_FULL

GOAL = 1.10
COUNT = 60


@pytest.mark.skipif(not IS_FULL, reason="it takes half a minute: TESTS_FULL=1")
@pytest.mark.skipif(valgrind_version() is None, reason="NOT tested here: the cost with metrics and traces: no valgrind")
def test_a_get_costs_a_tenth_more_at_the_most() -> None:
    (without,), (with_it,) = (
        between_marks("-m", "benchmarks._observed", row, str(COUNT)) for row in ("without", "with")
    )
    assert 1 < with_it / without <= GOAL
