"""Logging: `install()` puts a `DisconnectFilter` onto the loggers of servers and frameworks."""

from ._filter import DisconnectFilter, install

__all__ = ["DisconnectFilter", "install"]
