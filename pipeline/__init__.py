"""The Beam side of TRELM: from a Wikidata dump and a corpus to Parquet tables."""

__version__ = "0.3.0.dev0"
