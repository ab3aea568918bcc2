"""Limits how many apps go on although their client has left (P10)."""

from __future__ import annotations

from typing import Protocol


class Orphan(Protocol):
    """What is needed of a connection."""

    def is_orphan(self) -> bool:
        """Whether its app goes on for nobody, and could be cancelled but for a shielded block."""
        ...

    def is_shielded(self) -> bool: ...

    def end_orphan(self) -> None:
        """Have its app cancelled. From any thread."""
        ...


class Orphans:
    """The apps of one install that go on for nobody, by how long they have; at most `limit` of them."""

    __slots__ = ("_limit", "_orphans")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._orphans: dict[Orphan, None] = {}  # in the order in which their clients left

    def add(self, new: Orphan) -> None:
        """One more. If that is one too many, the one that has gone on longest, and is not shielded, is cancelled."""
        self._orphans[new] = None
        going_on = [orphan for orphan in [*self._orphans] if orphan.is_orphan()]
        if len(going_on) > self._limit:
            oldest = next((orphan for orphan in going_on if not orphan.is_shielded()), None)
            if oldest is not None:
                self.discard(oldest)
                oldest.end_orphan()

    def discard(self, orphan: Orphan) -> None:
        self._orphans.pop(orphan, None)
