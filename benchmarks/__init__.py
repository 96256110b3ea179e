"""Measurements beside peers: `python -m benchmarks.NAME [--quick]` prints one JSON object per case."""
