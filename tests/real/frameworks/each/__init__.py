"""Runs in the server's process: the app of each framework, one file each, with all that the situations ask for."""
