"""`python -m disconnect_mw demo`: clients leave two uvicorn servers, one without the middleware and one with it."""
