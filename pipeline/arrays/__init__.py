"""Provide tools for arrays of any subject: runs, hashes, sorted maps, sets of ids, mapped files."""
