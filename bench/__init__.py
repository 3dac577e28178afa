"""Benchmarks against real servers, beside what one would use without the replicator: `python -m bench`."""
