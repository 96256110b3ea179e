"""Give the text of templates that stand inside sentences; drop all others, and count them by name.

Goes in: wikitext. Comes out: wikitext without templates. `{{snd}}` becomes a dash, `{{lang|fr|mot}}`
becomes "mot", `{{convert|5|km|mi}}` becomes "5 km". A template that is not listed here shows no
running text as a rule (info boxes, notes, navigation), and goes with its arguments. One pass, inner
templates first; the time is linear.

The templates are those of English Wikipedia, by their names and by redirects to them
(https://en.wikipedia.org/wiki/Category:Inline_templates). What a template shows is simplified:
units are not converted, and "French: " before `{{lang-fr}}` is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest

# Stands where markup was removed: no link trail reaches over it, and words on both sides stay
# apart. A noncharacter of Unicode: no text holds it.
GAP = "\ufdd0"
# The same, but what stands on both sides belongs together: "''Car''s" reads "Cars".
SEAM = "\ufdd1"
_BRACES = re.compile(r"\{{2,}|\}{2,}")
_SEPARATORS = re.compile(r"\[\[|\]\]|\|")
_NAMED = re.compile(r"\s*([^=\[\]{}<>|\n]{0,40}?)\s*=")
_SPACES = re.compile(r"[\s_]+")
# Names that may be one of a disambiguation page.
_TEMPLATE_NAMES = re.compile(r"\{\{([^{}|]{0,60}?(?:dis|dab)[^{}|]{0,40})[|}]", re.IGNORECASE)
# Templates of disambiguation pages on English Wikipedia
# (https://en.wikipedia.org/wiki/Category:Disambiguation_message_boxes), in lower case.
DISAMBIGUATION = frozenset((
    "disambiguation", "disambig", "disamb", "dab", "disambiguation cleanup", "disambig cleanup",
    "dab cleanup", "disambiguation page", "disambig page", "geodis", "hndis", "hndis-cleanup",
    "human name disambiguation", "place name disambiguation", "airport disambiguation",
    "biology disambiguation", "call sign disambiguation", "caselaw disambiguation",
    "chinese title disambiguation", "church disambiguation", "county name disambiguation",
    "genus disambiguation", "hospital disambiguation", "letter disambiguation",
    "letter–number combination disambiguation", "letter-numbercombdisambig",
    "mathematical disambiguation", "mathdab", "military unit disambiguation", "mil-unit-dis",
    "music disambiguation", "number disambiguation", "numberdis", "opus number disambiguation",
    "phonetics disambiguation", "portal disambiguation", "road disambiguation", "roaddis",
    "school disambiguation", "schooldis", "species latin name disambiguation",
    "species latin name abbreviation disambiguation", "station disambiguation", "synagogue disambiguation",
    "taxonomic authority disambiguation", "taxonomy disambiguation", "wikipedia disambiguation",
    "template disambiguation",
))  # fmt: skip
# Deeper than any article; an argument is copied once for each level.
MAX_DEPTH = 40
# Between numbers of `convert`.
CONNECTORS = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "and": " and ", "and(-)": " and ", "or": " or ",
    "by": " by ", "x": " x ", "×": " × ", "+": " + ",
}  # fmt: skip
# Units that go on with a second number: {{convert|6|ft|2|in}}.
SMALLER_UNITS = {"ft": ("in",), "lb": ("oz",), "st": ("lb",), "mi": ("yd", "ft"), "yd": ("ft",)}
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arguments:
    """Hold the arguments of a template: those without a name in order, the others by name."""

    positional: list[str]
    named: dict[str, str]

    def __getitem__(self, number: int) -> str:
        """Return argument 1, 2, …; empty where it is not given."""
        if str(number) in self.named:
            return self.named[str(number)]
        return self.positional[number - 1] if number <= len(self.positional) else ""


Expand = Callable[[Arguments], str]


def expand_templates(text: str, dropped: Counter[str]) -> str:
    """Return the text with the text of templates in their places.

    Braces without a partner stay, and hide none that follows.

    Args:
        text: wikitext.
        dropped: gets the names of the templates that show no text.
    """
    # The text outside of templates, then the content of each template that is open.
    pieces: list[list[str]] = [[]]
    position = 0
    for run in _BRACES.finditer(text):
        pieces[-1].append(text[position : run.start()])
        position = run.end()
        pairs = (run.end() - run.start()) // 2
        if text[run.start()] == "{":
            # The third brace of a parameter goes with its pair.
            pieces += [[] for _ in range(pairs)]
            continue
        closed = min(pairs, len(pieces) - 1)
        for _ in range(closed):
            depth = len(pieces) - 1
            content = "".join(pieces.pop())
            pieces[-1].append(_shown(content, dropped) if depth <= MAX_DEPTH else GAP)
        if not closed:
            pieces[-1].append(run.group())
    pieces[-1].append(text[position:])

    # What was opened and never closed is text.
    return "{{".join("".join(parts) for parts in pieces)


def _shown(content: str, dropped: Counter[str]) -> str:
    """Return what a template shows, by the text between its braces."""
    first, _, rest = content.partition("|")
    # A function of the parser is named without its argument, which may be any text.
    name = template_name(first if first.lstrip()[:1] != "#" else first.partition(":")[0] + ":")
    function, colon, value = first.partition(":")
    if colon and function.strip().lower() in _FUNCTIONS:
        return f"{SEAM}{_FUNCTIONS[function.strip().lower()](value.strip())}{SEAM}"

    expand = TEMPLATES.get(name)
    if expand is None and name.startswith("lang-"):
        expand = _first
    if expand is None:
        dropped[name] += 1
        return GAP
    shown = expand(arguments_of(rest) if rest else Arguments([], {}))
    # Nothing shown keeps words apart like any template that is dropped.
    return f"{SEAM}{shown}{SEAM}" if shown else GAP


def template_name(text: str) -> str:
    """Return a template's name in lower case, with single spaces."""
    name = _SPACES.sub(" ", text.replace(GAP, "").replace(SEAM, "")).strip().lower()
    return name.removeprefix("template:").strip()


def arguments_of(text: str) -> Arguments:
    """Return the arguments between the pipes of a template; pipes inside links are text."""
    parts, start, depth = [], 0, 0
    for mark in _SEPARATORS.finditer(text):
        if mark.group() == "[[":
            depth += 1
        elif mark.group() == "]]":
            depth = max(depth - 1, 0)
        elif depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    parts.append(text[start:])

    arguments = Arguments([], {})
    for part in parts:
        name = _NAMED.match(part)
        if name:
            arguments.named[name.group(1).strip().lower()] = part[name.end() :].strip()
        else:
            arguments.positional.append(part.strip())
    return arguments


def is_disambiguation(wikitext: str) -> bool:
    """Say whether a page lists what a name may mean, by its templates or its switch."""
    if "__DISAMBIG__" in wikitext:
        return True
    names = (template_name(match.group(1)) for match in _TEMPLATE_NAMES.finditer(wikitext))
    return any(name in DISAMBIGUATION for name in names)


def constant(text: str) -> Expand:
    """Return a template that always shows the same text."""
    return lambda _arguments: text


def _first(arguments: Arguments) -> str:
    return arguments[1]


def _second(arguments: Arguments) -> str:
    return arguments[2]


def _last(arguments: Arguments) -> str:
    given = [value for value in arguments.positional if value]
    return given[-1] if given else ""


def _paragraph(arguments: Arguments) -> str:
    text = arguments[1] or arguments.named.get("text", "") or arguments.named.get("quote", "")
    return f"\n\n{text}\n\n" if text else ""


def _before(sign: str) -> Expand:
    return lambda arguments: f"{sign}{arguments[1]}"


def _nihongo(arguments: Arguments) -> str:
    return arguments[1] or arguments[3] or arguments[2]


def _fraction(arguments: Arguments) -> str:
    given = arguments.positional
    if len(given) == 1:
        return f"1/{given[0]}"
    if len(given) >= 3:
        return f"{given[0]} {given[1]}/{given[2]}"
    return "/".join(given)


def _convert(arguments: Arguments) -> str:
    """Return number and unit as they are given: `{{convert|5|to|7|km|mi}}` is "5 to 7 km"."""
    shown, unit = "", ""
    for value, following in zip_longest(
        arguments.positional, arguments.positional[1:], fillvalue=""
    ):
        is_number = value.lstrip("+-−±.")[:1].isdigit()
        if unit and not (is_number and following in SMALLER_UNITS.get(unit, ())):
            # What follows says into what to convert, and how exactly.
            break
        unit = ""
        if value in CONNECTORS:
            shown += CONNECTORS[value]
        elif is_number:
            shown += value if not shown or shown[-1] in " –" else f" {value}"
        else:
            shown += f" {value}"
            unit = value
    return shown.strip()


def _value(arguments: Arguments) -> str:
    unit = arguments.named.get("u", "") or arguments.named.get("ul", "")
    return f"{arguments[1]} {unit}".strip()


def _date(arguments: Arguments) -> str:
    """Return year, month and day in words: `{{birth date|1970|1|2}}` is "January 2, 1970"."""
    year, month, day = (arguments[number] for number in (1, 2, 3))
    if not month:
        return year
    name = MONTHS[int(month) - 1] if month.isdecimal() and 1 <= int(month) <= len(MONTHS) else month
    if not day:
        return f"{name} {year}"
    is_day_first = arguments.named.get("df", "") in ("y", "yes", "1")
    return (
        f"{day.lstrip('0')} {name} {year}" if is_day_first else f"{name} {day.lstrip('0')}, {year}"
    )


def _as_of(arguments: Arguments) -> str:
    if arguments.named.get("alt"):
        return arguments.named["alt"]
    word = "as of" if arguments.named.get("lc") else "As of"
    return f"{word} {_date(arguments)}"


def _ordinal(arguments: Arguments) -> str:
    number = arguments[1]
    is_teen = number[-2:] in ("11", "12", "13")
    ending = "th" if is_teen else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1:], "th")
    return f"{number}{ending}" if number else ""


def _link(title: str, shown: str) -> str:
    """Return a link, or the text alone where it holds a link already."""
    return shown if "[[" in title + shown else f"[[{title}|{shown}]]"


def _ship(prefix: str) -> Expand:
    """Return a template of ships, which is a link: `{{USS|Enterprise|CV-6}}`."""

    def shown(arguments: Arguments) -> str:
        name, number = arguments[1], arguments[2]
        if not name:
            return ""
        title = f"{prefix} {name} ({number})" if number else f"{prefix} {name}"
        return _link(title, f"{prefix} {name}")

    return shown


def _any_ship(arguments: Arguments) -> str:
    return _ship(arguments[1])(Arguments(arguments.positional[1:], {})) if arguments[1] else ""


def _sort_name(arguments: Arguments) -> str:
    name = f"{arguments[1]} {arguments[2]}".strip()
    if arguments.named.get("nolink"):
        return name
    target = arguments[3] or name
    return _link(target, name)


def _interlanguage(arguments: Arguments) -> str:
    return arguments.named.get("lt", "") or arguments[1]


def _joined(arguments: Arguments) -> str:
    return "".join(arguments.positional)


def _listed(arguments: Arguments) -> str:
    return ", ".join(value for value in arguments.positional if value)


def _family(expand: Expand, names: str) -> dict[str, Expand]:
    """Return one way to expand for several names, which bars separate."""
    return dict.fromkeys(names.split("|"), expand)


# By name in lower case.
TEMPLATES: dict[str, Expand] = {
    # Signs that cannot be typed, and spaces.
    **_family(
        constant(" – "), "snd|spnd|sndash|snds|spndash|spaced ndash|spaced en dash|spaced-ndash|dash"
    ),
    **_family(constant(" — "), "smd|spaced mdash|spaced em dash|spacedmdash"),
    **_family(constant("–"), "ndash|nsndns|en dash|endash|nbndash|nbnd|en-dash|ndsh"),
    **_family(constant("—"), "mdash|em dash|emdash|em-dash|msh"),
    **_family(
        constant(" "),
        "nbsp|space|spaces|nnbsp|thinsp|thin space|thinspace|hair space|hairsp|hsp|0|en space|"
        "em space|ensp|emsp|figure space|nb5|nb10|pad|gap|sp|indent|break|crlf|br",
    ),
    **_family(constant(" · "), "·|middot|dot|•|bull|bullet|\\|,"),
    **_family(constant("'"), "'|apostrophe|apos|`"),
    **_family(constant("'s"), "'s|`s"),
    **_family(constant('"'), "\"|' \"|\"'|'\""),
    # Entities: in wikitext the signs themselves would be markup.
    "=": constant("&#61;"),
    "!": constant("&#124;"),
    "(": constant("&#123;"),
    ")": constant("&#125;"),
    "((": constant("&#123;&#123;"),
    "))": constant("&#125;&#125;"),
    "pipe": constant("&#124;"),
    "asterisk": constant("&#42;"),
    "hash": constant("&#35;"),
    "minus": constant("−"),
    "plus": constant("+"),
    "times": constant("×"),
    "degree": constant("°"),
    **_family(constant("♯"), "music sharp|sharp"),
    **_family(constant("♭"), "flat"),
    "no.": constant("No. "),
    **_family(_before("No. "), "numero|abbr no."),
    # Text in another form or language.
    **_family(
        _first,
        "nowrap|nobr|nobreak|nwr|j|nobold|noitalic|normal|nobi|small|smaller|smalldiv|big|larger|"
        "resize-text|em|strong|bold|bolditalic|italic|italics|italics correction|ic|underline|"
        "strikethrough|smallcaps|sc|small caps|sc2|caps|allcaps|abbr|abbrv|abbreviation|"
        "tooltip|hover title|explain|sic|typo|not a typo|as written|proper name|notatypo|chem name|"
        "chem2|chem|mvar|math|var|samp|kbd|code|mono|tt|"
        "sub|nts|ntsh|number table sorting|sort2|sorted|visible anchor|vanchor|anchored|"
        "ill-wd|lang-en|nihongo2|nihongo3|nihongo foot|nihongo krt|mongolunicode|unicode|"
        "flag|flagcountry|flagu|flagd|flag+link|"
        "wikt|wt|avoid wrap|nowrap begin|"
        "no wrap|"
        "quote box inline|hlist item|zwnj text|gli|term|defn",
    ),
    **_family(_second, "lang|langx|color|colour|fontcolor|font color|background color|rtl-lang|"
        "script|script/hebrew|script/arabic|wiktionary|rtl|ltr-lang|bgcolor|text color"),  # fmt: skip
    **_family(
        _last,
        "transl|transliteration|translit|w|link|pl|wp|linktext|wikt-lang|sectionlink|section link|"
        "slink|sort|dts2|hs|lj|llink|ll|ifnotnull|wl|plainlink|srlink|lnl",
    ),
    **_family(_interlanguage, "ill|interlanguage link|iw|interlanguage link multi|illm|link-interwiki"),
    **_family(_nihongo, "nihongo|nihongo title|korean"),
    **_family(_joined, "zwj|joined|bracket|nobracket|angle bracket|angbr"),
    "sup": lambda arguments: f"<sup>{arguments[1]}</sup>",
    **_family(
        _paragraph,
        "quote|blockquote|cquote|quotation|bquote|rquote|quote box|quotebox|poem quote|poemquote|"
        "block quote|pull quote|centered pull quote|verse translation|poem|quote without source",
    ),
    **_family(
        _listed,
        "hlist|flatlist|plainlist|ubl|unbulleted list|csv|cslist|flat list|enum|"
        "comma separated entries",
    ),
    # Numbers, units and dates.
    **_family(_convert, "convert|cvt|conv|convertsp"),
    **_family(_value, "val|value"),
    **_family(_fraction, "frac|fraction|sfrac|fract|frac2|tfrac"),
    **_family(_ordinal, "ordinal|ordinal number|ord|th"),
    "formatnum": _first,
    **_family(_before("c. "), "circa|c.|ca.|circ"),
    **_family(_before("fl. "), "floruit|fl."),
    **_family(_before("r. "), "reign|r."),
    **_family(_before("b. "), "born|b."),
    **_family(_before("d. "), "died|d."),
    **_family(
        _date,
        "birth date|birth date and age|bda|dob|death date|death date and age|dda|start date|end date|"
        "start date and age|end date and age|date|film date|birth year|death year|"
        "birth-date|death-date|start-date|end-date|bya|birth year and age|"
        "release date|dts|date table sorting|launch date|datetime",
    ),
    **_family(_as_of, "as of|asof|since"),
    **_family(_before("US$"), "us$|usd|us dollar"),
    **_family(_before("$"), "$|dollar|aud|a$|cad|c$|nzd"),
    **_family(_before("£"), "gbp|£|pound|pound sterling|£sd"),
    **_family(_before("€"), "€|eur|euro"),
    **_family(_before("¥"), "¥|jpy|jpy¥|cny|yen"),
    **_family(_before("₹"), "inr|indian rupee|rupee|indianrupee"),
    **_family(_before("₱"), "php|₱"),
    # Names that are links.
    **{prefix.lower(): _ship(prefix) for prefix in (
        "USS", "HMS", "SS", "RMS", "HMAS", "HMCS", "HNLMS", "SMS", "USCGC", "USNS", "MV", "MS", "INS",
        "ORP", "HDMS", "HSwMS", "HNoMS", "RFA", "GTS", "USAT",
    )},
    "ship": _any_ship,
    **_family(_sort_name, "sortname|sort name"),
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "formatnum": str,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    "nowrap": str,
}
