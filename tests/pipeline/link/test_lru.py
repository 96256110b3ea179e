"""The bounded memory, against a plain list in order of use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.link.lru import LruCache


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 6))))
def test_it_holds_what_was_used_last(max_size: int, uses: list[tuple[bool, int]]) -> None:
    cache: LruCache[int, str] = LruCache(max_size)
    order: list[int] = []
    for is_put, key in uses:
        if is_put:
            cache.put(key, f"value {key}")
        else:
            assert cache.get(key) == (f"value {key}" if key in order else None)
        if is_put or key in order:
            order = [*(other for other in order if other != key), key][-max_size:]
        assert len(cache) == len(order)
        assert all(known in cache for known in order)


def test_a_cache_of_nothing() -> None:
    cache: LruCache[str, int] = LruCache(0)
    cache.put("a", 1)
    assert len(cache) == 0
    assert cache.get("a") is None
