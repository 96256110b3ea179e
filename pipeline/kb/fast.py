"""Open the scanner of entities where it is installed and worth its start.

A start costs 0.7 s of processor time per process, and 11 s once per machine, when numba compiles; a
scan saves 2.2 ms per MB of JSON. Each of the workers that begin together compiles.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import TYPE_CHECKING

from pipeline.kb.terms import label_languages

if TYPE_CHECKING:
    from pipeline.kb.entity_rows import KbRules
    from pipeline.kb.entity_scanner import EntityScanner

logger = logging.getLogger("trelm")

SMALLEST_RECORD = b'{"id":"Q1"}'
# Names of languages and wikis that the scanner can compare.
MAX_NAME_BYTES = 63
# Stored bytes of the dumps of a run: smaller ones would end before a scanner that must be compiled
# has paid for its start (1 GB of gz, 6 GB of JSON, saves 14 s).
SMALLEST_DUMPS = 1 << 30


def open_scanner(rules: KbRules) -> EntityScanner | None:
    """Return a scanner; None where numba is missing, or the rules need what no scan keeps."""
    if rules.statements or importlib.util.find_spec("numba") is None:
        return None
    languages = label_languages(rules.languages)
    # Longer names than any that Wikidata has are left to the decoder.
    if max(len(name.encode()) for name in (*languages, rules.wiki)) > MAX_NAME_BYTES:
        return None
    if not _works():
        return None
    from pipeline.kb.entity_scanner import EntityScanner

    return EntityScanner(languages, rules.wiki)


@cache
def _works() -> bool:
    """Try a scanner, which compiles it or reads what was compiled; once per process, and so is said why not.

    A numba that refuses this numpy, or a cache that is damaged or cannot be written, leaves dumps to the
    decoder.
    """
    try:
        from pipeline.kb.entity_scanner import EntityScanner

        EntityScanner(("en",), "enwiki").scan(SMALLEST_RECORD)
    except Exception as error:  # noqa: BLE001 - whatever a package that nobody needs may raise
        logger.warning(
            "kb: reads dumps without compiled code (%s: %s); it makes the same rows, slower",
            type(error).__name__,
            str(error).strip().partition("\n")[0],
        )
        return False
    return True
