"""Metrics, loggers, progress and profiles of a run."""
