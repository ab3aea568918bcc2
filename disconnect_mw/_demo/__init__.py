"""What `python -m disconnect_mw demo` shows: the same departures, without the middleware and with it."""
