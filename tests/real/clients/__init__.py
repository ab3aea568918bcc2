"""Clients as the world has them: a browser, one behind a proxy, one that stalls, one that vanishes."""
