"""Every script of {start, chunk, final, receive, the client leaves}, on every manner of server.

The application goes through its script step by step. From the transcript of what it saw and of what reached the server
follows, at each step, what the promises say; see `check`.
"""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from disconnect_mw import ClientDisconnected, DisconnectMiddleware, _blocked_sends, _connection, _watcher
from disconnect_mw._options import Policy
from disconnect_mw.testing import Raises

from .real import IS_FULL
from .support.messages import CHUNK, DISCONNECT, EMPTY_FINAL, FINAL, START, START_499, http_scope
from .support.simulated_server import ALL_BEHAVIOURS, ServerBehaviour, SimulatedServer

MESSAGES = {"start": START, "chunk": CHUNK, "final": FINAL}

PIECE = ["start", "final"]
STEPS = ("start", "chunk", "final", "receive", "leave")


def is_an_app(script: tuple[str, ...]) -> bool:
    """Would a server take what this script sends? And the client leaves once at the most."""
    sends = [step for step in script if step in MESSAGES]
    ordered = not sends or sends[0] == "start"
    return ordered and sends.count("start") <= 1 and script.count("leave") <= 1


LONGEST = 6 if IS_FULL else 5
"""How many steps a script has at most."""

SCRIPTS = [
    script
    for length in range(1, LONGEST + 1)
    for script in itertools.product(STEPS, repeat=length)
    if is_an_app(script)
]


class Run:
    """One script, played by an application under the middleware."""

    def __init__(self, script: tuple[str, ...], behaviour: ServerBehaviour, policy: Policy) -> None:
        self.script = script
        self.policy = policy
        self.behaviour = behaviour
        self.server = SimulatedServer(behaviour)
        self.answers: list[Any] = []  # of receive, to whichever listener
        # Each step, its outcome, whether the disconnect was answered by then, how many messages had reached the server.
        self.seen: list[tuple[str, Any, bool, int]] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as tasks:
            for step in self.script:
                outcome: Any = None
                if step == "leave":
                    self.server.leave()
                elif step == "receive":
                    outcome = await self.answer(tasks, receive)
                else:
                    try:
                        await send(MESSAGES[step])
                    except Exception as exception:
                        outcome = exception
                self.seen.append((step, outcome, DISCONNECT in self.answers, len(self.server.sent)))
            tasks.cancel_scope.cancel()

    async def answer(self, tasks: anyio.abc.TaskGroup, receive: Any) -> Any:
        """What receive answers within a few turns; or nothing, and a listener goes on waiting."""
        answers: list[Any] = []

        async def listen() -> None:
            answers.append(await receive())
            self.answers.extend(answers)

        tasks.start_soon(listen)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return list(answers)


def check(run: Run) -> None:
    has_left = known = complete = False
    late_bytes = before = 0
    ends_late = False
    tells = run.behaviour.send != "silent"  # the server's send, of the departure: it raises, or never comes back
    complaint = run.behaviour.send_after_end.kind if isinstance(run.behaviour.send_after_end, Raises) else None
    accepted: list[Any] = []  # what the server took before the departure was known
    for step, outcome, answered, reached in run.seen:
        if step == "leave":
            has_left = True
        elif step == "receive":
            if known:
                assert outcome == [DISCONNECT], "P2: once it is known, every receive answers the disconnect"
            known = known or (answered and not complete)
        else:
            message = MESSAGES[step]
            is_muted, before = reached == before, reached
            if complete and not known:
                expected = None if ends_late else complaint
                assert (type(outcome) if outcome else None) is expected, "P3: after the end a send is the server's"
                continue
            late_bytes += len(message.get("body", b"")) if has_left else 0
            known = known or (has_left and is_muted)  # the watcher may know it before the app does
            is_told = has_left and tells
            # Once its buffer is full; before that, the last message, to see it empty.
            if run.behaviour.send == "blocks":
                is_told = late_bytes > 0 and (late_bytes >= run.behaviour.buffer_size or step == "final")
            if not known and not is_told:
                assert outcome is None
                accepted.append(message)
                assert run.server.sent[:reached] == accepted, "P0: while the client is there, just what the app sent"
                complete, ends_late = step == "final", has_left
            else:
                known = True
                if run.policy == "mute" or (step == "final" and outcome is None and run.behaviour.send == "blocks"):
                    assert outcome is None, "P1: a send after the departure is a no-op"
                else:
                    assert type(outcome) is ClientDisconnected
                    assert outcome.message == DISCONNECT
    if known:
        late, last = run.server.sent[len(accepted) :], EMPTY_FINAL
        if not accepted and run.policy == "mute" and [step for step, *_ in run.seen if step in MESSAGES] == PIECE:
            last = {**MESSAGES["final"], "more_body": False}
        assert not any(message.get("body") for message in late if message != last) or tells, (
            "P1 and P11: no payload reaches the server any more, but a response in one piece at the end"
        )
        if not tells:
            whole = run.server.sent
            assert whole[0] in (START, START_499), "P11: whoever stands outside sees a whole exchange"
            assert whole[-1] == last
            assert [m["type"] for m in whole].count("http.response.start") == 1
            assert [m for m in whole if m == last] == [last]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # uvloop is no other backend of the middleware
@pytest.mark.parametrize("policy", ["mute", "raise"])
@pytest.mark.parametrize("behaviour", ALL_BEHAVIOURS)
async def test_every_script_keeps_the_promises(
    behaviour: ServerBehaviour, policy: Policy, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(SCRIPTS) == {5: 465, 6: 1562}[LONGEST]
    if behaviour.false_disconnect and anyio_backend == "trio":
        return  # gunicorn does not run there, and a peek on trio cancels a receive, which it takes for a departure
    # A server that blocks for ever is waited for, again and again: not for as long as in earnest.
    if behaviour.send == "blocks":
        monkeypatch.setattr(_connection, "_SECONDS_TO_COMPLETE", 0.001)
        monkeypatch.setattr(_watcher.first_checks, "seconds", 0.001)
        monkeypatch.setattr(_blocked_sends.blocked, "seconds", 0.001)
    for script in SCRIPTS:
        if (
            behaviour.send == "blocks"
            and "final" in script
            and set(script[script.index("final") + 1 :]) & set(MESSAGES)
        ):
            continue  # P3: what the application sends after the end is the server's, be it for ever
        run = Run(script, behaviour, policy)
        with anyio.fail_after(5):
            await DisconnectMiddleware(run.app, policy=policy)(
                http_scope(http_version=behaviour.http_version), run.server.receive, run.server.send
            )
        try:
            check(run)
        except AssertionError as error:
            raise AssertionError(f"{' '.join(script)}: {run.seen} {run.server.sent}") from error
