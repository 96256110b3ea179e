"""Count pairs of entities that share a sentence or a document, exactly. Pure numpy.

A pair is one number, lower id << 32 | higher id. Pairs are ordered by a mixed number: a product
that spreads them over all 64 bits for any ids. So equal ranges of mixed numbers hold about equally
many pairs, and become buckets. Occurrences are counted only when a bucket is complete: few pairs
occur twice in a unit, and sorting flat numbers is about three times as fast as hashing them.

Shapes: N linked entities (one element per entity and sentence or document), P pairs, U distinct
pairs.
"""

from __future__ import annotations

import numpy as np

from schemas.array_types import I32, I64, U64, Ints

# The multiplier is odd: so it permutes the 64-bit numbers, and has an inverse.
_MIX = 0x9E3779B97F4A7C15
_UNMIX = pow(_MIX, -1, 1 << 64)


def group_pairs(groups_N: Ints, qids_N: Ints) -> tuple[U64, I32]:
    """Return all pairs of distinct entities of each group.

    Args:
        groups_N: a number per sentence or document, ascending.
        qids_N: the items, ascending and distinct within a group.

    Returns:
        The pairs, shape (P,), and the index in `qids_N` of the lower entity of each, shape (P,).
        Memory: 24 bytes per pair.
    """
    if not len(groups_N):
        return np.empty(0, np.uint64), np.empty(0, np.int32)

    ends = np.append(np.flatnonzero(groups_N[1:] != groups_N[:-1]) + 1, len(groups_N))
    index_N = np.arange(len(groups_N))
    # Each entity is paired with the members of its group after it.
    num_after_N = np.repeat(ends, np.diff(ends, prepend=0)) - index_N - 1

    left_P = np.repeat(index_N.astype(np.int32), num_after_N)
    # The pairs of an entity lie side by side: their right ends count up from the entity after it.
    shift_N = np.cumsum(num_after_N) - num_after_N - index_N - 1
    right_P = np.arange(len(left_P)) - np.repeat(shift_N, num_after_N)

    ids_N = qids_N.astype(np.uint64)
    return ids_N[left_P] << np.uint64(32) | ids_N[right_P], left_P


def group_sizes(groups_N: Ints) -> I64:
    """Return the number of members of the group of each element; groups ascend. Shape (N,)."""
    _, counts = np.unique(groups_N, return_counts=True)
    return np.repeat(counts, counts)


def counted(mixed_P: U64) -> tuple[U64, I64]:
    """Return the distinct numbers of an ascending array, and how often each occurs. Shapes (U,)."""
    # The first element, if there is one, always starts a run.
    is_start = [np.ones(min(len(mixed_P), 1), bool), mixed_P[1:] != mixed_P[:-1]]
    starts_U = np.flatnonzero(np.concatenate(is_start))
    return mixed_P[starts_U], np.diff(starts_U, append=len(mixed_P))


def _mixed(pairs_P: U64) -> U64:
    """Return the mixed numbers of pairs, ascending."""
    mixed_P: U64 = pairs_P * np.uint64(_MIX)
    mixed_P.sort()
    return mixed_P


def unmixed(mixed_P: U64) -> U64:
    """Return the pairs of mixed numbers."""
    pairs_P: U64 = mixed_P * np.uint64(_UNMIX)
    return pairs_P


def bucket_bounds(mixed_P: U64, num_buckets: int) -> I64:
    """Return the index where each bucket of ascending mixed numbers begins, and the end.

    Shape (num_buckets + 1,)."""
    starts = [(bucket << 64) // num_buckets for bucket in range(num_buckets)]
    return np.append(np.searchsorted(mixed_P, np.array(starts, np.uint64)), len(mixed_P))


def pair_occurrences(
    documents_N: Ints,
    sentences_N: Ints,
    qids_N: Ints,
    in_sentence: int,
    in_document: int,
) -> tuple[U64, U64]:
    """Return every occurrence of a pair in a sentence, and in a document.

    Args:
        documents_N: the document of each distinct linked entity of a sentence.
        sentences_N: its sentence.
        qids_N: its item; the elements ascend by document, sentence and item.
        in_sentence: a sentence with more distinct entities gives no pairs.
        in_document: a document with more distinct entities gives only the pairs of its sentences.

    Returns:
        Mixed pairs, ascending: each once per sentence that has both, then each once per document.
    """
    # Pairs within sentences, and the document of each.
    sentence_keys_N = documents_N.astype(np.uint64) << np.uint64(32) | sentences_N.astype(np.uint64)
    is_short_N = group_sizes(sentence_keys_N) <= in_sentence
    near_P, left_P = group_pairs(sentence_keys_N[is_short_N], qids_N[is_short_N])
    homes_P = documents_N[is_short_N][left_P]

    # Pairs within documents: an entity counts once, no matter how many of its sentences have it.
    document_keys = np.unique(
        documents_N.astype(np.uint64) << np.uint64(32) | qids_N.astype(np.uint64)
    )
    owners, members = document_keys >> np.uint64(32), document_keys & np.uint64(0xFFFFFFFF)
    is_light = group_sizes(owners) <= in_document
    together, _ = group_pairs(owners[is_light], members[is_light])

    # A heavy document has too many pairs: only those that share a sentence count, once per
    # document.
    of_heavy_P = ~np.isin(homes_P, owners[is_light])
    homes_and_pairs = np.stack([homes_P[of_heavy_P].astype(np.uint64), near_P[of_heavy_P]])
    heavy = np.unique(homes_and_pairs, axis=1)[1]
    return _mixed(near_P), _mixed(np.concatenate([together, heavy]))


def pair_counts(near: U64, together: U64) -> tuple[U64, I64, I64]:
    """Count the sentences and the documents of every pair.

    Args:
        near: mixed pairs, once per sentence that has both, in any order; sorted in place.
        together: mixed pairs, once per document that has both, in any order; sorted in place.

    Returns:
        Pairs, sentences with both, documents with both. Shapes (U,).
    """
    for occurrences in (near, together):
        occurrences.sort()
    mixed_U, num_documents_U = counted(together)
    near_pairs, num_near = counted(near)

    # Entities that share a sentence share its document: every near pair is among `mixed_U`.
    num_sentences_U = np.zeros(len(mixed_U), np.int64)
    num_sentences_U[np.searchsorted(mixed_U, near_pairs)] = num_near
    return unmixed(mixed_U), num_sentences_U, num_documents_U
