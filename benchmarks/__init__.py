"""What the middleware costs: `python -m benchmarks`."""
