"""Show the totals of a corpus as text."""

from __future__ import annotations

from typing import Any


def format_totals(totals: dict[str, Any], out: str) -> str:
    """Return the totals as a few lines for the terminal."""
    lines = [
        f"{out}: {totals['documents']:,} documents, {totals['words']:,} words, "
        f"{totals['general_words']:,} of them general text",
        f"sentences  {totals['sentences']:,}: {totals['sentences_with_fact']:,} with a fact "
        f"({totals['corrupted_facts']:,} with a wrong tail), {totals['distractors']:,} distractors",
        f"links      {totals['links']:,} ({totals['corrupted_links']:,} wrong) to "
        f"{totals['entities']:,} entities, {totals['subjects']:,} of them subjects",
        f"facts      {totals['facts_stated']:,} stated",
    ]

    # Of both parts: a small corpus may have a class in one of them alone.
    kinds = list(dict.fromkeys(kind for counts in totals["probes"].values() for kind in counts))
    for kind in kinds:
        counts = [f"{part} {numbers.get(kind, 0):,}" for part, numbers in totals["probes"].items()]
        lines.append(f"probes     {kind:<16} {', '.join(counts)}")
    return "\n".join(lines)
