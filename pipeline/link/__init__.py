"""Stage `link`: documents become sentences and links."""
