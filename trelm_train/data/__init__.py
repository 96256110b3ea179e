"""Turn shards into masked batches, in an order that a seed fixes."""
