"""Stage `index`: names and entities become memory-mapped look-ups."""
