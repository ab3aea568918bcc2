"""What misbehaves, and what to do about it: in sentences for readers who have never heard of ASGI."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ._evidence import Advice, Departure, Finding, Logged, OnServer, Result, Side, Stay
from ._play import GROWTH
from ._routes import Route

_SERVER_LOGGERS = ("uvicorn", "hypercorn", "gunicorn", "daphne", "_granian", "granian", "asyncio", "websockets")
_FRAMEWORK_LOGGERS = ("django", "litestar", "falcon", "blacksheep", "quart", "mcp", "engineio", "root")
_FLOOD = 5
_LONG = 0.5
"""Seconds of work without a reader from which on they are worth a word."""

_OF_TIME = ("date", "time", "timing", "duration", "elapsed")
"""Parts of names of headers that are another at each moment."""


def judge(result: Result, server: OnServer, policy: object = None) -> None:
    """Set the findings of both sides, whether the answers are the same, and the advice.

    `policy` is the one that the check was told to wrap with.
    """
    result.bare_findings = find(result.route, result.bare)
    result.findings = find(result.route, result.wrapped)
    if result.needs_middleware:
        result.same = "without the middleware it cannot answer: it asks that for its client"
    else:
        result.is_same, result.same = compare(result.bare.stays, result.wrapped.stays)
    result.advice = [*_advise(result, server, policy)]


# What misbehaves


def find(route: Route, side: Side) -> list[Finding]:
    """Return what misbehaves on one side, each kind once, with the phases and ways of leaving that show it."""
    found: dict[tuple[str, str], Finding] = {}
    stay = next((one for one in side.stays if one.problem is None), side.stays[0] if side.stays else Stay())
    for departure in side.departures:
        for code, sentence, key in _faults(departure, stay):
            finding = found.setdefault((code, key), Finding(code, sentence))
            for name, names in ((departure.phase, finding.phases), (departure.way, finding.ways)):
                if name not in names:
                    names.append(name)
    memory = side.memory
    if memory is not None and memory.bytes_per_departure > GROWTH and not memory.grows_anyway:
        where = f", most of it allocated at {memory.place}" if memory.place else ""
        sentence = f"memory grows by {memory.bytes_per_departure / 1024:.1f} KiB for each client that leaves{where}"
        found["memory", ""] = Finding("memory", sentence, [memory.phase], ["FIN"])
    return [*found.values()]


def _faults(departure: Departure, stay: Stay) -> Iterator[tuple[str, str, str]]:
    """Yield a code, a sentence, and what tells it from others of that code."""
    if departure.lost == "blocked":
        yield "blocked", "the server answers nobody any more: the handler never lets the event loop come to a turn", ""
    elif departure.lost == "ended":
        yield "ended", "the server's process ends", ""
    if departure.not_played and not departure.lost:
        return
    yield from _faults_in_log(departure, stay)
    if departure.how is None and departure.lost is None:
        where = f" ({departure.place})" if departure.place else ""
        if departure.is_stubborn:
            yield "stubborn", f"the handler swallows its cancellation and goes on for ever{where}", ""
        elif stay.status is not None and not departure.in_thread:
            yield "endless", f"the handler does not end when its client leaves{where}", ""
    if len(departure.tasks) > stay.tasks and departure.how is not None:
        count = len(departure.tasks) - stay.tasks
        yield "tasks", f"{_count(count, 'task')} left running: {departure.tasks[0]}", ""
    if departure.connections > stay.connections and departure.how is not None:
        yield "pool", f"{_count(departure.connections, 'connection')} not given back to the database pool", ""
    if departure.is_half_taken:
        yield "half", f"half an upload is taken for the whole: it answers {departure.status}", "answer"
    if departure.phase == "upload":
        yield from _faults_in_files(departure, stay)


def _faults_in_files(departure: Departure, stay: Stay) -> Iterator[tuple[str, str, str]]:
    wholes: dict[tuple[Path, str], int] = {}
    for text, size in stay.files:
        wholes[_sort_of(text)] = max(size, wholes.get(_sort_of(text), 0))
    for text, size in departure.files:
        name, whole = Path(text).name, wholes.get(_sort_of(text))
        if whole is not None and size < whole:
            yield "half", f"half an upload is saved: {size} of {whole} bytes stay in a file such as {name}", "file"
        elif whole is None:
            yield "half", f"a file such as {name} is left behind by an upload that was cut", "file"


def _sort_of(path: str) -> tuple[Path, str]:
    """What files of one kind have in common: directory and suffix."""
    return Path(path).parent, Path(path).suffix


def _faults_in_log(departure: Departure, stay: Stay) -> Iterator[tuple[str, str, str]]:
    usual = {(one.logger, one.text) for one in stay.log}
    lines = [one for one in departure.log if (one.logger, one.text) not in usual and _is_trouble(one)]
    counts = Counter(one.exception or one.text for one in lines)
    for line in lines:
        words = line.exception or line.text
        count = counts.pop(words, 0)
        if not count:
            continue
        if count > _FLOOD:
            yield "flood", f'the log fills with "{_short(words)}", {count} times for one client', words
        elif line.exception is None:
            yield "line", f'{line.level} "{_short(words)}" in the log', words
        elif line.is_of_departure and line.logger.partition(".")[0] not in (*_SERVER_LOGGERS, *_FRAMEWORK_LOGGERS):
            where = f" at {line.place}" if line.place else ""
            yield "noise", f"the app itself logs a traceback for a client that has left{where}", _kind(words)
        elif line.is_of_departure:
            yield (
                "traceback",
                f'a traceback in the log that only says that the client left: "{_short(words)}"',
                _kind(words),
            )
        else:
            where = f" at {line.place}" if line.place else ""
            yield "bug", f'a bug that shows when a client leaves: "{_short(words)}"{where}', words


def _is_trouble(line: Logged) -> bool:
    """Whether it is one to be rid of. A warning of the app's own is as it wants it."""
    is_of_server = line.logger.partition(".")[0] in _SERVER_LOGGERS
    return line.exception is not None or line.level in ("ERROR", "CRITICAL") or is_of_server


def _kind(words: str) -> str:
    return words.partition(":")[0]


def _short(words: str, most: int = 90) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{' is' if number == 1 else 's are'}"


# Whether a client that stays notices anything


def compare(bare: list[Stay], wrapped: list[Stay]) -> tuple[bool | None, str]:
    """Return whether the answers are the same, or None where that cannot be told; and how it was found."""
    answered = [[one for one in side if one.problem is None] for side in (bare, wrapped)]
    if not answered[0] or not answered[1]:
        if not bare or not wrapped or not (answered[0] or answered[1]):
            return None, "no client got an answer"
        return (
            False,
            f"{'with' if answered[0] else 'without'} the middleware: {(wrapped if answered[0] else bare)[0].problem}",
        )
    ours, theirs = answered[1][0], answered[0][0]
    if ours.status != theirs.status:
        return False, f"{theirs.status} without the middleware, {ours.status} with it"
    # Those that vary on either side by themselves say nothing.
    varying = {
        name
        for side, first in zip(answered, (theirs, ours), strict=True)
        for one in side
        for name, _ in {*one.headers} ^ {*first.headers}
    } | {name for name, _ in (*theirs.headers, *ours.headers) if any(part in name.lower() for part in _OF_TIME)}
    kept = [[(name, value) for name, value in one.headers if name not in varying] for one in (theirs, ours)]
    if sorted(kept[0]) != sorted(kept[1]):
        name = next((name for name, _ in {*kept[0]} ^ {*kept[1]}), "set-cookie")  # one more of the same
        return False, f"the header {name!r} is not the same"
    if any(not _is_alike(theirs, one) for one in answered[0]) or any(not _is_alike(ours, one) for one in answered[1]):
        return None, "its answers differ from each other by themselves; status and headers are the same"
    if not _is_alike(theirs, ours):
        return False, "the body is not the same"
    if theirs.messages or ours.messages:
        return True, f"the same {min(len(theirs.messages), len(ours.messages))} messages"
    whole = "all" if theirs.is_whole and ours.is_whole else "the first"
    return True, f"{whole} {min(len(theirs.body), len(ours.body))} bytes are the same"


def _is_alike(one: Stay, other: Stay) -> bool:
    """Whether two answers are the same, as far as both have come."""
    count = min(len(one.messages), len(other.messages))
    if one.messages[:count] != other.messages[:count]:
        return False
    if one.is_whole and other.is_whole:
        return one.body == other.body
    length = min(len(one.body), len(other.body))
    return one.body[:length] == other.body[:length]


# What to do


def _advise(result: Result, server: OnServer, policy: object) -> Iterator[Advice]:
    gone = [one for one in result.bare_findings if one.code not in {other.code for other in result.findings}]
    if gone and not server.has_own:
        yield Advice(
            f"Without the middleware: {'; '.join(one.sentence for one in gone[:2])}.",
            f"{server.name} and the framework tell of a client that has left each in its own way; with the middleware "
            "there is one.",
            _line(server),
        )
    for finding in result.findings:
        happens = f"{finding.sentence[0].upper()}{finding.sentence[1:]}."
        why, line = _WHY[finding.code]
        if line == "cancel":
            line = _line(server, result.route, "cancel")
        yield Advice(happens, why, line, _place_in(finding.sentence))
    if result.findings:
        return
    played = [one for one in result.wrapped.departures if not one.not_played]
    seconds = max((one.seconds or 0.0 for one in played), default=0.0)
    if seconds <= _LONG and all(one.seconds is not None for one in played):
        return
    is_open = any(one.seconds is None for one in played)
    happens = f"The handler works on {'for long' if is_open else f'for {seconds:.1f} s'} for a client that has left"
    if policy == "cancel":
        yield Advice(
            f"{happens}, although it is to be cancelled.",
            "It waits for a thread, or lets the event loop come to no turn: neither can be cancelled. What runs in a "
            "thread can ask client.connected, or be stopped by a callback.",
            "with client.on_disconnect(…):  # what ends the thread's work",
        )
    else:
        yield Advice(
            f"{happens}.",
            'That is right where the work is to be done all the same ("finish" has it run to its end under every '
            'framework). Where it only serves that client, "cancel" ends it; but not what runs in a thread, which can '
            "ask client.connected, or be stopped by client.on_disconnect.",
            _line(server, result.route, "cancel"),
        )


_WHY: dict[str, tuple[str, str | None]] = {
    "traceback": (
        "Something logs the departure before the middleware can act on it.",
        "disconnect_mw.observe.logging.install()",
    ),
    "line": (
        "Something logs the departure before the middleware can act on it.",
        "disconnect_mw.observe.logging.install()",
    ),
    "noise": (
        "It catches more than failures: a departure ends a handler by asyncio.CancelledError, which is no Exception, "
        "or by the framework's word for it.",
        "except Exception:  # in place of BaseException or a bare except",
    ),
    "flood": ("Each message to a client that has left is a line of its own.", "cancel"),
    "bug": ("The app's own error is never hidden: it has to be mended where it is raised.", None),
    "endless": (
        "Nothing tells it that its reader has gone: it neither receives nor is cancelled. It holds its memory, its "
        "connections and its share of the processor until the server ends.",
        "cancel",
    ),
    "stubborn": (
        "Somewhere asyncio.CancelledError is caught and not raised again (except BaseException, a bare except, or "
        "contextlib.suppress). No policy, no time-out and no shutdown can end it then.",
        "except asyncio.CancelledError: raise",
    ),
    "tasks": (
        "A task that a handler starts does not end with it. Where the client leaves, the line that would have ended "
        "the task is never reached.",
        "async with asyncio.TaskGroup() as group: group.create_task(…)  # or task.cancel() in a finally",
    ),
    "pool": (
        "What gives the connection back is not reached, or is itself cancelled. After as many departures as the pool "
        "has connections, every request waits for one, and fails.",
        "async with disconnect_mw.connection(request).shield(), session: …",
    ),
    "half": (
        "An upload whose client leaves ends in a disconnect, and not in a last piece. A handler that takes the end of "
        "what came for the end of the body, or writes to the final place as it comes, keeps half of it. No middleware "
        "can undo that.",
        "except ClientDisconnect: temporary.unlink(); raise  # and os.replace() into its place when it is whole",
    ),
    "memory": (
        "Something keeps what belongs to the client that has left: a list, a cache, a callback, a reference cycle.",
        None,
    ),
    "blocked": (
        "After the departure its sends come back without waiting, and so nothing else in the process runs.",
        "await asyncio.sleep(0)  # in the loop",
    ),
    "ended": ("The process that serves all clients has ended with this one.", None),
}
"""Why it is so, and the line to write: "cancel" stands for the install with that policy for the route."""


def _line(server: OnServer, route: Route | None = None, policy: str = "") -> str:
    """The line to write, in the words of the app's framework."""
    option = ""
    if route is not None:
        pattern = re.sub(r"\{[^}]*\}", "*", route.template)
        name = "websocket_policy" if route.protocol == "websocket" else "policy_for"
        option = f'{name}="{policy}"' if route.protocol == "websocket" else f'{name}={{"{pattern}": "{policy}"}}'
    if server.has_own:
        return f"DisconnectMiddleware(…, {option})  # the install that the app has"
    after = f", {option}" if option else ""
    match server.facts.get("framework"):
        case "fastapi" | "starlette":
            return f"app.add_middleware(DisconnectMiddleware{after})"
        case "litestar":
            return f"Litestar(…, middleware=[DefineMiddleware(DisconnectMiddleware{after})])"
        case "quart":
            return f"app.asgi_app = DisconnectMiddleware(app.asgi_app{after})"
        case "django":
            return f"application = DisconnectMiddleware(get_asgi_application(){after})"
    return f"app = DisconnectMiddleware(app{after})"


def _place_in(sentence: str) -> str | None:
    found = re.search(r"[\w./\\-]+\.py:\d+(?:, in [\w<>]+)?", sentence)
    return found[0] if found else None
