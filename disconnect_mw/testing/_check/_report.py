"""What a check has found."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from ._faults import Fault


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check has found. Its `str` is a report for people."""

    faults: tuple[Fault, ...]
    """What misbehaves, with the middleware."""

    mended: tuple[Fault, ...]
    """What misbehaves without the middleware, and not with it."""

    requests: tuple[str, ...]
    """The routes that clients have left: "GET /stream"."""

    notes: tuple[str, ...]
    """What was not tried, or cannot be told, each in a sentence."""

    departures: int
    """How many clients have left, bare and wrapped."""

    servers: int
    """On how many."""

    seconds: float
    """How long that took."""

    def __str__(self) -> str:
        lines = [
            f"{_count(len(self.faults), 'fault')} in {_count(len(self.requests), 'route')} "
            f"({_count(self.departures, 'departure')}, {_count(self.servers, 'server')}, {self.seconds:.1f} s)"
        ]
        for fault in self.faults:
            lines += ["", str(fault)]
        if self.mended:
            lines += ["", "Without the middleware also:", *self._mended_lines()]
        if self.notes:
            lines += ["", "Not tried, or not told:", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)

    def _mended_lines(self) -> Iterator[str]:
        """One line for all of a kind."""
        kinds = Counter((fault.request, fault.kind) for fault in self.mended)
        for fault in self.mended:
            count = kinds.pop((fault.request, fault.kind), 0)
            if count:
                more = f" (and {count - 1} more)" if count > 1 else ""
                on = f"on {_count(len(fault.servers), 'server')}"
                yield f"  {fault.request}: {fault.kind} {on}: {fault.sentence}{more}"


class FaultsFound(AssertionError):
    """The app under check misbehaves when its clients leave. The text is that of the report."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.report,)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
