"""Stages `titles` and `documents`: a corpus becomes documents and anchors."""
