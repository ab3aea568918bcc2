"""Bounds the routes that a label, or a table, has."""

from __future__ import annotations

from .._telling import LOGGER

OTHER = "other"


class Routes:
    """The first `limit` routes by their names, all others as `"other"`, which is told once.

    Where no framework puts the route into the scope it is the path, which a client can make up.
    """

    def __init__(self, limit: int, what: str) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_routes must be a whole number of routes, not {limit!r}: pass an int")
        if limit < 0:
            raise ValueError(f'max_routes must be zero or more routes, not {limit!r}: with 0 all are "{OTHER}"')
        self._limit = limit
        self._what = what
        self._named: set[str] = set()
        self._has_told = False

    def bounded(self, route: str) -> str:
        if route in self._named:
            return route
        if len(self._named) < self._limit:
            self._named.add(route)
            return route
        if not self._has_told:
            self._has_told = True
            LOGGER.warning(
                '%s has %d routes, and all others from now on are "%s", beginning with %r: raise max_routes, or use '
                "a framework that puts the route into the scope (Starlette, FastAPI)",
                self._what,
                self._limit,
                OTHER,
                route,
            )
        return OTHER
