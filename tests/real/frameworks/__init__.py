"""Frameworks on real servers: each policy holds in handlers, streams and sockets, and a client that stays loses nothing."""
