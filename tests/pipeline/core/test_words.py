"""The table of words: what it gives by number, while it grows and after it starts anew."""

from __future__ import annotations

from pipeline.core.words import LOWER, OPENS, STOP, WordTable, term_hash


def test_what_is_kept_of_words_follows_the_table() -> None:
    table = WordTable(limit=3)
    assert table.numbers(["The", "rivers"]) == [0, 1]
    flags = table.flags
    assert [flags[0] & (OPENS | STOP), flags[1] & (OPENS | LOWER)] == [OPENS | STOP, LOWER]
    assert table.flags is flags  # no word came in between
    assert table.terms.tolist() == [0, term_hash("rivers")]
    assert table.numbers(["rivers", "Rhine", "of"]) == [1, 2, 3]
    assert len(table.flags) == len(table.terms) == len(table.hashes[1]) == 4
    table.make_room()
    assert table.numbers(["Rhine", "a", "b", "c"]) == [0, 1, 2, 3]
    assert table.terms[0] == term_hash("rhine")
