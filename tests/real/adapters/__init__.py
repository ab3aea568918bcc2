"""Adapters, which call an ASGI app in place of a server: Lambda, Azure Functions, WSGI servers, test clients.

None of them differs from the bare app while its client is there; most cannot even tell that it has left.
"""
