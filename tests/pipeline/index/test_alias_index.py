"""The alias index: files against plain dicts, any number of units and shards, broken files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arrays.sections import map_sections, save_sections
from pipeline.engine.errors import StageError
from pipeline.index.alias_index import AliasIndex, Postings
from pipeline.index.alias_index_writer import (
    Limits,
    build_blocks,
    build_shard,
    spill_aliases,
    write_description,
)
from pipeline.index.fuzzy_blocks import MAX_BLOCK, FuzzyBlocks, part_path, parts_of, write_blocks
from pipeline.index.fuzzy_keys import query_hashes
from pipeline.index.name_keys import bucket_of, index_keys, normalise
from pipeline.index.name_words import WORD_ITEMS, build_openings, build_words
from pipeline.index.words import word_hash
from schemas import ALIASES
from schemas.kb import ALIAS_SOURCES

Row = tuple[str, int, str, int]
NAMES: list[Row] = [
    ("Paris", 90, "label", 1), ("Paris", 830149, "label", 1), ("PARIS", 830149, "anchor", 7),
    ("Strasbourg", 6602, "label", 1), ("Michael Jordan", 41421, "label", 1), ("Málaga", 8851, "label", 1),
    ("One Two Three Four Five", 5, "alias", 1), ("...", 6, "alias", 1),
]  # fmt: skip


def build(
    folder: Path, rows: list[Row], units: int = 1, shards: int = 1, limit: int = 64
) -> AliasIndex:
    data, aliases = str(folder), str(folder / "aliases")
    for unit in range(units):
        spill_aliases(data, unit, ALIASES.from_rows(rows[unit::units]), shards)
    limits = Limits(num_shards=shards, num_parts=-(-shards // 2), max_candidates=limit)
    for shard in range(shards):
        build_shard(data, aliases, shard, lambda qids: qids % 7, limits)
    for part in range(limits.num_parts):
        build_blocks(data, aliases, part, limits)
        build_words(data, aliases, part)
    build_openings(data, aliases)
    assert write_description(aliases, limits) == len(AliasIndex(aliases))
    return AliasIndex(aliases)


@pytest.fixture(params=[1, 2, 40])
def index(tmp_path: Path, request: pytest.FixtureRequest) -> AliasIndex:
    """With 40 shards most are empty."""
    return build(tmp_path, NAMES, shards=request.param)


def test_look_up(index: AliasIndex) -> None:
    assert len(index) == 6  # málaga and malaga; "..." is no name
    assert index.postings("paris").qids.tolist() == [830149, 90]  # anchors first
    assert index.postings("paris").counts.tolist() == [7, 0]
    assert index.postings("paris").flags.tolist() == [1 | 16, 1]
    assert (
        index.postings("malaga").qids.tolist() == index.postings("málaga").qids.tolist() == [8851]
    )
    assert index.postings("malaga").counts.tolist() == [0]
    assert [len(column) for column in index.postings("nowhere")] == [0, 0, 0]
    assert "paris" in index
    assert "parys" not in index


def test_similar_keys(index: AliasIndex) -> None:
    assert "strasbourg" in index.similar_keys("strassbourg")
    assert "michael jordan" in index.similar_keys("micheal jordan")
    assert "michael jordan" in index.similar_keys("jordan michael")
    assert "one two three four five" in index.similar_keys("five one two three four")
    assert "paris" not in index.similar_keys("zzzzzz")


def test_items_with_a_word(index: AliasIndex) -> None:
    assert index.items_with_word("jordan").tolist() == [41421]
    assert index.items_with_word("five").tolist() == [5]
    assert index.items_with_word("paris").tolist() == []  # a name of one word: its key finds it
    assert index.items_with_word("nowhere").tolist() == []


def test_the_most_popular_items_of_a_word(tmp_path: Path) -> None:
    """Popularity is the rest by 7 here; each item once, although it has the word in two names."""
    rows: list[Row] = [(f"Lake {qid}", qid, "label", 1) for qid in range(1, 400)]
    rows += [(f"Great Lake {qid}", qid, "alias", 1) for qid in range(1, 400)]
    rows += [("lake of tears", 7777, "anchor", 1), ("The Lake", 500, "label", 1)]
    ranked = sorted([*range(1, 400), 500], key=lambda qid: (-(qid % 7), qid))
    for shards in (1, 3):
        index = build(tmp_path / str(shards), rows, units=shards, shards=shards)
        assert index.items_with_word("lake").tolist() == ranked[:WORD_ITEMS]
        assert index.items_with_word("the").tolist() == []


def test_words_that_open_a_name(index: AliasIndex) -> None:
    words = ["michael", "jordan", "one", "two", "three"]
    hashes = np.array([word_hash(word) for word in words], np.uint32)
    assert index.opens_name(hashes[[0, 2]], hashes[[1, 3]]).tolist() == [True, True]
    others = np.random.default_rng(0).integers(0, 1 << 32, (2, 2_000), np.uint32)
    assert index.opens_name(*others).mean() < 0.05  # 2 pairs in 1,024 bits
    assert index.opens_name(hashes[:0], hashes[:0]).tolist() == []


SURFACE = st.sampled_from(
    [f"{first} {last}" for first in ("Ann", "Zoë", "Bo", "(x)") for last in ("Lee", "Ray", "")]
)
ALIAS = st.tuples(
    SURFACE, st.integers(1, 400), st.sampled_from(["label", "title", "anchor"]), st.integers(1, 3)
)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(ALIAS, max_size=60), st.integers(1, 5))
def test_any_units_and_shards_give_the_same_postings(
    tmp_path_factory, rows: list[Row], limit: int
) -> None:
    wanted: dict[str, dict[int, int]] = {}
    for surface, qid, source, count in rows:
        for key in index_keys(surface, source):
            counts = wanted.setdefault(key, {})
            counts[qid] = counts.get(qid, 0) + (count if source == "anchor" else 0)
    for units, shards in ((1, 1), (3, 4), (7, 4)):
        index = build(tmp_path_factory.mktemp("index"), rows, units, shards, limit)
        assert len(index) == len(wanted)
        for key, counts in wanted.items():
            best = sorted(counts.items(), key=lambda item: (-item[1], -(item[0] % 7), item[0]))[
                :limit
            ]
            assert (
                list(zip(*(column.tolist() for column in index.postings(key)[:2]), strict=True))
                == best
            )


def test_runs_of_any_length_with_and_without_counts(tmp_path: Path) -> None:
    """One item, several, and as many as need a length of their own; anchors among all of them."""
    sizes = [1, 2, 3, 126, 127, 128, 300, 1]
    rows = [
        (f"name {number}", qid, "label", 1)
        for number, size in enumerate(sizes)
        for qid in range(1, 1 + size)
    ]
    rows += [(f"name {number}", 1, "anchor", 9) for number in (0, 2, 4, 6)]
    index = build(tmp_path, rows, limit=1000)
    for number, size in enumerate(sizes):
        found = index.postings(f"name {number}")
        assert sorted(found.qids.tolist()) == list(range(1, 1 + size))
        has_anchor = number in (0, 2, 4, 6)
        assert found.counts.tolist() == [9 * has_anchor] + [0] * (size - 1)
        assert found.flags.tolist() == [1 | 16 * has_anchor] + [1] * (size - 1)


def test_items_with_a_name_from_every_source(tmp_path: Path) -> None:
    """All source bits together stay below the mark of a key with several items."""
    rows = [(surface, 142, source, 1) for surface in ("France", "FR") for source in ALIAS_SOURCES]
    index = build(tmp_path, [*rows, ("FR", 7, "demonym", 1)])
    assert index.postings("france").flags.tolist() == [127]
    assert index.postings("france").qids.tolist() == [142]
    assert dict(zip(*(column.tolist() for column in index.postings("fr")[::2]), strict=True)) == {
        142: 127,
        7: 32,
    }


def test_same_bytes_for_any_units(tmp_path: Path) -> None:
    rows = [(f"Name {number % 50}", number, "label", 1) for number in range(400)]
    one, other = tmp_path / "one", tmp_path / "other"
    build(one, rows, units=1, shards=3)
    random.Random(1).shuffle(rows)
    build(other, rows, units=7, shards=3)
    for path in sorted((one / "aliases").iterdir()):
        assert path.read_bytes() == (other / "aliases" / path.name).read_bytes(), path.name


@pytest.mark.kit
def test_misspelt_labels_of_the_kit_are_found(kit: Path, tmp_path: Path) -> None:
    """One edit in a label: the right key is among the similar ones, for nearly all (a full block
    loses the rest).
    """
    found = json.loads((kit / "kb" / "fb15k237_entity2wikidata.json").read_text())
    labels = sorted(
        {entity["label"] for entity in found.values() if len(normalise(entity["label"])) >= 6}
    )
    index = build(tmp_path, [(label, 1, "label", 1) for label in labels], shards=2)
    picker = random.Random(5)
    missed = 0
    for label in picker.sample(labels, 2_000):
        key = normalise(label)
        place = picker.randrange(len(key))
        edited = normalise(
            key[:place] + picker.choice(["", "q", "q" + key[place]]) + key[place + 1 :]
        )
        if len(edited) >= 5:
            missed += key not in index.similar_keys(edited) and key != edited
    assert missed <= 2


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 1000)), max_size=200),
    st.integers(1, 5),
)
def test_blocks_lead_to_all_that_they_list(
    tmp_path_factory, entries: list[tuple[int, int]], num_parts: int
) -> None:
    folder = str(tmp_path_factory.mktemp("blocks"))
    hashes, keys = (
        np.array(column, np.uint32)
        for column in (zip(*entries, strict=True) if entries else ((), ()))
    )
    parts = parts_of(hashes, num_parts)
    for part in range(num_parts):
        write_blocks(part_path(folder, part), hashes[parts == part], keys[parts == part], num_parts)
    blocks = FuzzyBlocks(folder, num_parts)
    for value, _ in entries:
        assert {key for other, key in entries if other == value} <= set(blocks.find(value))
    assert len(blocks.find(0)) <= len(entries)


def test_a_full_block_is_cut_and_few_strangers_come_along(tmp_path: Path) -> None:
    hashes = np.random.default_rng(3).integers(0, 1 << 32, 20_000).astype(np.uint32)
    crowd = np.full(900, hashes[0])
    everything = np.concatenate([hashes, crowd])
    write_blocks(
        part_path(str(tmp_path), 0), everything, np.arange(len(everything), dtype=np.uint32), 1
    )
    blocks = FuzzyBlocks(str(tmp_path), 1)
    found = blocks.find(int(hashes[0]))
    assert len(found) == MAX_BLOCK
    assert found == sorted(found)
    assert sum(len(blocks.find(int(value))) for value in hashes[1:5_000]) < 1.3 * 5_000


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no alias index"):
        AliasIndex(str(tmp_path))


@pytest.mark.parametrize("name", ["format", "normalisation"])
def test_index_of_another_version(tmp_path: Path, name: str) -> None:
    build(tmp_path, NAMES)
    path = tmp_path / "aliases" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: 0}))
    with pytest.raises(StageError, match="another normalisation"):
        AliasIndex(str(tmp_path / "aliases"))


@pytest.mark.parametrize(
    "name", ["alias-000.marisa", "alias-000.safetensors", "fuzzy-000.safetensors"]
)
def test_files_that_are_not_whole_are_named(tmp_path: Path, name: str) -> None:
    build(tmp_path, NAMES)
    path = tmp_path / "aliases" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StageError, match=name):
        AliasIndex(str(tmp_path / "aliases"))
    path.unlink()
    with pytest.raises(StageError, match=name):
        AliasIndex(str(tmp_path / "aliases"))


def test_sections_are_read_only_views(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(5, dtype=np.uint16), "b": np.empty(0, np.uint8), "c": np.ones(3, np.int64),
        "d": np.zeros(2, np.float32), "e": np.arange(3, dtype=np.uint32),
    }  # fmt: skip
    save_sections(str(tmp_path / "s"), arrays)
    found = map_sections(str(tmp_path / "s"))
    assert {name: (values.dtype, values.tolist()) for name, values in found.items()} == {
        name: (values.dtype, values.tolist()) for name, values in arrays.items()
    }
    with pytest.raises(ValueError, match="read-only"):
        found["a"][0] = 1


def test_postings_cannot_be_changed_by_a_reader(index: AliasIndex) -> None:
    for column in index.postings("strasbourg"):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
    assert isinstance(index.postings("paris"), Postings)
    assert bucket_of("paris", 1) == 0
    assert query_hashes("paris")
