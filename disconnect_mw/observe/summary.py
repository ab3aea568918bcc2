"""The bill: what apps did for clients that had left, by route, at shutdown and on demand."""

from __future__ import annotations

import html
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from .._middleware import single_callable
from .._observers import label_of
from .._options import check_function, name_of
from .._records import Exchange
from .._telling import LOGGER, short
from . import Departure, subscribe
from ._routes import Routes

# In the scope of what is counted already, by a `Summary` further out.
_COUNTED = "disconnect_mw.summary"


class Row:
    """What is counted of one route."""

    def __init__(self, route: str) -> None:
        self.route = route
        self.exchanges = 0
        self.phases: Counter[str] = Counter()
        self.seconds: float = 0.0
        self.saved: float = 0.0
        self.bytes = self.orphans = self.orphans_at_most = 0

    @property
    def departures(self) -> int:
        return self.phases.total()

    def figures(self) -> dict[str, Any]:
        return {
            "route": self.route,
            "exchanges": self.exchanges,
            "departures": self.departures,
            "phases": dict(self.phases),
            "wasted_seconds": round(self.seconds, 3),
            "muted_bytes": self.bytes,
            "orphans_at_most": self.orphans_at_most,
            "seconds_saved_by_cancel": round(self.saved, 3),
        }


class _Bill:
    """What is counted in this process."""

    def __init__(self, max_routes: int = 200) -> None:
        self._routes = Routes(max_routes, "the summary of departures", advice="")
        self._rows: dict[str, Row] = {}
        self.is_open = False

    def row(self, route: str) -> Row:
        route = self._routes.bounded(route)
        return self._rows.setdefault(route, Row(route))

    def rows(self) -> list[Row]:
        """The most expensive first."""
        rows = [row for row in self._rows.values() if row.exchanges or row.departures]
        return sorted(rows, key=lambda row: (-row.seconds, -row.departures, -row.exchanges, row.route))

    def total(self) -> Row:
        total = Row("all routes")
        for row in self.rows():
            total.exchanges += row.exchanges
            total.phases += row.phases
            total.seconds += row.seconds
            total.saved += row.saved
            total.bytes += row.bytes
        total.orphans_at_most = self.orphans_at_most
        return total

    orphans = orphans_at_most = 0

    def observe(self, departure: Departure) -> Callable[[Exchange], None]:
        row, phase = self.row(departure.route), departure.disconnect.phase
        row.phases[phase] += 1
        for one in (row, self):
            one.orphans += 1
            one.orphans_at_most = max(one.orphans_at_most, one.orphans)

        def end(exchange: Exchange) -> None:
            row.orphans -= 1
            self.orphans -= 1
            routed = self.row(departure.route)
            if routed is not row:  # the framework has chosen it since
                row.phases -= Counter([phase])
                routed.phases[phase] += 1
                routed.orphans_at_most = max(routed.orphans_at_most, routed.orphans + 1)
            routed.seconds += exchange.seconds
            routed.bytes += exchange.bytes_muted
            if departure.policy != "cancel":
                routed.saved += exchange.seconds

        return end


_bill = _Bill()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Summary:
    """Count what `app` does for clients that have left, and say it at the end of the lifespan.

    To be installed around `DisconnectMiddleware`, or inside of it; of several the outermost counts. What is counted is
    this process's: `text()`, `figures()` and `app` show it at any time.

    `report` is called with the text once the app has shut down; by default it goes to stderr, and None is for not at
    all. What it raises is logged, and changes nothing. A server or an app without lifespan has no such moment.

    Each route has a row: the one that the framework puts into the scope (Starlette 1.7, FastAPI, Litestar), `"(no
    route)"` where it has put none there, and the path where the framework is another one. From 200 on they are
    `"other"`, which is told once by a warning. Every exchange is checked for a disconnect, as it is with a
    hook. Raises `TypeError` for what is no application, and for a `report` that is no plain function of one argument.
    """

    def __init__(self, app: Any, *, report: Callable[[str], object] | None = _to_stderr) -> None:
        self._app = single_callable(app)
        self._report = check_function("report", "the text", report, is_async=False)
        if not _bill.is_open:
            _bill.is_open = True
            subscribe(_bill.observe)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        kind = scope.get("type")
        is_told = kind == "lifespan" and self._report is not None
        if not (is_told or kind in ("http", "websocket")) or _COUNTED in scope:
            return await self._app(scope, receive, send)
        scope[_COUNTED] = True
        try:
            return await self._app(scope, receive, self._reporting(send) if is_told else send)
        finally:
            del scope[_COUNTED]
            if not is_told:
                _bill.row(label_of(scope, str(scope.get("path")))).exchanges += 1

    def _reporting(self, send: Any) -> Any:
        async def reporting_send(message: Any) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                try:
                    self._report(text())
                except Exception:
                    LOGGER.exception("the report of the summary failed: %s", name_of(self._report))
            await send(message)

        return reporting_send


# What it looks like


def figures() -> dict[str, Any]:
    """The figures of this process, as JSON can hold them.

    `pid`, `total` and `routes`, the most expensive first. Each row has `route`, `exchanges`, `departures`, `phases` (a
    count for each), `wasted_seconds`, `muted_bytes` (what the apps went on for, and sent, after their clients
    had left), `orphans_at_most` (that went on at a time) and `seconds_saved_by_cancel` (those under other policies).
    What still goes on is counted among the departures; its seconds and bytes come at its end.
    """
    rows = [row.figures() for row in _bill.rows()]
    return {"pid": os.getpid(), "total": _bill.total().figures(), "routes": rows}


_HEADERS = (
    "route",
    "exchanges",
    "departures",
    "wasted seconds",
    "muted bytes",
    "orphans at most",
    "saved by cancel",
)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.route,
        f"{row.exchanges:,}",
        f"{row.departures:,}",
        f"{row.seconds:,.1f}",
        f"{row.bytes:,}",
        f"{row.orphans_at_most:,}",
        f"{row.saved:,.1f} s",
    )


def text() -> str:
    """One table, with a line of phases below each route that clients have left."""
    total = _bill.total()
    if not total.departures:
        return f"disconnect_mw, process {os.getpid()}: {_exchanges(total)}, and no client left early"
    rows = [row for row in _bill.rows() if row.departures]
    table = [(row, (short(row.route, safe="/{}() "), *_cells(row)[1:])) for row in [*rows, total]]
    widths = [max(map(len, column)) for column in zip(_HEADERS, *(cells for _, cells in table), strict=True)]

    def line(values: tuple[str, ...]) -> str:
        first, *others = (value.rjust(width) for value, width in zip(values, widths, strict=True))
        return "  ".join([values[0].ljust(widths[0]), *others])

    lines = [f"disconnect_mw, process {os.getpid()}: what apps did for clients that had left", line(_HEADERS)]
    for row, cells in table:
        lines += [line(cells), f"  {_phases(row)}"]
    lines.append(f'policy="cancel" would have saved {total.saved:,.1f} s of {total.seconds:,.1f} s')
    return "\n".join(lines)


def _exchanges(row: Row) -> str:
    return f"{row.exchanges:,} exchange{'' if row.exchanges == 1 else 's'}"


def _phases(row: Row) -> str:
    return ", ".join(f"{count:,} {phase}" for phase, count in row.phases.most_common())


# The page

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Clients that left</title>
<style>
:root {{ --line: #8884; --bar: #c2571a; --soft: #777; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; margin: 0; }}
p {{ color: var(--soft); margin: .3rem 0 1.5rem; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ padding: .45rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; font-size: .85rem; color: var(--soft); vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; }}
td {{ font-variant-numeric: tabular-nums; }}
td:first-child {{ font-family: ui-monospace, monospace; overflow-wrap: anywhere; min-width: 12rem; }}
small {{ display: block; color: var(--soft); font: .8rem system-ui, sans-serif; }}
.bar {{ display: block; height: .35rem; margin: .3rem 0 0 auto; background: var(--bar); border-radius: 2px; }}
tfoot td {{ font-weight: 600; }}
</style>
</head>
<body>
<h1>Clients that left</h1>
<p>{lead} <a href="{json}">JSON</a> · <a href="{text}">text</a></p>
<div class="table"><table>
<thead><tr>{headers}</tr></thead>
<tbody>{rows}</tbody>
<tfoot>{total}</tfoot>
</table></div>
</body>
</html>
"""


def page(base: str = "") -> str:
    """The page, complete in itself: no script, and nothing to be fetched. `base` is the path that it is served at."""
    rows, total = _bill.rows(), _bill.total()
    most = Row("")
    most.phases["most"] = max((row.departures for row in rows), default=0)
    most.seconds = max((row.seconds for row in rows), default=0.0)
    most.bytes = max((row.bytes for row in rows), default=0)
    lead = (
        f"Process {os.getpid()}: clients left early from {total.departures:,} of {_exchanges(total)}. "
        f"Apps went on for {total.seconds:,.1f} s; policy=&quot;cancel&quot; would have saved {total.saved:,.1f} s."
    )
    if not _bill.is_open:
        lead = "Nothing is counted: install disconnect_mw.observe.summary.Summary around the app."
    return _PAGE.format(
        lead=lead,
        json=html.escape(f"{base}/json"),
        text=html.escape(f"{base}/text"),
        headers="".join(f"<th scope=col>{name}</th>" for name in _HEADERS),
        rows="".join(_table_row(row, most) for row in rows),
        total=_table_row(total, Row("")),
    )


def _table_row(row: Row, most: Row) -> str:
    route, exchanges, departures, seconds, muted, orphans, saved = map(html.escape, _cells(row))
    cells = [
        f"{route}<small>{html.escape(_phases(row))}</small>",
        exchanges,
        departures + _bar(row.departures, most.departures, "departures"),
        seconds + _bar(row.seconds, most.seconds, "wasted seconds"),
        muted + _bar(row.bytes, most.bytes, "muted bytes"),
        orphans,
        saved,
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _bar(value: float, most: float, what: str) -> str:
    """As wide as `value` is to the largest of its column."""
    return (
        f'<span class="bar" title="{what}" style="width: {100 * value / most:.1f}%"></span>' if value and most else ""
    )


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that shows the figures of the process that answers: to be mounted at a path of its own.

    The page at that path, JSON at `/json` below it and the text at `/text`. It names the app's routes: mount it where
    only those come who may see them.
    """
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
        return
    if scope["type"] != "http":
        raise TypeError(f"summary.app answers HTTP, not {scope['type']!r}: mount it in an app")
    path = str(scope.get("path", "/")).rstrip("/")
    status, kind, body = 200, "text/html", ""
    if scope["method"] not in ("GET", "HEAD"):
        status, kind, body = 405, "text/plain", "GET alone is answered\n"
    elif path.endswith("/json"):
        kind, body = "application/json", json.dumps(figures())
    elif path.endswith("/text"):
        kind, body = "text/plain", text() + "\n"
    else:
        root = str(scope.get("root_path", "")).rstrip("/")
        body = page(path if path.startswith(root) else root + path)
    encoded = body.encode()
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"content-length", str(len(encoded)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else encoded})
