"""Turn documents into sentences and links: stage `link`."""
