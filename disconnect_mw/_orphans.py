"""Limits how many apps go on although their client has left (P10)."""

from __future__ import annotations

from typing import Protocol


class Orphan(Protocol):
    """What is needed of a connection."""

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
        """One more. If that is one too many, the one that has gone on longest, and is not shielded, is ended."""
        self._orphans[new] = None
        if len(self._orphans) > self._limit:
            oldest = next((orphan for orphan in [*self._orphans] if not orphan.is_shielded()), None)
            if oldest is not None:
                self.discard(oldest)
                oldest.end_orphan()

    def discard(self, orphan: Orphan) -> None:
        """It goes on for nobody no more: it has ended, or sent its last message, or is to be ended anyway."""
        self._orphans.pop(orphan, None)
