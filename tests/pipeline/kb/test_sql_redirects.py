"""SQL dumps to redirects, and titles to items through them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arrays.sorted_map import MAX_HOPS, sorted_map
from pipeline.documents.title_hashes import hash_titles, resolve_titles
from pipeline.kb.sql_redirects import (
    PAGE_COLUMNS,
    RedirectJoin,
    SqlRows,
    database_and_table,
    unquote,
)

CREATE = [
    b"-- Host: db1    Database: enwiki\n",
    b"CREATE TABLE `page` (\n",
    b"  `page_id` int(8) unsigned NOT NULL AUTO_INCREMENT,\n",
    b"  `page_namespace` int(11) NOT NULL,\n",
    b"  `page_title` varbinary(255) NOT NULL,\n",
    b"  `page_restrictions` tinyblob DEFAULT NULL,\n",
    b"  `page_is_redirect` tinyint(1) NOT NULL,\n",
    b"  `page_random` double NOT NULL,\n",
    b"  PRIMARY KEY (`page_id`)\n",
    b") ENGINE=InnoDB;\n",
]


def sql(text: bytes) -> bytes:
    """A quoted SQL string."""
    return b"'" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b'"', b'\\"') + b"'"


def feed(insert: bytes) -> list[list[bytes]]:
    """Rows of an INSERT into the page table."""
    rows = SqlRows("page", PAGE_COLUMNS)
    return [row for line in [*CREATE, insert] for row in rows.feed(line)]


def test_database_and_table() -> None:
    assert database_and_table(b"".join(CREATE)) == ("enwiki", "page")
    assert database_and_table(b"nothing") == ("", "")


@settings(max_examples=50, derandomize=True)
@given(titles=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5))
def test_any_title_survives_quoting(titles: list[str]) -> None:
    encoded = [title.encode("utf-8", "replace") for title in titles]
    rows = b",".join(
        b"(%d,0,%s,NULL,1,0.5e-3)" % (n, sql(title)) for n, title in enumerate(encoded)
    )
    found = feed(b"INSERT INTO `page` VALUES " + rows + b";\n")
    assert [unquote(row[2]) for row in found] == [
        title.decode().replace("_", " ") for title in encoded
    ]
    assert [row[0] for row in found] == [b"%d" % n for n in range(len(titles))]


@pytest.mark.parametrize(
    ("insert", "message"),
    [
        (b"INSERT INTO `page` VALUES (1,0,'A',NULL,1,0.5),(2,0,'B", "does not parse from its byte"),
        (b"INSERT INTO `page` VALUES (1,0,'A',NULL,1);\n", "does not parse"),
        (b"INSERT INTO `other` VALUES (1);\n", "does not start with"),
    ],
)
def test_rows_that_do_not_parse(insert: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feed(insert)


def test_wrong_table_and_missing_column() -> None:
    with pytest.raises(ValueError, match="'page', not 'redirect'"):
        list(SqlRows("redirect", ("rd_from",)).feed(CREATE[1]))
    with pytest.raises(ValueError, match="no column page_id"):
        list(SqlRows("page", PAGE_COLUMNS).feed(b"INSERT INTO `page` VALUES (1);\n"))


def test_join() -> None:
    join = RedirectJoin()
    rows = [
        (b"7", b"0", b"'Q_2'", b"''"),
        (b"3", b"0", b"'Q4'", b"NULL"),
        (b"4", b"4", b"'X'", b"''"),
        (b"5", b"0", b"'Y'", b"'de'"),
    ]
    assert [join.add_redirect(row) for row in rows] == [
        "rows_out",
        "rows_out",
        "skipped_namespace",
        "skipped_interwiki",
    ]
    pages = [
        (b"3", b"0", b"'Q3'", b"1"),
        (b"7", b"0", b"'Q1'", b"1"),
        (b"8", b"0", b"'Q9'", b"1"),
        (b"3", b"1", b"'T'", b"1"),
    ]
    assert join.pairs(pages) == [("Q3", "Q4"), ("Q1", "Q 2")]
    assert join.pairs([(b"3", b"0", b"'Q3'", b"0")]) == [], "a page that is no redirect any more"
    assert (len(join), join.matched) == (2, 2)


def resolve(
    articles: dict[str, int], redirects: dict[str, str], merged: dict[int, int]
) -> dict[str, int]:
    """What each title leads to."""
    titles = resolve_titles(
        sorted_map(hash_titles(articles), np.array(list(articles.values()), dtype=np.uint32)),
        sorted_map(hash_titles(redirects), hash_titles(redirects.values())),
        sorted_map(
            np.array(list(merged), dtype=np.uint32),
            np.array(list(merged.values()), dtype=np.uint32),
        ),
    )
    names = [*articles, *redirects]
    known, qids = titles.find(hash_titles(names))
    return {
        name: int(qid) for name, is_known, qid in zip(names, known, qids, strict=True) if is_known
    }


def test_titles_through_redirects() -> None:
    redirects = {
        "City of Light": "paris",
        "Lutetia": "City_of_Light",
        "A": "B",
        "B": "A",
        "Nowhere": "Gone",
        "Paris": "X",
    }
    assert resolve({"Paris": 90, "X": 1}, redirects, {}) == {
        "Paris": 90,
        "X": 1,
        "City of Light": 90,
        "Lutetia": 90,
    }


def test_merged_items() -> None:
    assert resolve({"A": 1, "B": 2}, {"C": "A"}, {1: 5, 5: 7, 8: 9}) == {"A": 7, "B": 2, "C": 7}


def test_hops_end_after_five() -> None:
    chain = {f"T{n}": f"T{n + 1}" for n in range(8)}
    found = resolve({"T8": 42}, chain, {})
    assert set(found) == {"T8", *(f"T{8 - hops}" for hops in range(1, MAX_HOPS + 1))}


def test_empty_maps() -> None:
    assert resolve({}, {}, {}) == {}
    assert resolve({"A": 1}, {}, {}) == {"A": 1}


def test_order_of_rows_does_not_matter() -> None:
    keys, values = np.array([5, 5, 3], dtype=np.uint64), np.array([9, 2, 4], dtype=np.uint32)
    one, other = sorted_map(keys, values), sorted_map(keys[::-1], values[::-1])
    assert one.values.tolist() == other.values.tolist() == [4, 2]
