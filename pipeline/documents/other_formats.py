"""Tell formats that are no corpus, and would pass as one text of markup or of signs.

Goes in: the beginning of a file, decompressed. Comes out: the name of a format in `OTHER_FORMATS`,
which says what the file is and what to do. A text that only looks a little like another format is a
text: it takes a magic, or a beginning that no prose has.
"""

from __future__ import annotations

import json
import re

from pipeline.sources.chunks import sniff

_AS_ROWS = (
    'write it as rows, for example with python -c "import duckdb; duckdb.sql(\\"COPY (FROM '
    "'{path}') TO 'corpus.parquet'\\\")\"; format = \"text\" reads it as one document"
)
_AS_TEXTS = 'write its texts as JSON Lines or as files of text; format = "text" reads it as it is'
_UNPACK = "unpack it, and give the files in it"
# What they are, and what to do.
OTHER_FORMATS = {
    "json-array": ("this is one JSON array, not an object per line", _AS_ROWS),
    "csv": ("this is a table in CSV, not text", _AS_ROWS),
    "wikiextractor": (
        "this is the output of WikiExtractor",
        "give the MediaWiki export itself, whose links are kept, or WikiExtractor's --json",
    ),
    "trec": ("this is a collection in TREC's format (<DOC>, <DOCNO>)", _AS_TEXTS),
    "doc-elements": ("these are <doc> elements, not text", _AS_TEXTS),
    "xml": ("this is XML, not text, and not a MediaWiki export", _AS_TEXTS),
    "rtf": ("this is RTF, not text", "save it as plain text"),
    "pdf": ("this is a PDF, not text", "extract its text, for example with pdftotext"),
    "warc": ("this is a web archive (WARC, or WET)", _AS_TEXTS),
    "mbox": ("this is a mailbox (mbox)", _AS_TEXTS),
    "sqlite": ("this is a database of SQLite", "export its table as Parquet or JSON Lines"),
    "arrow": ("this is a file of Arrow or Feather", "write it as Parquet"),
    "tar": ("this is a tar archive", _UNPACK),
    "packed": ("this is a compressed file inside a compressed one", _UNPACK),
    "utf-16": ("this is UTF-16 or UTF-32, not UTF-8", "convert it: iconv -f UTF-16 -t UTF-8"),
}

_TAR_MAGIC, _TAR_PLACE = b"ustar", 257
_MAGICS = {
    b"SQLite format 3\0": "sqlite",
    b"ARROW1": "arrow",
    b"FEA1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\0\0\xfe\xff": "utf-16",
}
_STARTS = {
    # Of a longer array no end is seen: an object or a string, and what may follow it.
    "json-array": re.compile(
        rb'\[\s*(?:\{\s*"|\{\s*\}\s*[,\]]|\[\s*"[^"\n]*"\s*,|"(?:[^"\\]|\\.)*+(?:"\s*,\s*"|\Z))',
        re.DOTALL,
    ),
    "wikiextractor": re.compile(rb"<doc\b[^<>]*\bid\s*="),
    "trec": re.compile(rb"<doc>\s*<docno>", re.IGNORECASE),
    "doc-elements": re.compile(rb"<doc\b[^<>]*>", re.IGNORECASE),
    "rtf": re.compile(rb"\{\\rtf"),
    "pdf": re.compile(rb"%PDF-\d"),
    "warc": re.compile(rb"WARC/[01]\.\d+\r?\n"),
    # The first line of a letter ends with its date, and its head follows.
    "mbox": re.compile(rb"From \S[^\n]*\b\d\d:\d\d[^\n]*\n>?[A-Za-z][\w-]*:"),
}
_CSV_NAME = re.compile(r"\.(?:csv|tsv)(?:\.(?:gz|bz2|zst))?$", re.IGNORECASE)
_COLUMN = re.compile(r"\w+")
_COMMENTS = re.compile(rb"(?:<!--.*?-->\s*|<!DOCTYPE\b[^<>\[\]]*>\s*)*", re.DOTALL)
_ROOT = re.compile(rb"<([A-Za-z_][\w.:-]*)((?:\s[^<>]*)?)>\s*(<?)")
# Texts, such as those in Markdown, may begin with an element of HTML.
_HTML = frozenset(
    b"a abbr article aside b big blockquote br center cite code dd del details div dl dt em font h1 "
    b"h2 h3 h4 h5 h6 header hr i img ins kbd li main mark nav ol p picture poem pre q s section small "
    b"span strike strong sub summary sup svg table tbody td th tr tt u ul var video".split()
)


def other_format(path: str, head: bytes, text_field: str, *, is_whole: bool) -> str:
    """Return the format of a file that is no corpus; empty for all others.

    Args:
        path: the file; its ending tells a table of CSV.
        head: its first bytes, decompressed, without a byte-order mark of UTF-8.
        text_field: the name of the column of texts, by which a table of CSV is known.
        is_whole: whether these are all its bytes.
    """
    found = _by_magic(head)
    if found:
        return found
    text = head.lstrip()
    found = next((name for name, pattern in _STARTS.items() if pattern.match(text)), "")
    if found:
        return found
    if text[:1] == b"[" and is_whole and _is_json(text):
        return "json-array"
    is_called_csv = bool(_CSV_NAME.search(path)) and text[:1] not in (b"{", b"<")
    if is_called_csv or _is_csv(text, text_field):
        return "csv"
    return "xml" if _is_xml(text) else ""


def _by_magic(head: bytes) -> str:
    if sniff(head + b"\0" * 8) != "plain":
        return "packed"
    if head[_TAR_PLACE : _TAR_PLACE + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return "tar"
    by_magic = next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "")
    if by_magic:
        return by_magic
    return "utf-16" if _is_utf_16(head) else ""


def _is_utf_16(head: bytes) -> bool:
    """Say whether bytes are UTF-16 of Latin letters: every second one is NUL, and no other."""
    halves = head[: len(head) & ~1]
    num_even, num_odd = halves[::2].count(0), halves[1::2].count(0)
    return len(halves) >= 4 and min(num_even, num_odd) == 0 and num_even + num_odd > len(halves) / 4


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_csv(text: bytes, text_field: str) -> bool:
    """Say whether a first line names columns, one of them that of the texts, and a second follows."""
    line, end, _ = text.partition(b"\n")
    separator = next((sign for sign in "\t;," if sign.encode() in line), "")
    if not end or not separator:
        return False
    names = [
        name.strip('"') for name in line.decode(errors="replace").rstrip("\r").split(separator)
    ]
    if not all(_COLUMN.fullmatch(name) or name == text_field for name in names):
        return False
    return text_field in names or "text" in map(str.lower, names)


def _is_xml(text: bytes) -> bool:
    """Say whether a text is XML without a declaration: its root holds elements, or all of it."""
    start = _COMMENTS.match(text)
    body = text[start.end() if start else 0 :]
    root = _ROOT.match(body)
    if root is None or root.group(1).lower() in _HTML:
        return False
    is_all = body.rstrip().endswith(b"</" + root.group(1) + b">")
    return bool(root.group(3)) or b"xmlns" in root.group(2) or is_all
