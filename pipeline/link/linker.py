"""From the mentions of a batch of documents to links: candidates, features, probabilities. Pure, given an index and a store.

1. Candidates of each distinct surface, with all that does not depend on the document: from a bounded cache.
2. All candidates of the batch in flat arrays; context, coherence and type by array work.
3. Softmax over the candidates of a mention and NIL, ranking, the best few.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from rapidfuzz import fuzz

from pipeline.arrays.runs import first_per_owner, offsets_of, spread
from pipeline.index.entity_types import type_table
from pipeline.index.name_keys import SOURCE_BITS, normalise
from pipeline.link.candidates import (
    FUZZY,
    INFLECTED,
    PARTIAL,
    REUSED,
    VARIANT,
    Candidate,
    Candidates,
    NameIndex,
    Reach,
    find_candidates,
    with_reused,
)
from pipeline.link.disambiguation import Model, contributions, probabilities, ranked
from pipeline.link.features import STATIC, Flat, Tokens, dynamic_features, log_prior
from pipeline.link.lru import LruCache
from schemas.array_types import Array

Key = tuple[
    str, bool, tuple[str, ...]
]  # surface, whether it may be misspelt, longer names of the document
CACHE_SIZE = 20_000  # surfaces: 5 KB each
MAX_SCORED = 64
_TITLE = SOURCE_BITS["title"]
_FLAGS = {
    "variant": VARIANT,
    "inflected": INFLECTED,
    "reused": REUSED,
    "partial": PARTIAL,
    "fuzzy": FUZZY,
}


class Entities(Protocol):
    """What linking needs of the entity store."""

    idf: Array

    def rows(self, qids: Array) -> Array: ...  # noqa: D102
    def popularity(self, rows: Array) -> Array: ...  # noqa: D102
    def statements(self, rows: Array) -> Array: ...  # noqa: D102
    def is_primary(self, rows: Array) -> Array: ...  # noqa: D102
    def types(self, rows: Array) -> Array: ...  # noqa: D102
    def is_meta(self, rows: Array) -> Array: ...  # noqa: D102
    def label(self, row: int) -> str: ...  # noqa: D102
    def term_runs(self, rows: Array) -> tuple[Array, Array]: ...  # noqa: D102
    def neighbour_runs(self, rows: Array) -> tuple[Array, Array]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """A mention to be linked. Tokens are numbered within the batch."""

    document: int
    first_token: int
    end_token: int
    surface: str
    ner_type: str | None
    position: float  # in its document: 0 at the beginning, 1 at the end
    allow_fuzzy: bool
    longer: tuple[str, ...] = ()  # names of the same document that it may be short for


@dataclass(frozen=True, slots=True)
class Known:
    """Candidates of a surface that the store has, with all that does not depend on the document. Shape (n,) or (n, s)."""

    qids: Array
    rows: Array
    matches: Array
    popularity: Array
    types: Array
    static: Array  # float32, columns as in features.STATIC


@dataclass(frozen=True, slots=True)
class Scored:
    """All candidates of a batch, flat, mention after mention."""

    mentions: Array  # int64 (c,)
    qids: Array
    rows: Array
    matches: Array
    popularity: Array
    features: dict[str, Array]

    def take(self, order: Array) -> Scored:
        """Some of them, in another order."""
        features = {name: values[order] for name, values in self.features.items()}
        return Scored(
            self.mentions[order],
            self.qids[order],
            self.rows[order],
            self.matches[order],
            self.popularity[order],
            features,
        )


@dataclass(frozen=True, slots=True)
class Links:
    """The outcome for all mentions of a batch. Candidates are flat, the best first, cut to the best few."""

    qids: Array  # uint32 (m,), 0 = NIL
    confidence: Array  # float32 (m,)
    offsets: Array  # int64 (m + 1,): candidates of each mention
    candidates: Scored
    probability: Array  # float32 (c,)
    parts: dict[str, Array]  # what each group of features added to the score


class Linker:
    """Links mentions against one index and one store."""

    def __init__(self, index: NameIndex, entities: Entities, model: Model, reach: Reach) -> None:
        self._index = index
        self._entities = entities
        self._model = model
        self._reach = reach
        self._found: LruCache[tuple[str, bool], Candidates] = LruCache(CACHE_SIZE)
        self._known: LruCache[Key, Known] = LruCache(CACHE_SIZE)
        self._type_tables: dict[str | None, Array] = {}

    def on(self, index: NameIndex) -> Linker:
        """The same with another index; caches are its own."""
        return Linker(index, self._entities, self._model, self._reach)

    def decide(
        self, scored: Scored, num_mentions: int, *, top_k: int, min_confidence: float
    ) -> Links:
        """The best item for each mention, or NIL, with its best candidates."""
        return decide(scored, num_mentions, self._model, top_k, min_confidence)

    def score(self, mentions: Sequence[Mention], tokens: Tokens) -> Scored:
        """Candidates of all mentions with their features; mentions in the order of their documents."""
        numbers: dict[Key, int] = {}
        which = np.fromiter(
            (numbers.setdefault((one.surface, one.allow_fuzzy, one.longer), len(numbers)) for one in mentions),
            np.int64, len(mentions),
        )  # fmt: skip
        return self._flatten(mentions, tokens, self._look_up(list(numbers)), which)

    def _flatten(
        self, mentions: Sequence[Mention], tokens: Tokens, known: Sequence[Known], which: Array
    ) -> Scored:
        sizes = np.fromiter((len(one.qids) for one in known), np.int64, len(known))
        lengths = sizes[which]
        places = spread(offsets_of(sizes)[which], lengths)
        mention_of = np.repeat(np.arange(len(mentions)), lengths)
        columns = [
            np.concatenate([getattr(one, field.name) for one in (_NOTHING, *known)])[places]
            for field in fields(Known)
        ]
        qids, rows, matches, popularity, types, static = columns
        flat = Flat(
            mentions=mention_of, rows=rows, qids=qids, is_whole=matches <= VARIANT,
            **{
                f"{name}s": np.fromiter((getattr(mention, name) for mention in mentions), np.int64, len(mentions))
                for name in ("document", "first_token", "end_token")
            },
        )  # fmt: skip
        features = {name: static[:, place] for place, name in enumerate(STATIC)}
        features |= dynamic_features(flat, tokens, self._entities)
        features["type"] = self._type_agreement(mentions, mention_of, types)
        positions = np.fromiter(
            (mention.position for mention in mentions), np.float32, len(mentions)
        )
        features["position"] = positions[mention_of]
        return Scored(mention_of, qids, rows, matches, popularity, features)

    def _type_agreement(
        self, mentions: Sequence[Mention], mention_of: Array, types: Array
    ) -> Array:
        labels = list(dict.fromkeys(mention.ner_type for mention in mentions))
        for label in labels:
            if label not in self._type_tables:
                self._type_tables[label] = type_table(label)
        tables = (
            np.stack([self._type_tables[label] for label in labels])
            if labels
            else np.zeros((1, 64), np.float32)
        )
        numbers = {label: number for number, label in enumerate(labels)}
        label_of = np.fromiter(
            (numbers[mention.ner_type] for mention in mentions), np.int64, len(mentions)
        )
        agreement: Array = tables[label_of[mention_of], types]
        return agreement

    def _candidates(self, surface: str, allow_fuzzy: bool) -> Candidates:  # noqa: FBT001
        found = self._found.get((surface, allow_fuzzy))
        if found is None:
            found = find_candidates(surface, self._index, self._reach, allow_fuzzy=allow_fuzzy)
            self._found.put((surface, allow_fuzzy), found)
        return found

    def _look_up(self, keys: Sequence[Key]) -> list[Known]:
        """What is known of distinct surfaces; all that are new at once."""
        found = {key: self._known.get(key) for key in keys}
        new = [key for key, known in found.items() if known is None]
        for key, known in zip(new, self._describe(new) if new else (), strict=True):
            self._known.put(key, known)
            found[key] = known
        return [known for known in found.values() if known is not None]

    def _candidates_of(self, key: Key) -> Candidates:
        surface, allow_fuzzy, longer = key
        found = self._candidates(surface, allow_fuzzy)
        return (
            with_reused(found, [self._candidates(name, False) for name in longer])
            if longer
            else found
        )

    def _describe(self, keys: Sequence[Key]) -> list[Known]:
        """Candidates that the store has, and their static features, of many surfaces in one go."""
        everything = [self._candidates_of(key) for key in keys]
        owners = np.repeat(np.arange(len(keys)), [len(found) for found in everything])
        qids = np.fromiter((qid for found in everything for qid in found), np.uint32, len(owners))
        listed = [candidate for found in everything for candidate in found.values()]
        rows = self._entities.rows(qids)
        kept = rows >= 0
        kept[kept] &= ~self._entities.is_meta(
            rows[kept]
        )  # pages about pages are flagged, never linked
        places = np.flatnonzero(kept)
        places = places[first_per_owner(owners[places], MAX_SCORED)]
        rows, qids, owners = rows[places], qids[places], owners[places]
        columns = np.array([listed[place] for place in places.tolist()], np.float64).reshape(
            -1, len(Candidate._fields)
        )
        matches = columns[:, Candidate._fields.index("match")].astype(np.uint8)
        popularity, types = self._entities.popularity(rows), self._entities.types(rows)
        static = self._static([key[0] for key in keys], owners, (rows, popularity), columns)
        bounds = np.searchsorted(owners, np.arange(len(keys) + 1)).tolist()
        return [
            Known(
                qids[low:high].copy(), rows[low:high].copy(), matches[low:high].copy(), popularity[low:high].copy(),
                types[low:high].copy(), static[low:high].copy(),
            ) if low < high else _NOTHING
            for low, high in itertools.pairwise(bounds)
        ]  # fmt: skip

    def _static(
        self, surfaces: Sequence[str], owners: Array, entities: tuple[Array, Array], columns: Array
    ) -> Array:
        """Features of candidates whatever the document. Shape (c, len(STATIC))."""
        rows, popularity = entities
        counts, flags, matches, similarity = columns.T
        labels = [self._entities.label(row) for row in rows.tolist()]
        keys = [normalise(surface) for surface in surfaces]
        pairs = list(zip(owners.tolist(), labels, strict=True))
        likeness = np.fromiter(
            (fuzz.ratio(surfaces[owner], label) for owner, label in pairs), np.float64, len(pairs)
        )
        similarity = similarity.copy()
        for place in np.flatnonzero(
            (matches == REUSED) | (matches == PARTIAL)
        ).tolist():  # found by no name of their own
            owner, label = pairs[place]
            similarity[place] = fuzz.ratio(keys[owner], normalise(label)) / 100
        num_whole = np.bincount(owners, matches <= VARIANT, len(surfaces))
        static = {
            "prior": log_prior(owners, counts, popularity),
            "popularity": np.log1p(popularity),
            "statements": np.log1p(self._entities.statements(rows)),
            "primary": self._entities.is_primary(rows),
            **{name: matches == number for name, number in _FLAGS.items()},
            "inexact": num_whole[owners] == 0,
            "similarity": similarity,
            "label": likeness / 100,
            "title": (flags.astype(np.int64) & _TITLE) > 0,
        }
        return np.stack([np.asarray(static[name], np.float32) for name in STATIC], axis=1)


_NOTHING = Known(  # what is known of nearly all names that the index does not list
    qids=np.empty(0, np.uint32), rows=np.empty(0, np.int64), matches=np.empty(0, np.uint8),
    popularity=np.empty(0, np.uint32), types=np.empty(0, np.uint8), static=np.empty((0, len(STATIC)), np.float32),
)  # fmt: skip


def decide(
    scored: Scored, num_mentions: int, model: Model, top_k: int, min_confidence: float
) -> Links:
    """Probabilities, the order of the candidates, the best few, and the link or NIL of each mention."""
    parts = contributions(scored.features, model)
    scores = np.sum([*parts.values()], axis=0) + model.bias
    probability = probabilities(scores, scored.mentions, num_mentions)
    order = ranked(scored.mentions, probability, scored.popularity, scored.qids)
    order = order[first_per_owner(scored.mentions[order], top_k)]
    best = scored.take(order)
    offsets = offsets_of(np.bincount(best.mentions, minlength=num_mentions))
    has_any = offsets[1:] > offsets[:-1]
    firsts = offsets[:-1][has_any]
    qids, confidence = np.zeros(num_mentions, np.uint32), np.zeros(num_mentions, np.float32)
    probability = probability[order]
    confidence[has_any] = probability[firsts]
    qids[has_any] = np.where(probability[firsts] >= min_confidence, best.qids[firsts], 0)
    return Links(
        qids,
        confidence,
        offsets,
        best,
        probability,
        {name: values[order] for name, values in parts.items()},
    )
