"""The goals: what `--check` judges."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    bound: float
    form: str = "{:.3f} x"
    is_least: bool = False

    def is_reached(self, got: float) -> bool:
        return got >= self.bound if self.is_least else got <= self.bound

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.form.format(self.bound)}"


GOALS = {
    # Times the cost of two closures: the floor is what an exact usual path alone costs, 1.32, 1.13, 1.21 and 1.82 of
    # the first three and the fifth.
    ("GET", "ours"): Goal(1.40),
    ("stream", "ours"): Goal(1.14),
    ("upload", "ours"): Goal(1.25),
    ("GET", "info"): Goal(1.60),
    ("GET", "hook"): Goal(1.85),
    ("departure", "ours"): Goal(3.0),
    # Times the bare app.
    ("requests", "ours"): Goal(0.92, is_least=True),
    # Bytes more than the bare app.
    ("memory", "ours"): Goal(1024, "{:+,.0f}"),
    # From the turn in which the server knows that its client has gone to the handler's cancellation.
    ("turns", "cancel"): Goal(2, "{:.0f}"),
    ("turns", "hook"): Goal(2, "{:.0f}"),
}
"""By what is measured and the row."""
