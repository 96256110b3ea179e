"""Stage `shards`: everything together becomes training examples and knowledge."""
