"""Turn names and entities into memory-mapped look-ups: stage `index`."""
