"""Array tools against plain loops and written-down values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arrays.hashing import hash64, hash_texts, splitmix64
from pipeline.arrays.item_sets import ItemSet, load_all_items, load_items, save_items
from pipeline.arrays.mapped_files import load_array, save_array, save_joined
from pipeline.arrays.runs import first_per_owner, offsets_of, owners_of, runs_of, spread
from pipeline.arrays.sections import map_sections, save_sections, section_lengths
from pipeline.arrays.sorted_map import MAX_HOPS, follow, sorted_map
from pipeline.engine.errors import StageError

IDS = st.lists(st.integers(0, 60), max_size=30)


def test_hashes_are_the_same_on_every_machine() -> None:
    """Indexes and shards of other machines were made with these values."""
    assert hash64("Paris") == 0x2490B7DF5667E76B
    assert hash_texts(["Paris", "Paris", "Rome"]).tolist() == [
        hash64("Paris"),
        hash64("Paris"),
        hash64("Rome"),
    ]
    # The first output of splitmix64 from state 0 is the mix of the golden step.
    with np.errstate(over="ignore"):
        mixed = splitmix64(np.array([0x9E3779B97F4A7C15], np.uint64))
    assert mixed.tolist() == [0xE220A8397B1DCDAF]


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=8))
def test_runs_are_lists_laid_end_to_end(lists: list[list[int]]) -> None:
    offsets, values = runs_of(lists)
    assert offsets.tolist() == offsets_of(np.array([len(run) for run in lists], np.int64)).tolist()
    assert values.tolist() == [value for run in lists for value in run]
    assert owners_of(offsets).tolist() == [row for row, run in enumerate(lists) for _ in run]
    picked = spread(offsets[:-1], np.diff(offsets))
    assert picked.tolist() == list(range(len(values)))
    kept = first_per_owner(owners_of(offsets), 2)
    assert kept.tolist() == [place < 2 for run in lists for place in range(len(run))]


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 50), max_size=20), IDS)
def test_a_sorted_map_is_a_dictionary(pairs: dict[int, int], keys: list[int]) -> None:
    table = sorted_map(np.array(list(pairs), np.uint32), np.array(list(pairs.values()), np.uint32))
    is_known, values = table.find(np.array(keys, np.uint32))
    assert is_known.tolist() == [key in pairs for key in keys]
    assert values[is_known].tolist() == [pairs[key] for key in keys if key in pairs]

    def chain(key: int) -> int:
        for _ in range(MAX_HOPS):
            key = pairs.get(key, key)
        return key

    assert follow(table, np.array(keys, np.uint32)).tolist() == [chain(key) for key in keys]


def test_of_equal_keys_the_lowest_value_stays() -> None:
    table = sorted_map(np.array([7, 7, 3], np.uint32), np.array([9, 2, 5], np.uint32))
    assert (table.keys.tolist(), table.values.tolist()) == ([3, 7], [5, 2])


@given(IDS, IDS, IDS)
def test_a_set_of_items_is_a_set(added: list[int], removed: list[int], asked: list[int]) -> None:
    items = ItemSet()
    items.add(np.array(added, np.uint32))
    items.discard(np.array(removed, np.uint32))
    expected = set(added) - set(removed)
    assert len(items) == len(expected)
    assert items.contains(np.array(asked, np.uint32)).tolist() == [
        item in expected for item in asked
    ]


def test_sets_of_items_as_files(tmp_path: Path) -> None:
    folder = str(tmp_path / "items")
    assert len(load_all_items(folder)) == 0
    save_items(folder, 3, [5, 8])
    save_items(folder, 7, [8, 4_294_967_295])
    assert load_items(folder, 3).tolist() == [5, 8]
    assert load_items(folder, 4).tolist() == []
    assert len(load_all_items(folder)) == 3


def test_arrays_as_files(tmp_path: Path) -> None:
    path = str(tmp_path / "a.npy")
    for values in (np.arange(5, dtype=np.uint32), np.empty(0, np.float32)):
        save_array(path, values)
        assert load_array(path).tolist() == values.tolist()
    save_joined(path, np.uint16, 5, [np.array([1, 2]), np.array([], np.int64), np.array([3, 4, 5])])
    assert load_array(path).tolist() == [1, 2, 3, 4, 5]
    assert load_array(path).dtype == np.uint16


def test_sections_of_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "sections.safetensors")
    arrays = {"a": np.arange(4, dtype=np.uint32), "b": np.array([0.5], np.float32)}
    save_sections(path, arrays)
    mapped = map_sections(path)
    assert {name: values.tolist() for name, values in mapped.items()} == {
        "a": [0, 1, 2, 3],
        "b": [0.5],
    }
    assert section_lengths(path) == {"a": 4, "b": 1}
    (tmp_path / "cut").write_bytes(Path(path).read_bytes()[:10])
    with pytest.raises(StageError, match="is not whole"):
        map_sections(str(tmp_path / "cut"))
