"""Turn Wikidata dumps into entities, aliases, properties, triples and redirects: stage `kb`."""
