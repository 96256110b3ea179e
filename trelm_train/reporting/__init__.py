"""Report a run: metrics, loggers, progress and profiles."""
