"""The comparison as two pictures, for light and for dark pages. Same numbers and same matplotlib, same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ._comparison import Numbers
from ._counts import CHUNKS_OFFERED, LONG
from ._rows import LIMIT, NAMES, OURS
from ._workloads import WORKLOADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES_A_ROW, _INCHES_AROUND = 0.3, 2.0
_WIDTH = 9.6
_LEFT, _RIGHT = 0.185, 0.6  # where the scale begins and ends, of the width
_COLUMNS = (0.655, 0.735, 0.82, 0.895, 0.985)  # where the numbers end

_HEADINGS = (
    "tasks,\nshort",
    "tasks,\nover 75 ms",
    f"unread body,\nof {CHUNKS_OFFERED}",
    "MB, 10,000\nstreams",
    "FIN to cancel,\nturns",
)

_NOTES = (
    "Short: a GET of less than 50 ms. Unread body: messages read ahead of the app. Streams: open ones, extrapolated "
    "from 500.\n"
    "From FIN to CancelledError in the handler: through uvicorn on asyncio, and turns of the loop since uvicorn knew; "
    "aiofence in a fence of the handler's.\n"
    "disconnect_mw's first check runs after 50 to 75 ms, and finds a client that left sooner."
)


class Mark(NamedTuple):
    shape: str
    light: str
    dark: str

    def colour(self, theme: str) -> str:
        return self.dark if theme == "dark" else self.light


# Okabe and Ito's colours, which can be told apart without seeing red and green, darker on white; and shapes, for print.
MARKS = {
    "GET": Mark("o", "#0072b2", "#56b4e9"),
    "POST": Mark("s", "#b07500", "#e69f00"),
    "stream": Mark("^", "#00805e", "#2fbf93"),
    "upload": Mark("D", "#b5487f", "#e08bb8"),
    "departure": Mark("v", "#b23a00", "#f0855a"),
}


class Theme(NamedTuple):
    page: str
    text: str
    faint: str
    line: str
    band: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#ddf4ff"),
    "dark": Theme("#131416", "#e6edf3", "#9198a1", "#3d444d", "#16283f"),
}


def paths(path: Path) -> dict[str, Path]:
    """Where the pictures are, by theme: `benchmarks-light.svg` and `benchmarks-dark.svg` for `benchmarks.svg`."""
    return {theme: path.with_stem(f"{path.stem}-{theme}") for theme in THEMES}


def draw(numbers: Numbers, path: Path) -> None:
    for theme, place in paths(path).items():
        place.write_text(svg(numbers, theme), encoding="utf-8")


def ratios(numbers: Numbers) -> Iterator[tuple[str, str, float]]:
    """Each workload and row, and what it costs as a multiple of two closures."""
    measured = numbers["instructions"] or numbers["microseconds"]
    for workload in _shown(numbers):
        for row, count in measured[workload].items():
            yield workload, row, count / measured[workload][LIMIT]


def _shown(numbers: Numbers) -> list[str]:
    """The workloads that are compared with two closures."""
    return [workload for workload in numbers["workloads"] if workload in MARKS]


def svg(numbers: Numbers, theme: str) -> str:
    import matplotlib  # here only: nothing else of the benchmarks needs it
    from matplotlib.figure import Figure

    colours, rows = THEMES[theme], numbers["rows"]
    height = _INCHES_AROUND + _INCHES_A_ROW * len(rows)
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "disconnect_mw",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": colours.text,
        "axes.edgecolor": colours.line,
        "xtick.color": colours.faint,
        "ytick.color": colours.text,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, height), facecolor=colours.page)
        axes = figure.add_axes((_LEFT, 0.72 / height, _RIGHT - _LEFT, _INCHES_A_ROW * len(rows) / height))
        _draw_scale(axes, numbers, theme)
        for workload, row, ratio in ratios(numbers):
            _mark(axes, numbers, workload, row, ratio, theme)
        unit = "Instructions" if numbers["instructions"] else "Time"
        title = f"{unit} per request, as a multiple of a middleware of two closures that do nothing"
        figure.text(0.02, 1 - 0.28 / height, title, fontsize=11, fontweight="bold")
        figure.text(0.02, 1 - 0.47 / height, _origin(numbers), fontsize=8, color=colours.faint)
        figure.text(0.02, 0.1 / height, _NOTES, fontsize=8, color=colours.faint)
        for x, heading in zip(_COLUMNS, _HEADINGS, strict=True):
            figure.text(
                x, 1 - 1.2 / height, heading, ha="right", va="bottom", fontsize=8, color=colours.faint, linespacing=1.1
            )
        for index, row in enumerate(rows):
            for x, number in zip(_COLUMNS, _numbers(numbers, row), strict=True):
                y = (0.72 + _INCHES_A_ROW * (len(rows) - index - 0.5)) / height
                figure.text(x, y, number, ha="right", va="center")
        written = io.StringIO()
        figure.savefig(written, format="svg", facecolor=colours.page, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _draw_scale(axes: Axes, numbers: Numbers, theme: str) -> None:
    rows, colours = numbers["rows"], THEMES[theme]
    axes.set_xscale("log")
    axes.set_facecolor(colours.page)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    names = [f"{NAMES[row]} {numbers['versions'].get(NAMES[row], '')}".rstrip() for row in rows]
    axes.set_yticks(range(len(rows)), [name.replace("  ", "\N{NO-BREAK SPACE}" * 4) for name in names])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row == "ours" else "normal")
        label.set_horizontalalignment("left")
        label.set_x(-0.4)
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(axis="x", color=colours.line, linewidth=0.8)
    axes.axvline(1, color=colours.faint, linewidth=1.2)
    axes.set_axisbelow(True)
    for index, row in enumerate(rows):
        if row in OURS:
            axes.axhspan(index - 0.5, index + 0.5, color=colours.band, linewidth=0, zorder=0)
    for side in axes.spines.values():
        side.set_visible(False)
    shown = _shown(numbers)
    for workload in shown:
        mark, title = MARKS[workload], WORKLOADS[workload].title
        axes.plot([], [], mark.shape, color=mark.colour(theme), markersize=5, label=title)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.05, 1 + 0.2 / (_INCHES_A_ROW * len(rows))),
        ncols=len(shown),
        frameon=False,
        handletextpad=0,
        columnspacing=0.8,
        borderpad=0,
        borderaxespad=0,
        labelcolor=colours.text,
        fontsize=8,
    )


def _mark(axes: Axes, numbers: Numbers, workload: str, row: str, ratio: float, theme: str) -> None:
    """A mark in a lane of its own within the row, so that none covers another."""
    shown = _shown(numbers)
    lane = (shown.index(workload) + 1) / (len(shown) + 1) - 0.5
    mark, y = MARKS[workload], numbers["rows"].index(row) + lane * 0.9
    (line,) = axes.plot([ratio], [y], mark.shape, color=mark.colour(theme), markersize=5)
    line.set_gid(f"{row}:{workload}:{ratio:.3g}")


def _origin(numbers: Numbers) -> str:
    """The versions and the date."""
    words = [f"{name} {version}" for name, version in numbers["versions"].items()]
    return ", ".join((*words, numbers["date"]))


def _numbers(numbers: Numbers, row: str) -> list[str]:
    cancellation = numbers["cancellations"].get(row)
    return [
        *(str(numbers["tasks"][workload][row]) if workload in numbers["tasks"] else "" for workload in ("GET", LONG)),
        str(numbers["read_ahead"][row]),
        f"{numbers['megabytes'][row]:.0f}",
        "" if cancellation is None else f"{cancellation['microseconds']:.0f} µs, {cancellation['turns']}",
    ]
