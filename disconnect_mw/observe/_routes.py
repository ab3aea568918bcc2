"""Bounds the routes that a label, or a table, has."""

from __future__ import annotations

from .._observers import NO_ROUTE
from .._telling import LOGGER

OTHER = "other"


class Routes:
    """The first `limit` routes by their names, all others as `"other"`, which is told once.

    Where no framework puts the route into the scope it is the path, which a client can make up. `advice` is what there
    is to do about it.
    """

    def __init__(self, limit: int, what: str, advice: str = "raise max_routes, or ") -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_routes must be a whole number of routes, not {limit!r}: pass an int")
        if limit < 0:
            raise ValueError(f'max_routes must be zero or more routes, not {limit!r}: with 0 all are "{OTHER}"')
        self._limit = limit
        self._what = what
        self._advice = advice
        self._named: set[str] = set()
        self._has_told = False

    def bounded(self, route: str) -> str:
        if route in self._named or route == NO_ROUTE:
            return route
        if len(self._named) < self._limit:
            self._named.add(route)
            return route
        if not self._has_told:
            self._has_told = True
            LOGGER.warning(
                '%s has %d routes, and all others from now on are "%s", beginning with %r: %suse a framework that puts '
                "the route into the scope (Starlette, FastAPI, Litestar)",
                self._what,
                self._limit,
                OTHER,
                route,
                self._advice,
            )
        return OTHER
