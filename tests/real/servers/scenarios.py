"""The scenarios: an app, what its client does, and the expected outcome.

The expected outcome is the same literal for every server. `limits` has those that a server cannot show, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .clients import Client, WebSocketClient
from .http2 import HTTP2Client
from .server import Outcome, Server, Visit
from .setups import RARE, Setup

Drive = Callable[[Visit], None]


HTTP1, HTTP2, WEBSOCKET = "HTTP/1.1", "HTTP/2", "WebSocket"


_SENDS_ON = ("streams", "stream", "ws_ticks")
"""Apps that send until they are stopped: the departures that are played on a server that cancels by itself."""


@dataclass(frozen=True)
class Scenario:
    name: str
    app: str
    variant: str
    drive: Drive = field(repr=False)
    expected: Outcome
    ends: int = 1
    protocol: str = HTTP1
    compares_info_lines: bool = True  # False: the server may keep the disconnect unknown
    complains: bool = False  # the server complains of the app's mistake, in its own words
    is_of_starlette: bool = False
    needs_impatience: bool = False  # of the set-up

    @property
    def how(self) -> str:
        """How the client leaves."""
        return self.name.split(", ")[-2]

    def suits(self, setup: Setup) -> bool:
        """Whether it is played with this set-up."""
        if setup.server in RARE and self.how != "stays" and self.app not in _SENDS_ON:
            return False
        return self.needs_impatience == setup.is_impatient and (self.protocol != HTTP2 or setup.speaks_http2)

    def play(self, server: Server, bare: bool = False) -> tuple[Outcome, str]:
        """Return the outcome, and the story to read if it is not the expected one; `bare` is without the middleware."""
        visit = server.visit(self.app, "bare" if bare else self.variant)
        self.drive(visit)
        outcome = visit.outcome(self.ends, 0 if self.complains else len(self.expected.errors))
        if bare or not self.compares_info_lines:
            outcome = replace(outcome, info_lines=self.expected.info_lines)
        if self.complains and outcome.errors and outcome.ends[0].startswith("raised "):
            outcome = replace(outcome, ends=("raised",), errors=("a complaint",))
        return outcome, visit.story()


DISCONNECT = "receive: http.disconnect"
NO_PEEK = "peek: nothing"


def muted(*messages: str) -> tuple[str, ...]:
    return tuple(f"send {message}: None" for message in messages)


def raising(*messages: str) -> tuple[str, ...]:
    return tuple(f"send {message}: raises disconnect_mw.ClientDisconnected" for message in messages)


START, BODY = "http.response.start", "http.response.body"
SENDS = {"mute": muted, "raise": raising}


def http_end(policy: str, *before: str) -> Outcome:
    """Return the outcome of every HTTP probe that goes on: four disconnects, three sends, one more disconnect."""
    sends = SENDS[policy]
    return Outcome((*before, *[DISCONNECT] * 4, *sends(BODY, BODY, BODY), DISCONNECT))


WS_DISCONNECT = "receive: websocket.disconnect"
WS_SENDS = {"mute": muted, "raise": raising}


def ws_end(policy: str, *before: str) -> Outcome:
    sends = WS_SENDS[policy]
    return Outcome(
        (
            *before,
            *[WS_DISCONNECT] * 4,
            *sends("websocket.send", "websocket.send"),
            *muted("websocket.close", "websocket.close"),
            WS_DISCONNECT,
        )
    )


# Clients


CLIENTS = {HTTP1: Client, HTTP2: HTTP2Client}


def get(how: str, until: str = "streaming", hear: bytes = b"chunk", cue: bool = False, protocol: str = HTTP1) -> Drive:
    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path)
            visit.until(until)
            client.hear(hear)
            client.leave(how)
            if cue:
                visit.cue()
            if how == "half":
                client.hear_the_end()

    return drive


def post(
    how: str, until: str, *, chunked: bool = False, size: int = 1000, cue: bool = False, protocol: str = HTTP1
) -> Drive:
    """The client leaves in the middle of its upload."""

    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path, bytes(size), length=200_000, chunked=chunked)
            visit.until(until)
            client.leave(how)
            if cue:
                visit.cue()

    return drive


def second_of_two(how: str, protocol: str = HTTP1) -> Drive:
    """The client has the answer to its first request on the connection, and leaves during the second."""

    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.at("stays"), b"first")
            client.hear(b"\r\n\r\nfirstfirst")
            client.request(visit.path)
            visit.until("streaming")
            client.hear(b"chunk")
            client.leave(how)

    return drive


def pipelined(how: str) -> Drive:
    """The client sends two requests at once, and leaves during the second."""

    def drive(visit: Visit) -> None:
        with Client(visit.port) as client:
            host = "HTTP/1.1\r\nHost: localhost\r\n\r\n"
            client.say(f"GET {visit.at('stays')} {host}GET {visit.path} {host}".encode())
            visit.until("streaming")
            client.hear(b"chunk")
            client.leave(how)

    return drive


def one_of_two_streams(visit: Visit) -> None:
    """The client sends two requests on one connection, resets one, and gets the whole answer to the other."""
    with HTTP2Client(visit.port) as client:
        client.request(visit.at("lives_on"))
        client.hear(b"half")
        client.request(visit.path)
        visit.until("streaming")
        client.hear(b"chunk")
        client.leave("reset")
        visit.cue()
        client.hear(b"whole")


def does_not_read(how: str, protocol: str = HTTP1) -> Drive:
    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
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
            client.hear(b"HTTP/1.1 100")
            client.say(bytes(1000))
            visit.until("uploading")
            client.leave(how)

    return drive


def waits(answer: bytes, body: bytes | None = b"body", protocol: str = HTTP1) -> Drive:
    """The client stays."""

    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path, body)
            client.hear(answer)

    return drive


def waits_twice(answer: bytes, protocol: str = HTTP1) -> Drive:
    """The client stays, and sends another request on the same connection."""

    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path)
            client.hear(answer)
            visit.outcome()
            client.request(visit.at("stays"), b"second")
            client.hear(b"\r\n\r\nsecondsecond")

    return drive


def uploads_in_time(protocol: str = HTTP1) -> Drive:
    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path, bytes(1000), length=1500)
            visit.until("uploading")
            client.more(bytes(500))
            client.hear(b"1500 bytes")

    return drive


def waits_for_the_end(visit: Visit) -> None:
    with Client(visit.port) as client:
        client.say(f"GET {visit.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        client.hear_the_end()


def opened(how: str, queued: int = 0, cue: bool = False) -> Drive:
    """The client of a WebSocket leaves once that is open."""

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


def ws_does_not_read(how: str) -> Drive:
    def drive(visit: Visit) -> None:
        with WebSocketClient(visit.port) as client:
            client.ask(visit.path)
            client.hear(b"hello")
            visit.until("blocked")
            client.leave(how)

    return drive


def asked(how: str, cue: bool = False) -> Drive:
    """The client of a WebSocket leaves before the app accepts."""

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


def ws_waits_in_vain(visit: Visit) -> None:
    with WebSocketClient(visit.port) as client:
        client.ask(visit.path)
        client.hear(b"hello")
        visit.until("open")
        client.text(b"echo me")
        client.hear(b"\x81\x07echo me")
        client.hear(b"\x88\x02\x03\xe8")
        client.close_frame(1000)
        client.hear_the_end()


def _http(protocol: str, *, all_ways: tuple[str, ...], main_ways: tuple[str, ...]) -> Iterator[Scenario]:
    prefix = "h2 " if protocol == HTTP2 else ""

    def scenario(text: str, how: str, policy: str, app: str, drive: Drive, expected: Outcome, **more: Any) -> Scenario:
        return Scenario(f"{prefix}{text}, {how}, {policy}", app, policy, drive, expected, protocol=protocol, **more)

    def leaves(how: str, until: str = "streaming", hear: bytes = b"chunk", cue: bool = False) -> Drive:
        return get(how, until, hear, cue, protocol)

    def cuts(how: str, until: str, **more: Any) -> Drive:
        return post(how, until, protocol=protocol, **more)

    for policy in ("mute", "raise"):
        end = http_end(policy, DISCONNECT)
        started = http_end(policy, DISCONNECT, *SENDS[policy](START))
        before = http_end(policy, DISCONNECT, "the right spec_version", *SENDS[policy](START))
        twice = Outcome(end.seen, ("returned",) * 2)
        lets_out = Outcome((DISCONNECT, *SENDS[policy](BODY)))
        for how in all_ways:
            yield scenario("listener mid-stream", how, policy, "listen", leaves(how), end)
            yield scenario(
                "listener before the start", how, policy, "before_start", leaves(how, "reading", b""), before
            )
            yield scenario("sends first, reads later", how, policy, "send_only", leaves(how, cue=True), end)
            late = leaves(how, "waiting", b"", cue=True)
            yield scenario("reads nothing until then", how, policy, "reads_late", late, started)
            yield scenario("cut upload", how, policy, "upload", cuts(how, "uploading"), started)
            yield scenario(
                "two readers", how, policy, "two_readers", leaves(how), http_end(policy, DISCONNECT, DISCONNECT)
            )
            yield scenario("peeks", how, policy, "peeks", leaves(how, cue=True), end)
        for how in main_ways:
            yield scenario("a reader cancelled", how, policy, "cancelled_reader", leaves(how), end)
            unread = cuts(how, "waiting", size=60_000, cue=True)
            yield scenario("cut upload, unread", how, policy, "reads_late", unread, started)
            early = cuts(how, "streaming")
            yield scenario("cut upload, answered early", how, policy, "answers_during_upload", early, end)
            second = second_of_two(how, protocol)
            yield scenario("second request", how, policy, "listen", second, twice, ends=2)
            early = leaves(how, "reading", b"")
            yield scenario("returns early", how, policy, "returns_early", early, Outcome((DISCONNECT,)))
            yield scenario("lets it out", how, policy, "lets_out", leaves(how), lets_out)
            yield scenario("lets a group out", how, policy, "lets_a_group_out", leaves(how), lets_out)
            if protocol == HTTP1:
                chunked = cuts(how, "uploading", chunked=True)
                yield scenario("cut chunked upload", how, policy, "upload", chunked, started)
                yield scenario("cut upload, 100-continue", how, policy, "upload", expects_100(how), started)
                yield scenario("pipelined request", how, policy, "listen", pipelined(how), twice, ends=2)
        for how in main_ways:
            if how == "fin":  # a client that closes with unread bytes leaves by RST anyway
                continue
            blocked = http_end(policy, DISCONNECT, BACK)
            for text, app in (
                ("send blocked, then heard", "blocked_send"),
                ("send blocked, and heard", "blocked_send_heard"),
                ("send blocked, heard late", "blocked_send_alone"),
            ):
                yield scenario(text, how, policy, app, does_not_read(how, protocol), blocked)
        for bug, raised in BUGS:
            own = Outcome((DISCONNECT,), (f"raised {raised}",), errors=(raised,))
            yield scenario(f"{bug} of the app's own", "fin", policy, bug, leaves("fin"), own)
        if protocol == HTTP2:
            yield scenario("another stream lives on", "reset", policy, "listen", one_of_two_streams, twice, ends=2)
        answered = Outcome((f"send {START}: None", *[f"send {BODY}: None"] * 2), info_lines=0)
        both = waits(b"\r\n\r\nbodybody", protocol=protocol)
        yield scenario("client", "stays", policy, "stays", both, answered)
        yield scenario(
            "client asked after in vain",
            "stays",
            policy,
            "is_not_gone",
            waits(b"chunkchunkfinal", None, protocol),
            THERE,
        )
        uploaded = Outcome((NO_PEEK, *muted(START, BODY)), info_lines=0)
        yield scenario("upload in time", "stays", policy, "upload_in_time", uploads_in_time(protocol), uploaded)
        over = Outcome(("receive: http.request", *muted(START, BODY), *AFTER_THE_END), info_lines=0)
        yield scenario("after its end", "stays", policy, "after_its_end", waits(b"final", None, protocol), over)
        once_more = Outcome((*over.seen, *answered.seen), ("returned",) * 2, info_lines=0)
        drive = waits_twice(b"final", protocol)
        yield scenario("kept alive after its end", "stays", policy, "after_its_end", drive, once_more, ends=2)
        for app in ("sends_after_its_end", "sends_before_its_start", "sends_too_much"):
            if protocol == HTTP1:
                yield scenario(
                    app.replace("_", " "), "stays", policy, app, waits_for_the_end, COMPLAINT, complains=True
                )
    for how in main_ways:
        drive = leaves(how, cue=True)
        yield scenario("sends and never reads", how, "mute", "never_receives", drive, NEVER, compares_info_lines=False)
        beats = Outcome((DISCONNECT, "the heart beats"))
        yield scenario("tight loop", how, "mute", "tight_loop", leaves(how), beats)
        if protocol == HTTP1:
            drive = leaves(how)
            yield scenario(
                "goes on for long", how, "mute", "goes_on_for_long", drive, KILLED_HTTP, needs_impatience=True
            )


BACK = "the blocked send came back"
AFTER_THE_END = ("after the end: http.disconnect",) * 2
COMPLAINT = Outcome(("the server complains",), ("raised",), info_lines=0, errors=("a complaint",))
KILLED_HTTP = Outcome((DISCONNECT, "cancelled"), ("raised asyncio.CancelledError",))
KILLED_WEBSOCKET = replace(KILLED_HTTP, seen=(WS_DISCONNECT, "cancelled"))
THERE = Outcome(
    (
        "receive: http.request",
        *[NO_PEEK] * 2,
        *muted(START),
        NO_PEEK,
        *muted(BODY, BODY),
        NO_PEEK,
        *muted(BODY),
    ),
    info_lines=0,
)
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
        return Scenario(f"{text}, {how}, {policy}", app, policy, drive, expected, protocol=WEBSOCKET)

    for policy in ("raise", "mute"):
        sends = WS_SENDS[policy]
        known = ws_end(policy, WS_DISCONNECT)
        for how in ("fin", "rst", "half", "clean"):
            yield scenario("ws listener", how, policy, "ws_listen", opened(how), known)
            yield scenario(
                "ws two readers",
                how,
                policy,
                "ws_two_readers",
                opened(how),
                ws_end(policy, WS_DISCONNECT, WS_DISCONNECT),
            )
            yield scenario("ws queued messages", how, policy, "ws_queued", opened(how, queued=3, cue=True), known)
            yield scenario("ws returns", how, policy, "ws_returns", opened(how), Outcome((WS_DISCONNECT,)))
            lets_out = Outcome((WS_DISCONNECT, *sends("websocket.send")))
            yield scenario("ws lets it out", how, policy, "ws_lets_out", opened(how), lets_out)
            if policy == "raise":
                sent = ws_end(policy, *sends("websocket.send"), WS_DISCONNECT)
                yield scenario("ws sends, then reads", how, policy, "ws_send_only", opened(how, cue=True), sent)
                yield scenario("ws only ever sends", how, policy, "ws_only_ever_sends", opened(how), GREETED)
                yield scenario("ws sends while it reads", how, policy, "ws_sends_while_reading", opened(how), known)
        for how in ("fin", "rst", "half"):
            before = ws_end(policy, WS_DISCONNECT, *sends("websocket.accept"))
            yield scenario("ws before accept", how, policy, "ws_before_accept", asked(how), before)
            yield scenario(
                "ws returns before accept",
                how,
                policy,
                "ws_returns_before_accept",
                asked(how),
                Outcome((WS_DISCONNECT,)),
            )
            closes = Outcome((WS_DISCONNECT, *muted("websocket.close")))
            yield scenario("ws closes before accept", how, policy, "ws_closes_before_accept", asked(how), closes)
            if policy == "raise":
                late = ws_end(policy, *sends("websocket.send"), WS_DISCONNECT)
                yield scenario("ws accepts too late", how, policy, "ws_accepts_late", asked(how, cue=True), late)
        for bug, raised in BUGS:
            own = Outcome((WS_DISCONNECT,), (f"raised {raised}",), errors=(raised,))
            yield scenario(f"ws {bug} of the app's own", "rst", policy, f"ws_{bug}", opened("rst"), own)
        seen = ("receive: websocket.connect", *muted("websocket.accept"), "receive: websocket.receive")
        stayed = Outcome(
            (*seen, *muted("websocket.send", "websocket.close"), "too late: the server complains"), info_lines=0
        )
        yield scenario("ws client", "stays", policy, "ws_stays", ws_waits, stayed)
        in_vain = ("receive: websocket.connect", *muted("websocket.accept", "websocket.send"))
        in_vain += ("receive: websocket.receive", *muted("websocket.send", "websocket.close"))
        drive, outcome = ws_waits_in_vain, Outcome(in_vain, info_lines=0)
        yield scenario("ws client asked after in vain", "stays", policy, "ws_is_not_gone", drive, outcome)
        blocked = ws_end(policy, WS_DISCONNECT, BACK)
        for text, app in (("then", "ws_blocked_send"), ("and", "ws_blocked_send_heard")):
            yield scenario(f"ws send blocked, {text} heard", "rst", policy, app, ws_does_not_read("rst"), blocked)
    for how in ("fin", "rst"):
        killed = scenario("ws goes on for long", how, "raise", "ws_goes_on_for_long", opened(how), KILLED_WEBSOCKET)
        yield replace(killed, needs_impatience=True)


def _starlette(protocol: str, *, main_ways: tuple[str, ...], file_ways: tuple[str, ...]) -> Iterator[Scenario]:
    prefix = "h2 " if protocol == HTTP2 else ""
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
            protocol: str = protocol,
        ) -> Scenario:
            expected = Outcome(seen, (f"raised {ends}",), errors=(ends,)) if ends else Outcome(seen)
            name = f"{prefix}Starlette {text}, {how}, {variant}"
            # Where the app does not receive and `send` is silent, the middleware cannot know of the disconnect.
            asks = app not in ("slow", "bug", "missing_file", "polls_blindly")
            return Scenario(
                name, app, variant, drive, expected, protocol=protocol, compares_info_lines=asks, is_of_starlette=True
            )

        def leaves(
            how: str, until: str = "streaming", hear: bytes = b"chunk", cue: bool = False, protocol: str = protocol
        ) -> Drive:
            return get(how, until, hear, cue, protocol)

        for how in file_ways:
            yield scenario("file", how, "file", leaves(how, "sending", b" 200 "), background)
        for how in main_ways:
            ticks = leaves(how, hear=b"tick")
            yield scenario("endless stream", how, "stream", ticks, "the generator stopped", background)
            yield scenario("cut body()", how, "body", post(how, "uploading", protocol=protocol), "ClientDisconnect")
            if is_inside:
                polls = leaves(how, "polling", b"", cue=True)
                yield scenario("is_disconnected() unheard", how, "polls_blindly", polls, background)
            else:
                seen = ("disconnected: False", "disconnected: True", background)
                yield scenario("is_disconnected()", how, "polls", leaves(how, "polling", b""), *seen)
            working = leaves(how, "working", b"", cue=True)
            yield scenario("slow answer", how, "slow", working, "the work is done", background)
            yield scenario("own bug", how, "bug", working, ends="builtins.ValueError")
            yield scenario("missing file", how, "missing_file", working, ends="builtins.RuntimeError")
            if protocol == HTTP1:
                yield scenario("echo", how, "ws_echo", opened(how), protocol=WEBSOCKET)
                yield scenario("feed", how, "ws_feed", opened(how), "WebSocketDisconnect", protocol=WEBSOCKET)
        never = waits(b"[false,false,false,false,false]", None, protocol)
        there = scenario("is_disconnected() of a client that", "stays", "polls_in_vain", never)
        yield replace(there, expected=Outcome((), info_lines=0))


# Options that act on the disconnect, and the handler's view of its client


CANCELLED, CLEAN = "cancelled", "cleaned up"


def cleaned_up(*messages: str) -> Outcome:
    """The outcome of an app that is cancelled once: its clean-up awaits, and its sends are muted."""
    return Outcome((CANCELLED, *muted(*messages), CLEAN))


SENT = muted(START, BODY)
CLEANED_UP = cleaned_up(START, BODY)
STOPPED = cleaned_up(BODY)
LEARNED = Outcome((DISCONNECT, *SENT))
COMMITTED = Outcome(("committed, connected: False", CANCELLED, CLEAN))
IN_TIME = Outcome((*muted(BODY), CANCELLED, "in time", *muted(BODY), CLEAN))
FINISHED = Outcome((DISCONNECT, *muted(BODY, BODY), "the work is done"))
RAISED = Outcome((*raising(BODY, BODY), DISCONNECT))
DONE = Outcome((*SENT, "the work is done"), info_lines=0)
CONNECTED = "connected: True, None"
ANSWERED_TWICE = Outcome(
    (*[CONNECTED] * 3, "receive: http.request", *SENT, *muted(BODY), CONNECTED, *SENT, *muted(BODY)),
    ("returned",) * 2,
    info_lines=0,
)


def leaves_at_work(how: str, protocol: str, until: str = "working", hear: bytes = b"") -> Drive:
    """The client leaves after its whole upload."""

    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path, bytes(1000))
            visit.until(until)
            client.hear(hear)
            client.leave(how)

    return drive


def leaves_with_all(how: str, protocol: str) -> Drive:
    """The client leaves after the whole response."""

    def drive(visit: Visit) -> None:
        with CLIENTS[protocol](visit.port) as client:
            client.request(visit.path)
            client.hear(b"final")
            client.leave(how)

    return drive


Make = Callable[..., Scenario]


def _maker(protocol: str) -> Make:
    prefix = "h2 " if protocol == HTTP2 else ""

    def make(text: str, how: str, variant: str, app: str, drive: Drive, expected: Outcome, **more: Any) -> Scenario:
        return Scenario(f"{prefix}{text}, {how}, {variant}", app, variant, drive, expected, protocol=protocol, **more)

    return make


def _cancelling(protocol: str, *, all_ways: tuple[str, ...], main_ways: tuple[str, ...]) -> Iterator[Scenario]:
    make = _maker(protocol)
    for how in all_ways:
        waiting, streaming = (get(how, *cue, protocol=protocol) for cue in (("waiting", b""), ("streaming", b"chunk")))
        yield make("waits", how, "cancel", "waits", waiting, CLEANED_UP)
        yield make("streams", how, "cancel", "streams", streaming, STOPPED)
    for how in main_ways:
        waiting, streaming = (get(how, *cue, protocol=protocol) for cue in (("waiting", b""), ("streaming", b"chunk")))
        unread = leaves_at_work(how, protocol, "streaming", b"chunk")
        cut = post(how, "uploading", protocol=protocol)
        yield make("streams and listens", how, "cancel", "streams_and_listens", streaming, STOPPED)
        yield make("streams, upload unread", how, "cancel", "streams", unread, STOPPED)
        yield make("works on an upload", how, "cancel", "works", leaves_at_work(how, protocol), CLEANED_UP)
        yield make("cut upload, and waits", how, "cancel", "reads_and_waits", cut, LEARNED)
        yield make("commits", how, "cancel", "commits", waiting, COMMITTED)
        yield make("sets its policy", how, "mute", "sets_its_policy", waiting, CLEANED_UP)
        yield make("waits", how, "policy-for", "waits", waiting, CLEANED_UP)
        yield make("listener mid-stream", how, "policy-for", "listen", streaming, http_end("mute", DISCONNECT))
        yield make("sends until told", how, "raise", "sends_until_told", streaming, RAISED)
        if protocol == HTTP1:
            yield make("sends until it ends", how, "raise", "sends_until_it_ends", streaming, Outcome(SENT))
            yield make("sends until told, upload unread", how, "raise", "sends_until_told", unread, RAISED)
            finished = leaves_with_all(how, protocol)
            yield make("works after its end", how, "cancel", "works_after_its_end", finished, DONE)
    for how, variant in zip(main_ways, ("grace", "cancel-grace"), strict=False):  # HTTP/2 has one main way
        streaming = get(how, protocol=protocol)
        yield make("goes on", how, variant, "goes_on", streaming, IN_TIME)
        yield make("finishes in time", how, variant, "finishes", streaming, FINISHED)


def _telling(protocol: str, *, ways: tuple[str, ...]) -> Iterator[Scenario]:
    make = _maker(protocol)
    for index, variant in enumerate(("mute", "hook", "async-hook", "raising-hook", "raising-async-hook")):

        def expected(app: str, phase: str, *after: str, method: str = "GET", variant: str = variant) -> Outcome:
            """Return the outcome: the lines of the hook and of the app, both with the record."""
            record = f"http {method} /{app}/{variant} from 127.0.0.1, {phase}, None, after some time"
            hook = (f"hook: {record}",) if "hook" in variant else ()
            ending = ("the hook has ended",) if "async" in variant else ()
            errors = ("builtins.ValueError",) if "raising" in variant else ()
            return Outcome((*hook, *ending, f"connected: False, gone: {record}", DISCONNECT, *after), errors=errors)

        for how in ways if variant == "mute" else (ways[index % len(ways)],):
            waiting, streaming = get(how, "waiting", b"", protocol=protocol), get(how, protocol=protocol)
            cut = post(how, "uploading", protocol=protocol)
            yield make(
                "waits for it", how, variant, "waits_for_it", waiting, expected("waits_for_it", "before the response")
            )
            if protocol == HTTP1 or variant == "mute":
                asked = expected("asks", "during the response", *muted(BODY, BODY))
                yield make("asks", how, variant, "asks", streaming, asked)
                asked = expected("waits_in_upload", "during the upload", method="POST")
                yield make("cut upload, waits for it", how, variant, "waits_in_upload", cut, asked)
            if variant == "mute":
                record = "http GET /asks_from_thread/mute from 127.0.0.1, before the response, None, after some time"
                asked = Outcome((f"in a thread: {record}", *SENT))
                yield make("asks from a thread", how, variant, "asks_from_thread", waiting, asked)
    for variant in ("mute", "cancel", "hook"):
        twice = waits_twice(b"\r\n\r\nchunkfinal", protocol)
        yield make("kept alive, asks", "stays", variant, "asks_of_one_that_stays", twice, ANSWERED_TWICE, ends=2)


def _acting_websocket() -> Iterator[Scenario]:
    make = _maker(WEBSOCKET)
    waited = cleaned_up("websocket.send")
    for how in ("fin", "rst", "half", "clean"):
        drive = opened(how)
        yield make("ws waits", how, "cancel", "ws_waits", drive, waited)
        yield make("ws ticks", how, "cancel", "ws_ticks", drive, waited)
        record = "websocket None /ws_waits_for_it/hook from 127.0.0.1, while open, a code, after some time"
        seen = f"hook: {record}", f"connected: False, gone: {record}", WS_DISCONNECT, *raising("websocket.send")
        yield make("ws waits for it", how, "hook", "ws_waits_for_it", drive, Outcome(seen))
    for how in ("fin", "rst"):
        drive = opened(how)
        learned = Outcome((WS_DISCONNECT, *muted("websocket.send")))
        yield make("ws reads and waits", how, "cancel", "ws_reads_and_waits", drive, learned)
        yield make("ws commits", how, "cancel", "ws_commits", drive, COMMITTED)
        record = "websocket None /ws_before_accept/hook from 127.0.0.1, before the handshake, a code, after some time"
        before = ws_end("raise", f"hook: {record}", WS_DISCONNECT, *raising("websocket.accept"))
        yield make("ws before accept", how, "hook", "ws_before_accept", asked(how), before)
    for how, variant in (("fin", "grace"), ("rst", "cancel-grace")):
        in_time = Outcome((CANCELLED, "in time", *muted("websocket.send"), CLEAN))
        yield make("ws goes on", how, variant, "ws_goes_on", opened(how), in_time)


def _acting_starlette(protocol: str, *, ways: tuple[str, ...]) -> Iterator[Scenario]:
    make = _maker(protocol)

    def scenario(text: str, how: str, variant: str, app: str, drive: Drive, *seen: str) -> Scenario:
        return make(f"Starlette {text}", how, variant, app, drive, Outcome(seen), is_of_starlette=True)

    background = "the background task ran"
    for how in ways:
        streaming, working = get(how, hear=b"tick", protocol=protocol), get(how, "working", b"", protocol=protocol)
        shielded = "the generator has ended", background
        yield scenario("shielded stream", how, "alone", "stream_to_its_end", streaming, *shielded)
        for variant in ("alone", "nested"):
            polling = get(how, "polling", b"", cue=True, protocol=protocol)
            seen = "disconnected: False", "disconnected: True", background
            yield scenario("polls now and then", how, variant, "polls_now_and_then", polling, *seen)
            yield scenario("sets its policy", how, variant, "sets_policy", working, CANCELLED, CLEAN)
        for variant in ("inside", "both"):
            yield scenario("sets its policy", how, variant, "sets_policy_behind", working, CLEAN)
        for variant in ("cancel-alone", "cancel-outermost", "cancel-innermost", "cancel-behind"):
            if variant == "cancel-behind":
                yield scenario("endures", how, variant, "endures_behind", working, CLEAN)
            else:
                yield scenario("endures", how, variant, "endures", working, CANCELLED, CLEAN)
            yield scenario("stalls", how, variant, "stalls", streaming, "the generator stopped")


SCENARIOS = (
    *_http(HTTP1, all_ways=("fin", "rst", "half"), main_ways=("fin", "rst")),
    *_websocket(),
    *_starlette(HTTP1, main_ways=("fin", "rst"), file_ways=("rst", "half")),
    *_cancelling(HTTP1, all_ways=("fin", "rst", "half"), main_ways=("fin", "rst")),
    *_telling(HTTP1, ways=("fin", "rst")),
    *_acting_websocket(),
    *_acting_starlette(HTTP1, ways=("fin", "rst")),
    *_http(HTTP2, all_ways=("reset", "fin", "rst"), main_ways=("reset", "fin", "rst")),
    *_starlette(HTTP2, main_ways=("reset", "fin", "rst"), file_ways=("reset", "rst")),
    *_cancelling(HTTP2, all_ways=("reset", "fin", "rst"), main_ways=("reset",)),
    *_telling(HTTP2, ways=("reset",)),
    *_acting_starlette(HTTP2, ways=("reset",)),
)
