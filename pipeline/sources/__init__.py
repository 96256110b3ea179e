"""Read a file by byte ranges: any number of ranges give the same records.

A range (`ByteRange`) of a plain, gz, bz2 or zst file becomes chunks of decoded bytes (`chunks`), and
chunks become records: lines (`lines`) or MediaWiki pages (`pages`). Each record belongs to exactly
one range, by rules that are written down in the modules. So ranges can be read anywhere, in any
order.
"""

from pipeline.sources.chunks import LossHandler, SourceError
from pipeline.sources.lines import read_lines
from pipeline.sources.pages import RawPage, parse_page, read_pages
from pipeline.sources.ranges import peek, plan_ranges

__all__ = [
    "LossHandler",
    "RawPage",
    "SourceError",
    "parse_page",
    "peek",
    "plan_ranges",
    "read_lines",
    "read_pages",
]
