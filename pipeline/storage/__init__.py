"""Reading and writing: file systems, tables, work units, manifests."""
