"""The scenarios: which app, what its client does, and what must come of it.

What is expected is one literal for every server. Where a server cannot give it, `LIMITS` says which, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .clients import Client, WebSocketClient
from .servers import Outcome, Server, Setup, Visit

Drive = Callable[[Visit], None]


@dataclass(frozen=True)
class Scenario:
    name: str
    app: str
    variant: str
    drive: Drive = field(repr=False)
    expected: Outcome
    ends: int = 1
    is_websocket: bool = False
    told_matters: bool = True  # False: whether the departure is known at all is up to the server
    complains: bool = False  # the app's mistake is heard, in whatever words of the server's

    @property
    def how(self) -> str:
        """How the client leaves."""
        return self.name.split(", ")[-2]

    def play(self, server: Server) -> tuple[Outcome, str]:
        """The outcome, and the story to read if it is not the expected one."""
        visit = server.visit(self.app, self.variant)
        self.drive(visit)
        outcome = visit.outcome(self.ends)
        if not self.told_matters:
            outcome = replace(outcome, told=self.expected.told)
        if self.complains and outcome.errors and outcome.ends[0].startswith("raised "):
            outcome = replace(outcome, ends=("raised",), errors=("a complaint",))
        return outcome, visit.story()


GONE = "receive: http.disconnect"
NO_PEEK = "peek: nothing"


def muted(*messages: str) -> list[str]:
    return [f"send {message}: None" for message in messages]


def raising(*messages: str) -> list[str]:
    return [f"send {message}: raises disconnect_mw.ClientDisconnected" for message in messages]


START, BODY = "http.response.start", "http.response.body"
SENDS = {"ignore": muted, "raise": raising}


def http_end(policy: str, *before: str) -> Outcome:
    """What every HTTP probe sees that asks for all it can: the disconnect, again and again, and its sends."""
    sends = SENDS[policy]
    return Outcome((*before, *[GONE] * 4, *sends(BODY, BODY, BODY), GONE))


WS_GONE = "receive: websocket.disconnect"
WS_SENDS = {"ignore": muted, "raise": raising}


def ws_end(policy: str, *before: str) -> Outcome:
    sends = WS_SENDS[policy]
    return Outcome(
        (
            *before,
            *[WS_GONE] * 4,
            *sends("websocket.send", "websocket.send"),
            *muted("websocket.close", "websocket.close"),
            WS_GONE,
        )
    )


# What clients do


def get(how: str, until: str = "streaming", hear: bytes = b"chunk", cue: bool = False) -> Drive:
    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            client.request(visit.path)
            visit.until(until)
            client.hear(hear)
            client.leave(how)
            if cue:
                visit.cue()
            if how == "half":
                client.hear_the_end()

    return drive


def post(how: str, until: str, *, chunked: bool = False, size: int = 1000, cue: bool = False) -> Drive:
    """Leave in the middle of an upload."""

    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            client.request(visit.path, bytes(size), length=200_000, chunked=chunked)
            visit.until(until)
            client.leave(how)
            if cue:
                visit.cue()

    return drive


def second_of_two(how: str) -> Drive:
    """The first request on the connection is answered in full, the client leaves during the second."""

    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            client.request(visit.at("stays"), b"first")
            client.hear(b"\r\n\r\nfirstfirst")
            client.request(visit.path)
            visit.until("streaming")
            client.hear(b"chunk")
            client.leave(how)

    return drive


def pipelined(how: str) -> Drive:
    """Both requests are there at once, the client leaves during the second."""

    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            host = "HTTP/1.1\r\nHost: localhost\r\n\r\n"
            client.say(f"GET {visit.at('stays')} {host}GET {visit.path} {host}".encode())
            visit.until("streaming")
            client.hear(b"chunk")
            client.leave(how)

    return drive


def does_not_read(how: str) -> Drive:
    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            client.request(visit.path)
            visit.until("blocked")
            client.leave(how)

    return drive


def expects_100(how: str) -> Drive:
    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            head = (
                f"POST {visit.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n"
            )
            client.say(head.encode())
            client.hear(b"100 Continue")
            client.say(bytes(1000))
            visit.until("uploading")
            client.leave(how)

    return drive


def waits(answer: bytes, body: bytes | None = b"body") -> Drive:
    """The client that stays."""

    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            client.request(visit.path, body)
            client.hear(answer)

    return drive


def waits_for_the_end(visit: Visit) -> None:
    with Client(visit.port) as client:
        client.request(visit.path)
        client.hear_the_end()


def opened(how: str, queued: int = 0, cue: bool = False) -> Drive:
    """A WebSocket whose client leaves once it is open."""

    def drive(visit: Visit) -> None:
        with WebSocketClient(visit.port) as client:
            client.ask(visit.path)
            client.hear(b"hello")
            visit.until("open")
            for _ in range(queued):
                client.text(b"queued")
            client.leave(how)
            if cue:
                visit.cue()
            if how in ("clean", "half"):
                client.hear_the_end()

    return drive


def asked(how: str, cue: bool = False) -> Drive:
    """A WebSocket whose client leaves before it is accepted."""

    def drive(visit: Visit) -> None:
        with WebSocketClient(visit.port) as client:
            client.ask(visit.path)
            visit.until("asked")
            client.leave(how)
            if cue:
                visit.cue()
            if how == "half":
                client.hear_the_end()

    return drive


def ws_waits(visit: Visit) -> None:
    with WebSocketClient(visit.port) as client:
        client.ask(visit.path)
        client.hear(b"\r\n\r\n")
        client.text(b"echo me")
        client.hear(b"\x81\x07echo me")
        client.hear(b"\x88\x02\x03\xe8")
        client.close_frame(1000)
        client.hear_the_end()


def _http() -> Iterator[Scenario]:
    for policy in ("ignore", "raise"):
        end = http_end(policy)
        started = http_end(policy, GONE, *SENDS[policy](START))
        version = f"spec_version at least 2.4: {policy == 'raise'}"
        before = (GONE, version, *SENDS[policy](START))

        def name(text: str, how: str, policy: str = policy) -> str:
            return f"{text}, {how}, {policy}"

        for how in ("fin", "rst", "half"):
            end = http_end(policy, GONE)
            yield Scenario(name("listener mid-stream", how), "listen", policy, get(how), end)
            yield Scenario(
                name("listener before the start", how),
                "before_start",
                policy,
                get(how, "reading", b""),
                http_end(policy, *before),
            )
            yield Scenario(name("sends first, reads later", how), "send_only", policy, get(how, cue=True), end)
            yield Scenario(
                name("reads nothing until then", how), "reads_late", policy, get(how, "waiting", b"", cue=True), started
            )
            yield Scenario(name("cut upload", how), "upload", policy, post(how, "uploading"), started)
            yield Scenario(name("two readers", how), "two_readers", policy, get(how), http_end(policy, GONE, GONE))
            yield Scenario(name("peeks", how), "peeks", policy, get(how, cue=True), end)
        for how in ("fin", "rst"):
            yield Scenario(name("a reader cancelled", how), "cancelled_reader", policy, get(how), end)
            yield Scenario(
                name("cut chunked upload", how), "upload", policy, post(how, "uploading", chunked=True), started
            )
            yield Scenario(name("cut upload, 100-continue", how), "upload", policy, expects_100(how), started)
            yield Scenario(
                name("cut upload, unread", how),
                "reads_late",
                policy,
                post(how, "waiting", size=100_000, cue=True),
                started,
            )
            yield Scenario(
                name("cut upload, answered early", how), "answers_during_upload", policy, post(how, "streaming"), end
            )
            yield Scenario(
                name("second request", how),
                "listen",
                policy,
                second_of_two(how),
                Outcome(end.seen, ("returned",) * 2),
                ends=2,
            )
            yield Scenario(
                name("pipelined request", how),
                "listen",
                policy,
                pipelined(how),
                Outcome(end.seen, ("returned",) * 2),
                ends=2,
            )
            yield Scenario(
                name("returns early", how), "returns_early", policy, get(how, "reading", b""), Outcome((GONE,))
            )
            lets_out = Outcome((GONE, *SENDS[policy](BODY)))
            yield Scenario(name("lets it out", how), "lets_out", policy, get(how), lets_out)
            yield Scenario(name("lets a group out", how), "lets_a_group_out", policy, get(how), lets_out)
            if policy == "ignore" and how == "rst":  # a client that closes with unread bytes leaves by RST anyway
                drive = does_not_read(how)
                yield Scenario(
                    name("send blocked", how),
                    "blocked_send",
                    policy,
                    drive,
                    http_end(policy, GONE, "the blocked send: None"),
                )
        for bug, raised in BUGS:
            own = Outcome((GONE,), (f"raised {raised}",), errors=(raised,))
            yield Scenario(name(f"{bug} of the app's own", "fin"), bug, policy, get("fin"), own)
    for how in ("fin", "rst"):
        yield Scenario(
            f"sends and never reads, {how}, ignore",
            "never_receives",
            "ignore",
            get(how, cue=True),
            NEVER,
            told_matters=False,
        )
        yield Scenario(
            f"tight loop, {how}, ignore", "tight_loop", "ignore", get(how), Outcome((GONE, "the heart beats"))
        )
    answered = Outcome((f"send {START}: None", *[f"send {BODY}: None"] * 2), told=0)
    for policy in ("ignore", "raise"):
        yield Scenario(f"client stays, {policy}", "stays", policy, waits(b"\r\n\r\nbodybody"), answered)
    for app in ("sends_after_its_end", "sends_before_its_start", "sends_too_much"):
        for policy in ("ignore", "raise"):
            heard = Outcome(("the server complains",), ("raised",), told=0, errors=("a complaint",))
            yield Scenario(f"{app.replace('_', ' ')}, {policy}", app, policy, waits_for_the_end, heard, complains=True)


NEVER = Outcome((*muted(START), *muted(BODY) * 22))
GREETED = Outcome(("receive: websocket.connect", *muted("websocket.accept", "websocket.send")))

BUGS = (
    ("bug_value", "builtins.ValueError"),
    ("bug_file", "builtins.FileNotFoundError"),
    ("bug_outbound", "builtins.ConnectionRefusedError"),
    ("bug_timeout", "builtins.TimeoutError"),
)


def _websocket() -> Iterator[Scenario]:
    def scenario(text: str, how: str, policy: str, app: str, drive: Drive, expected: Outcome) -> Scenario:
        return Scenario(f"{text}, {how}, {policy}", app, policy, drive, expected, is_websocket=True)

    for policy in ("raise", "ignore"):
        sends = WS_SENDS[policy]
        known = ws_end(policy, WS_GONE)
        for how in ("fin", "rst", "half", "clean"):
            yield scenario("ws listener", how, policy, "ws_listen", opened(how), known)
            yield scenario(
                "ws two readers", how, policy, "ws_two_readers", opened(how), ws_end(policy, WS_GONE, WS_GONE)
            )
            yield scenario("ws queued messages", how, policy, "ws_queued", opened(how, queued=3, cue=True), known)
            yield scenario("ws returns", how, policy, "ws_returns", opened(how), Outcome((WS_GONE,)))
            lets_out = Outcome((WS_GONE, *sends("websocket.send")))
            yield scenario("ws lets it out", how, policy, "ws_lets_out", opened(how), lets_out)
            if policy == "raise":
                sent = ws_end(policy, *sends("websocket.send"), WS_GONE)
                yield scenario("ws sends, then reads", how, policy, "ws_send_only", opened(how, cue=True), sent)
                yield scenario("ws only ever sends", how, policy, "ws_only_ever_sends", opened(how), GREETED)
                yield scenario("ws sends while it reads", how, policy, "ws_sends_while_reading", opened(how), known)
        for how in ("fin", "rst", "half"):
            before = ws_end(policy, WS_GONE, *sends("websocket.accept"))
            yield scenario("ws before accept", how, policy, "ws_before_accept", asked(how), before)
            yield scenario(
                "ws returns before accept", how, policy, "ws_returns_before_accept", asked(how), Outcome((WS_GONE,))
            )
            closes = Outcome((WS_GONE, *muted("websocket.close")))
            yield scenario("ws closes before accept", how, policy, "ws_closes_before_accept", asked(how), closes)
            if policy == "raise":
                late = ws_end(policy, *sends("websocket.send"), WS_GONE)
                yield scenario("ws accepts too late", how, policy, "ws_accepts_late", asked(how, cue=True), late)
        for bug, raised in BUGS:
            own = Outcome((WS_GONE,), (f"raised {raised}",), errors=(raised,))
            yield scenario(f"ws {bug} of the app's own", "rst", policy, f"ws_{bug}", opened("rst"), own)
        seen = ("receive: websocket.connect", *muted("websocket.accept"), "receive: websocket.receive")
        stayed = Outcome((*seen, *muted("websocket.send", "websocket.close"), "too late: the server complains"), told=0)
        yield scenario("ws client stays", "stays", policy, "ws_stays", ws_waits, stayed)


def _starlette() -> Iterator[Scenario]:
    background = "the background task ran"
    for variant in ("alone", "outside", "inside", "both", "around"):
        is_inside = variant in ("inside", "both", "around")  # a BaseHTTPMiddleware inside ours

        def scenario(
            text: str,
            how: str,
            app: str,
            drive: Drive,
            *seen: str,
            variant: str = variant,
            ends: str = "",
            ws: bool = False,
        ) -> Scenario:
            expected = Outcome(seen, (f"raised {ends}",), errors=(ends,)) if ends else Outcome(seen)
            name = f"Starlette {text}, {how}, {variant}"
            # An app that never asks, and whose sends the server takes in silence, leaves nobody who could know.
            asks = app not in ("slow", "bug", "missing_file", "polls_blindly")
            return Scenario(name, app, variant, drive, expected, is_websocket=ws, told_matters=asks)

        for how in ("rst", "half"):
            yield scenario("file", how, "file", get(how, "sending", b"200 OK"), background)
        for how in ("fin", "rst"):
            yield scenario("endless stream", how, "stream", get(how, hear=b"tick"), "the generator stopped", background)
            yield scenario("cut body()", how, "body", post(how, "uploading"), "ClientDisconnect")
            if is_inside:
                polls = get(how, "polling", b"", cue=True)
                yield scenario("is_disconnected() unheard", how, "polls_blindly", polls, background)
            else:
                seen = ("disconnected: False", "disconnected: True", background)
                yield scenario("is_disconnected()", how, "polls", get(how, "polling", b""), *seen)
            yield scenario(
                "slow answer", how, "slow", get(how, "working", b"", cue=True), "the work is done", background
            )
            own_bug = get(how, "working", b"", cue=True)
            yield scenario("own bug", how, "bug", own_bug, ends="builtins.ValueError")
            yield scenario("missing file", how, "missing_file", own_bug, ends="builtins.RuntimeError")
            yield scenario("echo", how, "ws_echo", opened(how), ws=True)
            yield scenario("feed", how, "ws_feed", opened(how), "WebSocketDisconnect", ws=True)


HTTP, WEBSOCKET, STARLETTE = tuple(_http()), tuple(_websocket()), tuple(_starlette())
SCENARIOS = HTTP + WEBSOCKET + STARLETTE


# What a server does not give


@dataclass(frozen=True)
class Limit:
    """Why a server cannot give what is expected, and what it may give instead; None: there is nothing to wait for."""

    reason: str
    allows: Callable[[Outcome, Outcome], bool] | None


def _is_silence(outcome: Outcome, expected: Outcome) -> bool:
    """The app went on sending for as long as it wanted to, and what it saw from then on was the same."""
    if outcome.seen == expected.seen[1:]:
        return replace(outcome, seen=expected.seen) == expected
    seen = (*expected.seen, "SILENCE") if expected.seen == GREETED.seen else ("SILENCE",)
    return outcome == Outcome(seen, told=0)


def _is_raised_outside(outcome: Outcome, expected: Outcome) -> bool:
    """What stood outside ours was told by the server's exception, and that ended everything, in silence."""
    return (
        outcome.seen == expected.seen[: len(outcome.seen)]
        and outcome.ends == ("raised uvicorn.ClientDisconnected",)
        and not outcome.errors
        and outcome.told <= 1
    )


def _is_raised_by_itself(outcome: Outcome, expected: Outcome) -> bool:
    """After the app's own error, which it logs, the server runs into its own: its 500 goes to the client that left."""
    own = expected.errors[0], "uvicorn.ClientDisconnected"
    return outcome == replace(expected, errors=own)


_SILENT = Limit("the server takes a lost client's websocket.send in silence (wsproto up to 0.34.3)", _is_silence)
_UNREPORTED = Limit("the server never reports a WebSocket that was lost by FIN (wsproto in 0.13.4)", None)
_RAISED_OUTSIDE = Limit("send raises in the middleware that stands outside ours (0.28.0)", _is_raised_outside)


_RAISED_BY_ITSELF = Limit("the server's own answer to an app's bug raises as well (0.28.0)", _is_raised_by_itself)


def limit_of(scenario: Scenario, setup: Setup, version: str) -> Limit | None:
    """What `scenario` cannot show on this server, if anything."""
    number = tuple(map(int, version.split(".")[:3]))
    if scenario.is_websocket and setup.ws == "wsproto" and number <= (0, 34, 3) and scenario.how != "clean":
        if scenario.app in ("ws_only_ever_sends", "ws_feed"):
            return _SILENT
        if number == (0, 13, 4) and scenario.how in ("fin", "half"):
            return _UNREPORTED
        if scenario.app == "ws_send_only":
            return _SILENT
    if number == (0, 28, 0) and scenario in STARLETTE and not scenario.is_websocket:
        if scenario.variant == "around":
            return _RAISED_BY_ITSELF if scenario.expected.errors else None
        # Whatever stands outside ours, Starlette's ServerErrorMiddleware always, sends to a server that raises.
        if scenario.variant in ("outside", "both") or scenario.app in ("bug", "missing_file", "body"):
            return _RAISED_OUTSIDE
    return None
