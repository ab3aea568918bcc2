"""`disconnect-mw check`: what an app does when its clients leave, bare and with the middleware."""
