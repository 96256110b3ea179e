"""Score links against gold links."""
