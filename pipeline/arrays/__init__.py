"""Tools for arrays, without a subject: runs, hashing, sorted maps, sets of items, memory-mapped files."""
