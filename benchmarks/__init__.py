"""Measure TRELM beside its peers: `python -m benchmarks.NAME [--quick]` prints one JSON object per
case.
"""
