"""Frameworks on real servers: each policy holds in a handler, in a stream, in a socket, and a client that stays loses nothing."""
