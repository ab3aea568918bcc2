"""Nothing is read of a body that the app has not asked for: no early `100 Continue`, and back-pressure as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .. import IS_FULL
from ..servers.clients import Client
from ..servers.server import Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its kernel does not tell how much a process holds")

MEGABYTE = bytes(1 << 20)
MEGABYTES_OF_ALL_BUFFERS = 16
"""Of the client's kernel, the server's, and the server."""

LEAST_MEGABYTES = 64
"""To upload: more than all buffers hold, and than the memory of an app that stays flat grows."""

MEGABYTES = {"uvicorn": 1024, "hypercorn": 128, "granian": 512, "gunicorn": 128} if IS_FULL else {}
"""A GiB where that takes seconds; h11 takes more."""

SETUPS = [
    Setup("uvicorn", INSTALLED, "uvloop", "httptools", "websockets"),
    Setup("hypercorn", INSTALLED, "asyncio"),
    Setup("hypercorn", INSTALLED, "trio"),
    Setup("granian", INSTALLED, "asyncio"),
    Setup("gunicorn", INSTALLED, "asyncio", worker="asgi"),
]
VARIANTS: tuple[str, ...] = ("mute", "raise", "cancel", "grace", "asked")
if not IS_FULL:  # Hypercorn on trio is as on asyncio, and whoever asks for more than `mute` asks for the same check
    SETUPS = [setup for setup in SETUPS if setup.loop != "trio"]
    VARIANTS = ("mute", "cancel")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    reason = why_not(request.param)
    if reason is not None:
        pytest.skip(f"{request.param} is NOT tested here: {reason}")
    with Server(sys.executable, request.param, "uploads.apps:app", (Path(__file__).parent,)) as server:
        yield server


class Uploader(Client):
    def says_until_it_blocks(self, megabytes: int) -> int:
        """How many bytes the server's side takes before it takes no more."""
        self._socket.settimeout(0.3)
        said = 0
        try:
            while said < megabytes << 20:
                said += self._socket.send(MEGABYTE)
        except TimeoutError:
            pass
        self._socket.settimeout(60)
        return said

    def says_nothing_but(self, count: int) -> None:
        while count:
            count -= self._socket.send(MEGABYTE[:count])


def server_and_variants(*servers: str) -> pytest.MarkDecorator:
    """All variants on uvicorn, and that which asks for most on the others."""
    cells = [
        pytest.param(setup, variant, id=f"{setup}-{variant}")
        for setup in SETUPS
        for variant in VARIANTS
        if setup.server in servers and (setup.server == "uvicorn" or variant == "cancel")
    ]
    return pytest.mark.parametrize(("server", "variant"), cells, indirect=["server"])


@server_and_variants("uvicorn", "hypercorn", "granian", "gunicorn")
def test_a_large_upload_to_an_app_that_reads_slowly_is_held_back(server: Server, variant: str) -> None:
    megabytes = MEGABYTES.get(server.setup.server, LEAST_MEGABYTES) if variant == "cancel" else LEAST_MEGABYTES
    visit = server.visit("slow", variant)
    with Uploader(server.port) as client:
        client.request(visit.path, b"", length=megabytes << 20)
        visit.until("waiting")
        said = client.says_until_it_blocks(megabytes)
        assert said < MEGABYTES_OF_ALL_BUFFERS << 20, "the server reads for nobody"
        visit.cue("read")
        client.says_nothing_but((megabytes << 20) - said)
        client.hear(b"\r\n\r\nok")
    outcome = visit.outcome()
    assert (outcome.seen, outcome.ends, outcome.errors) == (
        (f"{megabytes << 20} bytes", "memory stays flat"),
        ("returned",),
        (),
    )


@server_and_variants("uvicorn", "gunicorn")  # the others ask for it before they call the app
def test_the_client_is_asked_for_the_body_when_the_app_is(server: Server, variant: str) -> None:
    visit = server.visit("slow", variant)
    with Client(server.port) as client:
        client.say(
            f"POST {visit.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        visit.until("waiting")
        assert client.listen(0.2) and client.came == b""
        visit.cue("read")
        client.hear(b"HTTP/1.1 100")
        client.say(b"body")
        client.hear(b"\r\n\r\nok")


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("server", SETUPS, ids=str, indirect=True)
def test_a_client_that_leaves_after_its_late_upload_is_noticed_at_once(server: Server, how: str) -> None:
    """Not at the next look, up to a second later: somebody waits from the end of the body on."""
    visit = server.visit("late", "cancel")
    with Client(server.port) as client:
        client.request(visit.path, b"bo", length=4)
        visit.until("waiting")
        visit.cue("read")
        client.more(b"dy")
        visit.until("working")
        client.leave(how)
    outcome = visit.outcome()
    assert (outcome.seen, outcome.ends) == (("was cancelled",), ("returned",))


@pytest.mark.parametrize("variant", ["raise", "cancel"])
@pytest.mark.parametrize("body", [b"", b"read by nobody"])
@pytest.mark.parametrize("server", SETUPS, ids=str, indirect=True)
def test_an_app_that_answers_without_having_read_is_stopped(server: Server, variant: str, body: bytes) -> None:
    """By then no `100 Continue` is sent any more. Of a body that was sent, one message is read, or all of it."""
    visit = server.visit("answers", variant)
    with Client(server.port) as client:
        expects = b"" if body else b"Expect: 100-continue\r\n"
        head = f"POST {visit.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\n"
        client.say(head.encode(), expects, b"\r\n", body)
        visit.until("answering")
        client.hear(b"ended")
        begun = client.came.index(b"begun")
        assert b"100 Continue" not in client.came[begun:]
        client.leave("rst")
    word = {"raise": "ClientDisconnected", "cancel": "Cancelled" if server.setup.loop == "trio" else "CancelledError"}
    outcome = visit.outcome()
    assert (outcome.seen, outcome.ends) == ((f"stopped by {word[variant]}",), ("returned",))
