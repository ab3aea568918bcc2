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
    # Times the cost of two closures. The floor is what an exact usual path alone costs.
    ("GET", "ours"): Goal(1.40),  # the floor is 1.32
    ("stream", "ours"): Goal(1.14),  # 1.13
    ("upload", "ours"): Goal(1.25),  # 1.21
    ("GET", "info"): Goal(1.60),
    ("GET", "hook"): Goal(1.85),  # 1.82
    ("departure", "ours"): Goal(3.0),  # 2.8 without completing the response for outer middleware
    # Times the bare app. Starlette needs no task group where nobody but the middleware acts on the disconnect.
    ("Starlette", "cancel"): Goal(0.87),
    ("Starlette", "finish"): Goal(0.87),
    # Times the bare app, whose requests/s two closures reduce to 0.98.
    ("requests", "ours"): Goal(0.92, is_least=True),  # 0.94
    # Bytes more than the bare app.
    ("memory", "ours"): Goal(1024, "{:+,.0f}"),
    # Turns of the event loop, from the one in which the server learns of the disconnect to the handler's cancellation.
    ("turns", "cancel"): Goal(2, "{:.0f}"),
    ("turns", "hook"): Goal(2, "{:.0f}"),
}
"""By what is measured and the row. The ratios were set on CPython 3.11.7, Starlette's on 3.12.1."""
