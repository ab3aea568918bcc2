"""Frameworks on real servers: the policies hold in handlers, streams and sockets; who stays loses nothing."""
