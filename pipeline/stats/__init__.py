"""Turn links into frequencies, co-occurrence, supported facts and the tail's summary: stage `stats`."""
