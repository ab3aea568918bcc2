"""The released test suites of other projects, with every app wrapped: by hand, `python -m tests.suites --help`."""
