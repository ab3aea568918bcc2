"""What is told of clients that leave, to those who watch: `disconnect_mw.observe.logging`."""
