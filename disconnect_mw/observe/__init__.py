"""Integrations that tell of clients that left: logging, metrics, traces, a summary. None is imported unless used."""

from __future__ import annotations

from collections.abc import Callable

from .._observers import Departure, Observer
from .._options import check_function
from .._telling import OBSERVERS

__all__ = ["Departure", "Observer", "subscribe"]


def check_every_exchange(departure: Departure) -> None:
    """An observer that is there so that every exchange is checked for a disconnect."""


def subscribe(observer: Observer) -> Callable[[], None]:
    """Call `observer` with the `Departure` of each client that leaves before its app has sent its last message.

    It is called as soon as the disconnect is known, on the event loop of the exchange. If it returns a function, that
    is called with the `Exchange` when the app has ended. Both must be plain functions that return soon. What they raise
    is logged, and changes nothing.

    As long as there is an observer, every exchange is checked for a disconnect, as it is with a hook.

    Returns a function that ends this; of the departures until then it is told the ends all the same. Raises `TypeError`
    for what is no function of one argument.
    """
    if observer is None:
        raise TypeError("observer must be a function of one argument, the Departure, not None")
    check_function("observer", "the Departure", observer, is_async=False)
    OBSERVERS.append(observer)
    subscribed = [observer]

    def unsubscribe() -> None:
        if subscribed:  # a second call does nothing
            OBSERVERS.remove(subscribed.pop())

    return unsubscribe
