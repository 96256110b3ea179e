"""Pairs of entities that share a sentence or a document, counted exactly. Pure numpy.

A pair is one number, lower id << 32 | higher id. Pairs come out in the order of a mixed number, so that equal parts of its
range are equal parts of the pairs, whatever the ids are: that is how they go to buckets. Occurrences stay occurrences until a
bucket is complete: few pairs occur twice in a unit, and sorting flat numbers is about three times as fast as hashing them.
"""

from __future__ import annotations

import numpy as np

_MIX = 0x9E3779B97F4A7C15  # odd: multiplying by it permutes the 64-bit numbers
_UNMIX = pow(_MIX, -1, 1 << 64)


def group_pairs(groups: np.ndarray, qids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of distinct entities of each group.

    Args:
        groups: shape (n,), ascending: a number per sentence or document.
        qids: shape (n,), ascending and distinct within a group.

    Returns:
        Pairs, uint64, shape (p,), and where the first of each stands in `qids`, shape (p,). Memory: 24 bytes per pair.
    """
    if not len(groups):
        return np.empty(0, np.uint64), np.empty(0, np.int32)
    ends = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(groups))
    places = np.arange(len(groups))
    later = (
        np.repeat(ends, np.diff(ends, prepend=0)) - places - 1
    )  # members of the group after each
    left = np.repeat(places.astype(np.int32), later)
    right = np.arange(len(left)) - np.repeat(np.cumsum(later) - later - places - 1, later)
    ids = qids.astype(np.uint64)
    return ids[left] << np.uint64(32) | ids[right], left


def group_sizes(groups: np.ndarray) -> np.ndarray:
    """Members of the group that each element belongs to; groups ascending. Shape (n,)."""
    _, counts = np.unique(groups, return_counts=True)
    return np.repeat(counts, counts)


def counted(mixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct numbers of an ascending array, and how often each occurs. Shapes (u,)."""
    starts = np.flatnonzero(
        np.concatenate([np.ones(min(len(mixed), 1), bool), mixed[1:] != mixed[:-1]])
    )
    return mixed[starts], np.diff(starts, append=len(mixed))


def _mixed(pairs: np.ndarray) -> np.ndarray:
    mixed = pairs * np.uint64(_MIX)
    mixed.sort()
    return mixed


def unmixed(mixed: np.ndarray) -> np.ndarray:
    """The pairs behind mixed numbers."""
    return mixed * np.uint64(_UNMIX)


def bucket_bounds(mixed: np.ndarray, num_buckets: int) -> np.ndarray:
    """Where each bucket begins in ascending mixed numbers, and the end. Shape (num_buckets + 1,)."""
    starts = [(bucket << 64) // num_buckets for bucket in range(num_buckets)]
    return np.append(np.searchsorted(mixed, np.array(starts, np.uint64)), len(mixed))


def pair_occurrences(
    documents: np.ndarray,
    sentences: np.ndarray,
    qids: np.ndarray,
    in_sentence: int,
    in_document: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Every occurrence of a pair in a sentence, and in a document.

    Args:
        documents, sentences, qids: shape (n,), the distinct linked entities of each sentence, ascending in this order.
        in_sentence: a sentence with more distinct entities gives no pairs.
        in_document: a document with more gives the pairs of its sentences only.

    Returns:
        Mixed pairs, ascending: each once per sentence, shape (s,), and once per document, shape (d,).
    """
    keys = documents.astype(np.uint64) << np.uint64(32) | sentences.astype(np.uint64)
    few = group_sizes(keys) <= in_sentence
    near, places = group_pairs(keys[few], qids[few])
    homes = documents[few][places]

    order = np.unique(documents.astype(np.uint64) << np.uint64(32) | qids.astype(np.uint64))
    owners, members = order >> np.uint64(32), order & np.uint64(0xFFFFFFFF)
    light = group_sizes(owners) <= in_document
    together, _ = group_pairs(owners[light], members[light])

    of_heavy = ~np.isin(homes, owners[light])
    heavy = np.unique(np.stack([homes[of_heavy].astype(np.uint64), near[of_heavy]]), axis=1)[1]
    return _mixed(near), _mixed(np.concatenate([together, heavy]))


def pair_counts(
    near: np.ndarray, together: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentences and documents of every pair, from its occurrences in any order (they are sorted in place).

    Returns:
        Pairs, sentences with both, documents with both. Shapes (u,).
    """
    for occurrences in (near, together):
        occurrences.sort()
    mixed, num_documents = counted(together)
    near_pairs, num_near = counted(near)
    num_sentences = np.zeros(len(mixed), np.int64)
    num_sentences[np.searchsorted(mixed, near_pairs)] = (
        num_near  # whoever shares a sentence shares its document
    )
    return unmixed(mixed), num_sentences, num_documents
