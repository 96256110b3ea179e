"""Find other forms of a name: plural and singular, person and activity, adjective and noun.

So "rower" leads to "rowing". Goes in: a normalised key. Comes out: keys that may name the same
entity, 2 µs. Rules of English, applied to the last word; a wrong form costs one look-up, since only
listed keys count.
"""

from __future__ import annotations

from collections.abc import Iterator

# Letters that must be left of a word, one less for an ending of several letters.
MIN_STEM = 3
# Ending, then the endings that may replace it. The rules of a longer ending come before those of
# the endings within it.
PLURALS = (
    ("ies", ("y",)), ("ves", ("f", "fe")), ("men", ("man",)), ("es", ("", "is")), ("s", ("",)),
    ("i", ("us",)), ("a", ("um", "on")),
)  # fmt: skip
DERIVATIONS = (
    ("athlete", ("athlon",)),
    ("ists", ("ism", "y", "ics", "s", "istry", "")),
    ("ist", ("ism", "y", "ics", "s", "istry", "")),
    ("ians", ("y", "ia", "a", "ian")),
    ("ian", ("y", "ia", "a", "ians", "i", "")),
    ("ans", ("a", "an", "")),
    ("an", ("a", "ans", "", "anism", "ism")),
    ("ers", ("ing", "er", "")),
    ("er", ("ing", "", "e")),
    ("ical", ("y", "ics", "ic", "")),
    ("ics", ("ic",)),
    ("ic", ("y", "ics", "ism", "icism", "")),
    ("al", ("", "e", "ism", "alism")),
    ("ed", ("e", "", "ing", "ion")),
    ("ing", ("", "e")),
)
# Adjectives of countries and their peoples that no rule gives: a few of each ending.
DEMONYMS = {
    "afghan": "afghanistan", "argentine": "argentina", "azerbaijani": "azerbaijan",
    "bangladeshi": "bangladesh", "basque": "basque country", "belgian": "belgium", "belgians": "belgium",
    "beninese": "benin", "bosnian": "bosnia and herzegovina", "british": "united kingdom",
    "burmese": "myanmar", "catalan": "catalonia", "chinese": "china", "congolese": "congo",
    "cornish": "cornwall", "croat": "croatia", "cypriot": "cyprus", "czech": "czech republic",
    "dane": "denmark", "danes": "denmark", "danish": "denmark", "dutch": "netherlands",
    "emirati": "united arab emirates", "english": "england", "faroese": "faroe islands",
    "filipino": "philippines", "filipinos": "philippines", "finn": "finland", "finnish": "finland",
    "finns": "finland", "flemish": "flanders", "french": "france", "german": "germany",
    "germans": "germany", "greek": "greece", "greeks": "greece", "icelandic": "iceland", "iraqi": "iraq",
    "iraqis": "iraq", "irish": "ireland", "israeli": "israel", "israelis": "israel", "japanese": "japan",
    "kazakh": "kazakhstan", "kuwaiti": "kuwait", "kyrgyz": "kyrgyzstan", "lebanese": "lebanon",
    "luxembourgish": "luxembourg", "malagasy": "madagascar", "maltese": "malta", "manx": "isle of man",
    "monegasque": "monaco", "moroccan": "morocco", "moroccans": "morocco", "nepalese": "nepal",
    "nepali": "nepal", "norwegian": "norway", "omani": "oman", "pakistani": "pakistan",
    "pakistanis": "pakistan", "palestinian": "palestine", "palestinians": "palestine",
    "peruvian": "peru", "philippine": "philippines", "pole": "poland", "poles": "poland",
    "polish": "poland", "portuguese": "portugal", "qatari": "qatar", "saudi": "saudi arabia",
    "saudis": "saudi arabia", "scot": "scotland", "scots": "scotland", "scottish": "scotland",
    "senegalese": "senegal", "serb": "serbia", "serbs": "serbia", "slovak": "slovakia",
    "slovene": "slovenia", "somali": "somalia", "spaniard": "spain", "spaniards": "spain",
    "spanish": "spain", "sudanese": "sudan", "swede": "sweden", "swedes": "sweden", "swedish": "sweden",
    "swiss": "switzerland", "taiwanese": "taiwan", "tajik": "tajikistan", "thai": "thailand",
    "togolese": "togo", "turk": "turkey", "turkish": "turkey", "turkmen": "turkmenistan",
    "turks": "turkey", "ukrainian": "ukraine", "ukrainians": "ukraine", "uzbek": "uzbekistan",
    "vietnamese": "vietnam", "welsh": "wales", "yemeni": "yemen", "yemenis": "yemen",
}  # fmt: skip
ADDED = ("s", "ism")
DROPPED = (" player", " players", " language", " languages", " people")


def inflections(key: str) -> list[str]:
    """Return other forms of a key, likelier ones first, each once; not the key itself."""
    return [form for form in dict.fromkeys(_forms(key)) if form and form != key]


def plurals(key: str) -> list[str]:
    """Return only the singular forms of a plural."""
    return list(_rewritten(key, PLURALS))


def _forms(key: str) -> Iterator[str]:
    if key in DEMONYMS:
        yield DEMONYMS[key]
    yield from _rewritten(key, PLURALS)
    yield from _rewritten(key, DERIVATIONS)
    if not key.endswith("s"):
        yield from (f"{key}{ending}" for ending in ADDED)
    yield from (key[: -len(ending)] for ending in DROPPED if key.endswith(ending))


def _rewritten(key: str, rules: tuple[tuple[str, tuple[str, ...]], ...]) -> Iterator[str]:
    """Yield the key with the ending of its last word replaced, by each rule that fits."""
    start = key.rfind(" ") + 1
    for ending, replacements in rules:
        if key.endswith(ending) and len(key) - start - len(ending) >= MIN_STEM - (len(ending) > 1):
            stem = key[: -len(ending)]
            # A word in "ss" is no plural.
            if ending != "s" or not stem.endswith("s"):
                yield from (stem + replacement for replacement in replacements)
