"""Splittable readers: one file, any number of byte ranges, the same records.

A range (`Span`) of a plain, gz, bz2 or zst file becomes chunks of decoded bytes (`chunks`), and chunks become records:
lines (`lines`) or MediaWiki pages (`pages`). A record belongs to exactly one range, by written rules, so ranges can be
read anywhere, in any order.
"""

from pipeline.sources.chunks import LossHandler, SourceError, Span
from pipeline.sources.lines import read_lines
from pipeline.sources.pages import RawPage, parse_page, read_pages
from pipeline.sources.ranges import peek, plan_ranges

__all__ = [
    "LossHandler",
    "RawPage",
    "SourceError",
    "Span",
    "parse_page",
    "peek",
    "plan_ranges",
    "read_lines",
    "read_pages",
]
