"""The comparison as a picture: an SVG that follows the reader's light or dark theme. Same numbers, same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ._comparison import Numbers
from ._counts import CHUNKS_OFFERED, LONG
from ._rows import LIMIT, NAMES, OURS
from ._workloads import WORKLOADS

_WIDTH, _MARGIN = 960, 20
_HEAD, _ROW, _FOOT = 122, 28, 64
_FROM, _TO = 190, 560  # where the scale begins and ends
_COLUMNS = (618, 690, 780, 856, 940)  # where the numbers end
_TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

_HEADINGS = (
    ("tasks,", "short"),
    ("tasks,", "over 75 ms"),
    ("unread body,", f"of {CHUNKS_OFFERED}"),
    ("MB, 10,000", "streams"),
    ("FIN to cancel,", "turns"),
)

_NOTES = (
    "Logarithmic scale. Short: a GET of less than 50 ms. Unread body: messages read ahead of the app. "
    "Streams: open ones, extrapolated from 500.",
    "From FIN to CancelledError in the handler: through uvicorn on asyncio, and turns of the loop since uvicorn knew; "
    "aiofence in a fence of the handler's.",
    "disconnect_mw's first check runs after 50 to 75 ms, and finds a client that left sooner. One departure: see "
    "`python -m benchmarks`.",
)

# Okabe and Ito's colours, which can be told apart without seeing red and green, darker on white; and shapes, for print.
_STYLE = """
text { font: 12px -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.page { fill: #ffffff; stroke: #d1d9e0 }
.title { font-size: 15px; font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.strong { font-weight: 600 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.band { fill: #ddf4ff }
.grid { stroke: #d1d9e0 }
.limit { stroke: #59636e; stroke-width: 1.5 }
.GET { fill: #0072b2 }
.POST { fill: #b07500 }
.stream { fill: #00805e }
.upload { fill: #b5487f }
.departure { fill: #b23a00 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.page { fill: #0d1117; stroke: #3d444d }
.small { fill: #9198a1 }
.band { fill: #16283f }
.grid { stroke: #3d444d }
.limit { stroke: #9198a1 }
.GET { fill: #56b4e9 }
.POST { fill: #e69f00 }
.stream { fill: #2fbf93 }
.upload { fill: #e08bb8 }
.departure { fill: #f0855a }
}
"""

_SHAPES = {
    "GET": "-4,0 -2.8,-2.8 0,-4 2.8,-2.8 4,0 2.8,2.8 0,4 -2.8,2.8",
    "POST": "-3.4,-3.4 3.4,-3.4 3.4,3.4 -3.4,3.4",
    "stream": "-4.2,3.4 4.2,3.4 0,-4",
    "upload": "-4.6,0 0,-4.6 4.6,0 0,4.6",
    "departure": "-4.2,-3.4 4.2,-3.4 0,4",
}


class _Scale(NamedTuple):
    """Maps a ratio to its place."""

    low: float
    high: float

    def x(self, ratio: float) -> float:
        return _FROM + (_TO - _FROM) * math.log(ratio / self.low) / math.log(self.high / self.low)


def draw(numbers: Numbers, path: Path) -> None:
    path.write_text(svg(numbers), encoding="utf-8")


def svg(numbers: Numbers) -> str:
    measured = numbers["instructions"] or numbers["microseconds"]
    unit = "Instructions" if numbers["instructions"] else "Time"
    rows = numbers["rows"]
    workloads = [workload for workload in numbers["workloads"] if workload in _SHAPES]
    ratios = {
        (workload, row): count / measured[workload][LIMIT]
        for workload in workloads
        for row, count in measured[workload].items()
    }
    bottom = _HEAD + _ROW * len(rows)
    height = bottom + _FOOT
    picture = ElementTree.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {height}", width=str(_WIDTH), role="img"
    )
    title = f"{unit} per request, as a multiple of a middleware of two closures that do nothing"
    _add(picture, "title").text = title
    _add(picture, "style").text = _STYLE
    _add(picture, "rect", "page", x=0.5, y=0.5, width=_WIDTH - 1, height=height - 1, rx=6)
    _write(picture, _MARGIN, 28, title, "title")
    _write_lines(picture, _MARGIN, 47, _origin(numbers), "small")
    for row, y in zip(rows, range(_HEAD, bottom, _ROW), strict=True):
        if row in OURS:
            _add(picture, "rect", "band", x=1, y=y, width=_WIDTH - 2, height=_ROW)
    scale = _scale(list(ratios.values()))
    _draw_scale(picture, scale, bottom)
    _draw_key(picture, workloads, _HEAD - 46)
    for x, heading in zip(_COLUMNS, _HEADINGS, strict=True):
        _write_lines(picture, x, _HEAD - 22, heading, "small end")
    for row, y in zip(rows, range(_HEAD, bottom, _ROW), strict=True):
        name = NAMES[row]
        words = " ".join((name.strip(), _version(numbers, name)))
        x = _MARGIN + 14 * name.startswith(" ")
        _write(picture, x, y + 17, words.strip(), "strong" if row == "ours" else "")
        for lane, workload in enumerate(workloads, 1):
            if (workload, row) in ratios:
                place = scale.x(ratios[workload, row]), y + _ROW * lane / (len(workloads) + 1)
                _mark(
                    picture,
                    workload,
                    *place,
                    f"{NAMES[row].strip()}, {WORKLOADS[workload].title}: {ratios[workload, row]:.3g}",
                )
        for x, number in zip(_COLUMNS, _numbers(numbers, row), strict=True):
            _write(picture, x, y + 17, number, "end")
    _write_lines(picture, _MARGIN, bottom + 24, _NOTES, "small")
    ElementTree.indent(picture)
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def _origin(numbers: Numbers) -> list[str]:
    """The versions and the date."""
    words = [f"{name} {version}" for name, version in numbers["versions"].items()]
    return [", ".join((*words, numbers["date"]))]


def _version(numbers: Numbers, name: str) -> str:
    return numbers["versions"].get(name, "")


def _numbers(numbers: Numbers, row: str) -> list[str]:
    cancellation = numbers["cancellations"].get(row)
    return [
        *(str(numbers["tasks"][workload][row]) if workload in numbers["tasks"] else "" for workload in ("GET", LONG)),
        str(numbers["read_ahead"][row]),
        f"{numbers['megabytes'][row]:.0f}",
        "" if cancellation is None else f"{cancellation['microseconds']:.0f} µs, {cancellation['turns']}",
    ]


def _scale(ratios: Sequence[float]) -> _Scale:
    low = max((tick for tick in _TICKS if tick <= min(ratios)), default=_TICKS[0])
    high = min((tick for tick in _TICKS if tick >= max(ratios)), default=_TICKS[-1])
    return _Scale(low, high)


def _draw_scale(picture: ElementTree.Element, scale: _Scale, bottom: int) -> None:
    for tick in _TICKS:
        if scale.low <= tick <= scale.high:
            x = scale.x(tick)
            _add(picture, "line", "limit" if tick == 1 else "grid", x1=x, y1=_HEAD, x2=x, y2=bottom)
            _write(picture, x, _HEAD - 8, f"{tick:g}×", "small middle")


def _draw_key(picture: ElementTree.Element, workloads: Sequence[str], y: float) -> None:
    for index, workload in enumerate(workloads):
        x = _FROM + 6 + 102 * index
        _mark(picture, workload, x, y - 4, "")
        _write(picture, x + 10, y, WORKLOADS[workload].title, "")


def _mark(picture: ElementTree.Element, workload: str, x: float, y: float, words: str) -> None:
    shape = _add(picture, "polygon", workload, points=_SHAPES[workload], transform=f"translate({x:.1f} {y:.1f})")
    if words:
        _add(shape, "title").text = words


def _write_lines(picture: ElementTree.Element, x: float, y: float, lines: Sequence[str], kind: str) -> None:
    for index, line in enumerate(lines):
        _write(picture, x, y + 14 * index, line, kind)


def _write(picture: ElementTree.Element, x: float, y: float, words: str, kind: str) -> None:
    if words:
        _add(picture, "text", kind, x=x, y=y).text = words


def _add(parent: ElementTree.Element, tag: str, kind: str = "", **attributes: float | str) -> ElementTree.Element:
    written = {name: value if isinstance(value, str) else f"{value:.5g}" for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, {"class": kind, **written} if kind else written)
