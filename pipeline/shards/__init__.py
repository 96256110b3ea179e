"""Turn all results into training examples and knowledge: stage `shards`."""
