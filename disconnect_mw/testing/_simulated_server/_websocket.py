"""The simulated server of a WebSocket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._behaviour import CLIENTS_CODE, NOTHING_MORE, Answers, Code, Outcome, Raises, WebSocketServerBehaviour
from .._clients import WebSocketClient
from ._base import NO_MESSAGE, Message, SimulatedServer

__tracebackhide__ = True  # pytest leaves the frames of this module out


class WebSocketSimulatedServer(SimulatedServer):
    """Stands in for a server on one WebSocket.

    `incoming` replaces the `websocket.connect` that opens it. The client's own messages come once the app has accepted.
    """

    _WAYS_TO_LEAVE = ("fin", "rst", "half", "close")

    def __init__(
        self,
        behaviour: WebSocketServerBehaviour | None = None,
        incoming: Iterable[Message] | None = None,
        client: WebSocketClient | None = None,
    ) -> None:
        self.behaviour: WebSocketServerBehaviour = WebSocketServerBehaviour() if behaviour is None else behaviour
        self.client: WebSocketClient = WebSocketClient() if client is None else client
        super().__init__([{"type": "websocket.connect"}] if incoming is None else incoming)
        self.is_accepted: bool = False
        self._left_before_accept = False
        self._disconnect_was_received = False
        self._is_refused = False
        self._receive_has_raised = False
        self._codes: list[Code] = []

    # Receiving

    def _check_readers(self) -> None:
        if self._readers and self.is_accepted and isinstance(self.behaviour.second_reader, Raises):
            raise self.behaviour.second_reader.make()

    def _next_message(self) -> Message:
        if self._incoming:
            is_dropped = self.has_left and self.behaviour.drops_unread
            if not is_dropped or self._incoming[0]["type"] == "websocket.connect":
                self.on_progress()
                return self._incoming.pop(0)
        if not self.is_accepted and (self._left_before_accept or self.has_ended):
            if self.behaviour.receive_before_accept == "connect":
                return {"type": "websocket.connect"}
            if self.behaviour.receive_before_accept == "waits" and not self._is_refused:
                return NO_MESSAGE
        return self._next_disconnect() if self.has_left or self.has_ended else NO_MESSAGE

    def _next_disconnect(self) -> Message:
        if not self._codes:
            if isinstance(self.behaviour.then, Raises):
                self._receive_has_raised = True
                raise self.behaviour.then.make()
            return NO_MESSAGE
        code = self._codes[0]
        if code == NOTHING_MORE:
            return NO_MESSAGE
        if len(self._codes) > 1 or self.behaviour.then != "repeats":
            del self._codes[0]
        self._disconnect_was_received = True
        message: dict[str, Any] = {"type": "websocket.disconnect"}
        if code == CLIENTS_CODE:
            message["code"] = 1000 if self.client.close_code is None else self.client.close_code
        elif code is not None:
            message["code"] = code
        if self.behaviour.gives_reason:
            message["reason"] = self.client.close_reason if code == CLIENTS_CODE else ""
        return message

    def _client_left(self) -> None:
        if self.has_ended:
            return
        behaviour = self.behaviour
        self._left_before_accept = not self.is_accepted
        codes = behaviour.codes_of_loss
        if self.left_by == "rst" and behaviour.codes_of_reset is not None:
            codes = behaviour.codes_of_reset
        if self.left_by == "close":
            codes = behaviour.codes_of_close
        elif self._left_before_accept and behaviour.codes_before_accept is not None:
            codes = behaviour.codes_before_accept
        self._codes = list(codes)

    # Sending

    def _message_taken(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.is_accepted = True
            self.deliver(*self.client.receives())
        elif kind == "websocket.close" or (
            kind == "websocket.http.response.body" and not message.get("more_body", False)
        ):
            self.has_ended = True
            self._is_refused = not self.is_accepted
            self._codes = list(self._codes_after_end(kind))
            self._wake_readers()

    def _codes_after_end(self, kind: str) -> tuple[Code, ...]:
        behaviour = self.behaviour
        codes: tuple[Code, ...] | None = None
        if kind == "websocket.http.response.body":
            codes = behaviour.codes_after_denial
        if codes is None and not self.is_accepted:
            codes = behaviour.codes_after_refusal
        return behaviour.codes_after_end if codes is None else codes

    def _take_after_leave(self, message: Message) -> Outcome:
        kind = message["type"]
        outcome = _outcome(self._answers_after_leave(), kind, self.is_accepted)
        if kind == "websocket.send" and not self._left_before_accept:
            self._sends_after_leave += 1
            if self._sends_after_leave <= self.behaviour.sends_until_noticed and not (
                self.left_by == "rst" or self._receive_has_raised
            ):
                return "silent"
            if isinstance(self.behaviour.then, Raises) and isinstance(outcome, Raises):
                self._codes.clear()  # once a send has failed, receive fails as well
        elif kind == "websocket.accept" and outcome == "silent":
            self.is_accepted = True
            self._wake_readers()
        elif kind == "websocket.close":
            self._close_after_leave()
        return outcome

    def _answers_after_leave(self) -> Answers:
        behaviour = self.behaviour
        if self._left_before_accept:
            return behaviour.before_accept
        if behaviour.unread_hides_disconnect and self._has_unread():
            return Answers()
        if self._disconnect_was_received and behaviour.received is not None:
            return behaviour.received
        return behaviour.closed if self.left_by == "close" and behaviour.closed is not None else behaviour.lost

    def _has_unread(self) -> bool:
        return any(message["type"] == "websocket.receive" for message in self._incoming)

    def _close_after_leave(self) -> None:
        code = self.behaviour.late_close_code
        if self.behaviour.late_refusal_codes is not None and not self.is_accepted:
            if self.behaviour.receive_before_accept == "waits":
                self._codes = []
                self._is_refused = True
            self._codes += self.behaviour.late_refusal_codes
            self._wake_readers()
        elif code is not None:
            if self.behaviour.then != "repeats":
                self._codes.append(code)
            elif not self._left_before_accept:
                self._codes = [code]
            self._wake_readers()

    def _outcome_after_end(self, message: Message) -> Outcome:
        behaviour = self.behaviour
        if self.is_accepted or behaviour.after_refusal is None:
            return _outcome(behaviour.after_end, message["type"], is_accepted=True)
        return _outcome(behaviour.after_refusal, message["type"], is_accepted=False)

    def _send_failed(self) -> None:
        self._sends_after_leave = self.behaviour.sends_until_noticed

    def _still_delivers(self) -> bool:
        return super()._still_delivers() and not self._receive_has_raised

    def _has_content(self, message: Message) -> bool:
        return bool(message["type"] == "websocket.send")


def _outcome(answers: Answers, kind: str, is_accepted: bool) -> Outcome:
    if kind == "websocket.accept":
        return answers.accept
    if kind == "websocket.send":
        return answers.send
    if kind == "websocket.http.response.start":
        return answers.denial_start
    if kind == "websocket.http.response.body":
        return answers.denial_body
    return answers.close if is_accepted else answers.refuse
