"""DuckDB over a run: connections, named questions, answers, look-ups of the knowledge base."""
