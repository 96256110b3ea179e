"""Stage `kb`: a Wikidata dump becomes entities, aliases, properties, triples and redirects."""
