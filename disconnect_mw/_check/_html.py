"""The report as one self-contained HTML file: what to do, and the timeline of each departure, bare beside wrapped."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jinja2

from ._evidence import PHASES, Departure, Mark, OnServer, Report, Result

_TEMPLATE = Path(__file__).parent / "report.html.jinja"

_WIDTH = 460.0
_LEFT, _RIGHT = 62.0, 12.0
_LANES = {"client": 18.0, "server": 40.0, "app": 62.0}
_TICKS = 5


@dataclasses.dataclass
class _Tick:
    x: float
    text: str


@dataclasses.dataclass
class _Drawn:
    """A mark of the timeline, where it is drawn and what it says."""

    x: float
    y: float
    kind: str  # "send", "late", "told", "plain"
    text: str


@dataclasses.dataclass
class Timeline:
    """One departure, as it is drawn. All lengths are in the units of its view box."""

    departure: Departure
    seconds: float
    label: str
    begins: float | None
    ends: float | None
    is_open: bool  # the handler still runs
    leaves: float
    marks: list[_Drawn]
    ticks: list[_Tick]

    width, left, right = _WIDTH, _LEFT, _RIGHT
    lanes = _LANES


@dataclasses.dataclass
class _Pair:
    """What the same departure did on both sides."""

    phase: str
    way: str
    sides: list[tuple[str, Departure | None, Timeline | None]]


def to_html(report: Report) -> str:
    """Return the page. It needs no network, and no script to be read; the script filters."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(report=report, phases=PHASES, pairs=pairs, title=_title, kept=_kept)


def _title(server: OnServer) -> str:
    return f"{server.name} {server.version}".strip()


def _kept(result: Result) -> list[tuple[str, str]]:
    """What departures leave in memory, by side."""
    found = []
    for name, side in (("without", result.bare), ("with it", result.wrapped)):
        memory = side.memory
        if memory is None:
            found.append((name, f"not measured: {side.no_memory}" if side.no_memory else "not measured"))
        else:
            kept = f"{memory.bytes_per_departure:.0f} bytes for each of {memory.departures} departures"
            words = f"{kept} {PHASES[memory.phase]}"
            found.append((name, words + (", as for those that stay" if memory.grows_anyway else "")))
    return found


def pairs(result: Result) -> list[_Pair]:
    """The departures of both sides beside each other, drawn on one scale."""
    found: dict[tuple[str, str], list[Departure | None]] = {}
    for index, side in enumerate(result.sides):
        for departure in side.departures:
            found.setdefault((departure.phase, departure.way), [None, None])[index] = departure
    return [_pair(phase, way, *both) for (phase, way), both in found.items()]


def _pair(phase: str, way: str, *both: Departure | None) -> _Pair:
    spans = [one.timeline[-1].at for one in both if one is not None and one.timeline]
    draw = functools.partial(timeline, seconds=max([*spans, 0.05]) * 1.05)
    sides = [
        (name, one, draw(one) if one is not None and one.timeline else None)
        for name, one in zip(("without the middleware", "with it"), both, strict=True)
    ]
    return _Pair(phase, way, sides)


def timeline(departure: Departure, seconds: float) -> Timeline:
    """Draw a departure on a scale of so many seconds."""

    def place(at: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(at / seconds, 0.0), 1.0), 1)

    leaves_at = next((mark.at for mark in departure.timeline if mark.what.startswith("leaves")), 0.0)
    begins = [mark.at for mark in departure.timeline if mark.who == "app" and mark.what == "begins"]
    ends = [mark.at for mark in departure.timeline if mark.who == "app" and mark.what == departure.how]
    return Timeline(
        departure,
        seconds,
        summary(departure),
        place(begins[0]) if begins else None,
        place(ends[-1]) if ends else None,
        bool(begins) and departure.how is None,
        place(leaves_at),
        [_drawn(mark, leaves_at, place(mark.at)) for mark in departure.timeline],
        [_Tick(place(seconds * tick / _TICKS), f"{seconds * tick / _TICKS:.2f}") for tick in range(_TICKS + 1)],
    )


def _drawn(mark: Mark, leaves_at: float, x: float) -> _Drawn:
    kind = "plain"
    if mark.who == "app" and (mark.what == "send" or "." in mark.what):
        kind = "late" if mark.at > leaves_at else "send"
    elif mark.what.endswith(".disconnect"):
        kind = "told"
    size = f", {mark.size} bytes" if mark.size else ""
    return _Drawn(x, _LANES[mark.who], kind, f"{mark.at:.3f} s: {mark.who} {mark.what}{size}")


def summary(departure: Departure) -> str:
    """Say in one sentence what happened."""
    if departure.lost:
        return "The server was lost."
    if departure.not_played:
        return f"Not played: {departure.not_played}."
    if departure.seconds is None:
        end = "the handler still runs"
    else:
        end = f"the handler {departure.how} {departure.seconds:.2f} s later"
    told = "is never told" if departure.told_after is None else f"is told after {departure.told_after:.2f} s"
    sends = "sends nothing more" if not departure.sends else f"sends {departure.sends} more"
    return f"The client leaves; the app {told}, {sends}; {end}."
