"""What the farm costs, measured: `python -m tests.benchmarks --help`. Nothing here is a test."""
