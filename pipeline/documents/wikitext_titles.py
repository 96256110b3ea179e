"""Normalise titles as MediaWiki does, and find out which links lead to articles."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import unquote

_SPACES = re.compile(r"[ _\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\t\n]+")
_INVISIBLE = re.compile(r"[\u200e\u200f\u202a-\u202e]")
# A link with such a prefix shows no text where it stands.
HIDDEN = frozenset(("file", "image", "category"))
# Namespaces of the English Wikipedia with their short forms, and prefixes of other wikis.
ELSEWHERE = frozenset(
    (
        "media|special|talk|user|user talk|wikipedia|wikipedia talk|project|project talk|"
        "file talk|image talk|mediawiki|mediawiki talk|template|template talk|help|help talk|"
        "category talk|portal|portal talk|book|book talk|draft|draft talk|education program|"
        "timedtext|timedtext talk|module|module talk|gadget|gadget definition|mos|wp|wt|wikt|"
        "wiktionary|wikisource|s|wikibooks|b|wikiquote|q|wikinews|n|wikiversity|v|voy|"
        "wikivoyage|commons|c|species|wikispecies|m|meta|d|wikidata|mw|w|phab|phabricator|"
        "bugzilla|foundation|wmf|doi|arxiv|rfc|pmid|iarchive"
    ).split("|")
)
# Codes of Wikipedias: [[fr:Paris]] is no text but a pointer to another language.
LANGUAGES = frozenset(
    (
        "aa ab af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv "
        "cy da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho "
        "hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku "
        "kv kw ky la lb lg li ln lo lt lv mg mh mi mk ml mn mr ms mt my na nb ne ng nl nn no nv "
        "ny oc om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq "
        "sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo "
        "xh yi yo za zh zu ace als ang arc arz ast azb bar bcl bpy ceb ckb cdo diq eml ext fur "
        "gan gom hak hif hsb ilo jbo kab lad lbe lez lij lmo mai mhr min mrj mwl myv mzn nah "
        "nap nds new nov pag pam pap pcd pfl pms pnb pnt rue scn sco simple stq szl tet tpi tum "
        "tyv udm vec vep vls vro war wuu xal xmf zea be-tarask be-x-old bat-smg cbk-zam fiu-vro "
        "map-bms nds-nl roa-rup roa-tara zh-classical zh-min-nan zh-yue"
    ).split()
)
PREFIXES = HIDDEN | ELSEWHERE | LANGUAGES
MAX_TITLE_BYTES = 255


def normalise_title(title: str) -> str:
    """Return one spelling per title.

    Underscores and runs of spaces become one space, and the first letter is in upper case.

    >>> normalise_title("_paris  in_Texas ")
    'Paris in Texas'
    """
    title = _SPACES.sub(" ", _INVISIBLE.sub("", title)).strip()
    initial = title[:1].upper()
    # Letters such as "ß" have no single capital: they stay small.
    return initial + title[1:] if len(initial) == 1 else title


def link_kind(target: str) -> str:
    """Return the kind of a link: hidden, elsewhere, or article.

    Links to files, categories and other languages are hidden.

    >>> targets = ("File:A.jpg", "fr:Paris", ":fr:Paris", "Help:Links", "2001: A Space Odyssey")
    >>> [link_kind(target) for target in targets]
    ['hidden', 'hidden', 'elsewhere', 'elsewhere', 'article']
    """
    # A colon in front makes a link of a file or a category visible.
    is_visible = target.lstrip().startswith(":")
    prefix, colon, _ = target.strip().removeprefix(":").partition(":")

    name = _SPACES.sub(" ", prefix).strip().lower()
    if not colon or name not in PREFIXES:
        return "article"
    return "elsewhere" if is_visible or name in ELSEWHERE else "hidden"


def link_target(target: str) -> str:
    """Return the title of the article that a link leads to.

    Empty if the link leads elsewhere: to a section of the same page, or to another wiki.

    >>> targets = ("paris#History", ":Paris", "#History", "Category:Cities", "2001: A Space")
    >>> [link_target(target) for target in targets]
    ['Paris', 'Paris', '', '', '2001: A Space']
    """
    if link_kind(target) != "article":
        return ""

    page = unquote(unescape(target)).partition("#")[0]
    title = normalise_title(page.strip().removeprefix(":"))
    # MediaWiki has no longer titles: such a link is a mistake of the page.
    is_possible = title and len(title.encode("utf-8", "replace")) <= MAX_TITLE_BYTES
    return title if is_possible else ""
