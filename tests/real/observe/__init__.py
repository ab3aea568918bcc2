"""What a real server, a real library and a real browser make of `disconnect_mw.observe`."""
