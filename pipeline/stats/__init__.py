"""Stage `stats`: links become frequencies, co-occurrence, supported facts and the tail's summary."""
