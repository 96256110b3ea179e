"""Vectors on disk: what comes back, how much is kept, and that a broken file stops nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from pipeline.link import vector_cache
from pipeline.link.vector_cache import VectorCache, rounded

VECTORS = {
    f"text {number}": np.random.default_rng(number).normal(size=16).astype(np.float32)
    for number in range(1200)
}


def test_what_is_put_comes_back_rounded(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "vectors.sqlite")
    VectorCache(path, 10**9).put(VECTORS)
    # Another process, later: more texts than one query takes.
    found = VectorCache(path, 10**9).get([*VECTORS, "unknown"])
    assert found.keys() == VECTORS.keys()
    for text, vector in VECTORS.items():
        assert found[text].dtype == np.float32
        assert found[text].tolist() == rounded(vector).tolist()
        assert np.abs(found[text] - vector).max() < 4e-3


def test_two_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "vectors.sqlite")
    one, other = VectorCache(path, 10**9), VectorCache(path, 10**9)
    one.put({"a": VECTORS["text 0"]})
    other.put({"a": VECTORS["text 1"], "b": VECTORS["text 2"]})
    assert one.get(["a", "b"])["a"].tolist() == rounded(VECTORS["text 0"]).tolist()
    assert other.get(["a", "b"]).keys() == {"a", "b"}


def test_a_full_file_takes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    cache = VectorCache(str(path), 1)
    cache.put({"a": VECTORS["text 0"]})
    assert cache.get(["a"]) == {}


@pytest.mark.parametrize(("path", "max_bytes"), [("", 10**9), ("vectors.sqlite", 0)])
def test_nothing_is_kept_where_nothing_shall_be(tmp_path: Path, path: str, max_bytes: int) -> None:
    where = str(tmp_path / path) if path else ""
    cache = VectorCache(where, max_bytes)
    cache.put({"a": VECTORS["text 0"]})
    assert cache.get(["a"]) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_bytes(b"no database" * 100)
    cache = VectorCache(str(path), 10**9)
    cache.put({"a": VECTORS["text 0"]})
    assert cache.get(["a"]) == {}
    assert caplog.text.count("vectors.sqlite: the vectors of the re-ranker are not kept") == 1


def test_a_locked_file_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vector_cache, "WAIT_S", 0.01)
    path = tmp_path / "vectors.sqlite"
    cache = VectorCache(str(path), 10**9)
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache.put({"a": VECTORS["text 0"]})
    assert "database is locked" in caplog.text
