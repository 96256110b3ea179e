"""Measure the semantic importance of links: stage `importance`."""
