"""Turn links into frequencies, co-occurrence, facts and the tail's summary: stage `stats`."""
