"""Query a run with DuckDB: connections, questions, answers, look-ups of the knowledge base."""
