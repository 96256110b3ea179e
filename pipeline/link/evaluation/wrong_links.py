"""Say why links are wrong: every wrong link gets the first class that fits.

Pure. Goes in: gold and links of the same texts. A link is wrong if no gold mention has its span and
its item. Gold files that leave mentions out make right links look wrong: give gold in which every
mention is annotated, NIL included.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.index.entity_types import GROUP, LANGUAGE
from pipeline.link.evaluation.scores import Gold, ItemFacts, OverlapFinder, Prediction, SpanKey

# Checked in this order; the text of each says what it counts.
WRONG_LINKS = {
    "date": "only names of months and days of the week, numbers, and words such as century",
    "fuzzy": "linked as a misspelling of another name",
    "nationality": "the recogniser calls it a nationality or a language, or the item is one",
    "nil": "a gold mention that is NIL or not in the KB",
    "not_listed": "a gold mention whose item was no candidate",
    "wrong_candidate": "a gold mention whose item was a candidate",
    "part_of_name": "inside a longer gold mention",
    "boundary": "overlaps a gold mention in another way",
    "common_noun": "no gold mention; a word that the document has in lower case too",
    "no_gold": "no gold mention, none of the above",
}
_TIME_WORDS = frozenset(
    "january february march april may june july august september october november december jan feb "
    "mar apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday "
    "sunday mon tue wed thu fri sat sun spring summer autumn fall winter century decade year month "
    "week day today yesterday tomorrow morning evening night noon midnight early mid late am pm bc "
    "ad the of first second third one two three".split()
)
_WORD = re.compile(r"\w+")
_NATIONALITY_LABELS = ("NORP", "LANGUAGE")


def wrong_links(
    golds: Iterable[Gold],
    links: Mapping[SpanKey, Prediction],
    texts: Mapping[str, str],
    facts: ItemFacts,
) -> Iterator[tuple[SpanKey, str]]:
    """Yield every wrong link with its class.

    Args:
        golds: all gold mentions of the texts.
        links: of the same texts.
        texts: by document.
        facts: of the linked items.
    """
    by_key = {mention.key: mention for mention in golds}
    finder = OverlapFinder(by_key)
    lower_words: dict[str, set[str]] = {}
    for key, link in links.items():
        gold = by_key.get(key)
        if link.qid is None or (gold is not None and gold.qid == link.qid):
            continue
        doc_id = key[0]
        if doc_id not in lower_words:
            lower_words[doc_id] = {
                word for word in _WORD.findall(texts[doc_id]) if word[:1].islower()
            }
        cause = _cause_in_mention(link, facts)
        yield key, cause or _cause_in_gold(key, link, gold, finder, lower_words[doc_id])


def _cause_in_mention(link: Prediction, facts: ItemFacts) -> str | None:
    """Return the class that the mention and its item alone show, if any."""
    words = _WORD.findall(link.surface.lower())
    if words and all(word in _TIME_WORDS or word[0].isdigit() for word in words):
        return "date"
    if link.match == "fuzzy":
        return "fuzzy"
    types = facts.types.get(link.qid or 0, 0)
    is_group = bool(types) and not types & ~(GROUP | LANGUAGE)
    return "nationality" if link.ner_type in _NATIONALITY_LABELS or is_group else None


def _cause_in_gold(
    key: SpanKey,
    link: Prediction,
    gold: Gold | None,
    finder: OverlapFinder,
    lower_words: set[str],
) -> str:
    """Return the class that the gold around shows."""
    if gold is not None:
        if not gold.in_kb:
            return "nil"
        return "wrong_candidate" if gold.qid in link.candidates else "not_listed"

    overlapped = finder.overlapping(key)
    if overlapped is not None:
        is_inside = overlapped[1] <= key[1] and key[2] <= overlapped[2]
        return "part_of_name" if is_inside else "boundary"
    is_common = all(word.lower() in lower_words for word in _WORD.findall(link.surface))
    return "common_noun" if is_common else "no_gold"


def count_wrong_links(classes: Iterable[str], num_links: int) -> dict[str, Any]:
    """Count wrong links by class, with their share of all links.

    All classes appear, also those without a link, so that two runs compare.
    """
    counts = Counter(classes)
    return {
        name: {
            "count": counts[name],
            "share_of_links": round(counts[name] / num_links, 4) if num_links else None,
        }
        for name in WRONG_LINKS
    }
