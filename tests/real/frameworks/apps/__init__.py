"""Run in the server's process: `frameworks.apps.X:app` is what a test has it serve; a path is `/APP/VARIANT/RUN`."""
