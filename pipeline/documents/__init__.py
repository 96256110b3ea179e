"""Turn a corpus into documents and anchors: stages `titles` and `documents`."""
