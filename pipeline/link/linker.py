"""Link the mentions of a batch of documents: candidates, features, probabilities.

Pure, given an index and a store:

1. Candidates of each distinct surface, with all that does not depend on the document: from a
bounded
   cache.
2. All candidates of the batch in flat arrays; context, coherence and type by array work.
3. Softmax over the candidates of a mention and NIL, ranking, the best few.

Legend: c candidates of the batch, m mentions, s static features, n candidates of one surface.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline.arrays.runs import first_per_owner, offsets_of, spread
from pipeline.index.entity_types import NAME, NUM_TYPES, UNKNOWN, type_table
from pipeline.index.name_keys import normalise
from pipeline.link.candidates import (
    PARTIAL,
    VARIANT,
    Candidate,
    Candidates,
    NameIndex,
    Reach,
    find_candidates,
    with_reused,
)
from pipeline.link.coherence import coherence_features
from pipeline.link.disambiguation import Model, contributions, probabilities, ranked
from pipeline.link.features import (
    MAX_OTHERS,
    STATIC,
    BatchTokens,
    Entities,
    FlatCandidates,
    context_features,
    pairs_of,
)
from pipeline.link.impossible import NATIONALITY, are_codes, misread
from pipeline.link.lru import LruCache
from pipeline.link.mention_features import Mention, column, in_cased_documents, mention_features
from pipeline.link.surface_features import Described, other_words, static_features
from schemas.array_types import F32, F64, I64, U8, U32, Array, Bools
from schemas.ids import FIRST_OWN

# Surface, whether it may be misspelt, longer names of the document, the longer name that it opens.
SurfaceKey = tuple[str, bool, tuple[str, ...], str]
# Surfaces: 5 KB each.
CACHE_SIZE = 20_000
MAX_SCORED = 64


@dataclass(frozen=True, slots=True)
class SurfaceCandidates:
    """Hold the candidates of a surface that the store has, and their static features.

    Nothing in it depends on the document, so it is cached. Each array has one row per candidate.
    """

    qids: U32
    # Rows in the entity store.
    rows: I64
    matches: U8
    popularity: U32
    types: U8
    # Shape (n, s), columns as in features.STATIC.
    static: F32
    # Shape (n, MAX_OTHERS): words of the label that the surface lacks, hashed as terms, 0 = none.
    others: U32


@dataclass(frozen=True, slots=True)
class Scored:
    """Hold all candidates of a batch with their features, flat, mention after mention."""

    # Shape (c,): number of the mention, ascending.
    mentions: I64
    qids: U32
    rows: I64
    matches: U8
    popularity: U32
    # Shape (c,) each.
    features: dict[str, F32]

    def take(self, order: I64) -> Scored:
        """Return some of the candidates, in the order given by their positions."""
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
    """Hold the links of all mentions of a batch.

    Candidates are flat, the best of each mention first, cut to the best few.
    """

    # Shape (m,), 0 = NIL.
    qids: U32
    # Shape (m,).
    confidence: F32
    # Shape (m + 1,): candidates of each mention.
    offsets: I64
    candidates: Scored
    # Shape (c,).
    probability: F32
    # Per group of features, what it added to the score of each candidate.
    parts: dict[str, F64]


class Linker:
    """Link mentions against one index and one store."""

    def __init__(self, index: NameIndex, entities: Entities, model: Model, reach: Reach) -> None:
        self._index = index
        self._entities = entities
        self._model = model
        self._reach = reach

        # Candidates of a surface alone; with features, and with those of longer names.
        self._found_candidates: LruCache[tuple[str, bool], Candidates] = LruCache(CACHE_SIZE)
        self._descriptions: LruCache[SurfaceKey, SurfaceCandidates] = LruCache(CACHE_SIZE)
        self._type_tables: dict[str | None, F32] = {}

    def reading(self, index: NameIndex, entities: Entities) -> Linker:
        """Return the same linker with another index and store, and empty caches."""
        return Linker(index, entities, self._model, self._reach)

    def decide(
        self, scored: Scored, num_mentions: int, *, top_k: int, min_confidence: float
    ) -> Links:
        """Return the best item of each mention, or NIL, with its best candidates."""
        return decide(scored, num_mentions, self._model, top_k, min_confidence)

    def score(self, mentions: Sequence[Mention], tokens: BatchTokens) -> Scored:
        """Return the candidates of all mentions with their features.

        Args:
            mentions: in the order of their documents.
            tokens: of all documents of the batch.
        """
        # Each distinct surface is looked up once.
        numbers: dict[SurfaceKey, int] = {}
        surface_of = np.fromiter(
            (
                numbers.setdefault(
                    (mention.surface, mention.allow_fuzzy, mention.longer, mention.full_name),
                    len(numbers),
                )
                for mention in mentions
            ),
            np.int64,
            len(mentions),
        )
        return self._flatten(mentions, tokens, self._look_up(list(numbers)), surface_of)

    def _flatten(
        self,
        mentions: Sequence[Mention],
        tokens: BatchTokens,
        surfaces: Sequence[SurfaceCandidates],
        surface_of: I64,
    ) -> Scored:
        """Return the candidates of all mentions, given those of their surfaces.

        Args:
            mentions: of the batch.
            tokens: of the batch.
            surfaces: candidates of the distinct surfaces.
            surface_of: number of each mention's surface, shape (m,).
        """
        # From surfaces to mentions: each mention copies the rows of its surface.
        sizes = np.fromiter((len(surface.qids) for surface in surfaces), np.int64, len(surfaces))
        lengths = sizes[surface_of]
        positions = spread(offsets_of(sizes)[surface_of], lengths)
        mention_of = np.repeat(np.arange(len(mentions)), lengths)
        # The empty one gives the dtype where there is no surface.
        columns: dict[str, Array] = {
            field.name: np.concatenate(
                [getattr(surface, field.name) for surface in (_NO_CANDIDATES, *surfaces)]
            )[positions]
            for field in fields(SurfaceCandidates)
        }
        is_possible = self._are_possible(mentions, mention_of, columns)
        mention_of = mention_of[is_possible]
        qids, rows, matches, popularity, types, static, others = (
            column[is_possible] for column in columns.values()
        )

        flat = FlatCandidates(
            mentions=mention_of,
            rows=rows,
            qids=qids,
            is_whole=matches <= VARIANT,
            documents=column(mentions, "document"),
            first_tokens=column(mentions, "first_token"),
            end_tokens=column(mentions, "end_token"),
            names=_names(mentions),
            others=others,
        )
        pairs = pairs_of(flat)
        features = {name: static[:, number] for number, name in enumerate(STATIC)}
        # Where most mentions begin with a small letter, as in a tweet, that says nothing.
        features["proper"] = features["proper"] * in_cased_documents(mentions)[mention_of]
        features |= context_features(flat, tokens, self._entities, pairs)
        features["type"] = self._type_agreement(mentions, mention_of, types)
        features |= mention_features(mentions, mention_of, qids, types, features)
        # Last, since its votes weigh all the others.
        features |= coherence_features(flat, features, self._entities, pairs)
        return Scored(mention_of, qids, rows, matches, popularity, features)

    @staticmethod
    def _are_possible(
        mentions: Sequence[Mention], mention_of: I64, columns: Mapping[str, Array]
    ) -> Bools:
        """Say of candidates whether their mention can mean them, shape (c,)."""
        is_misread = misread(
            [mention.reading for mention in mentions],
            mention_of,
            columns["matches"],
            columns["types"],
        )
        # "Slavic" is short for no longer name.
        is_adjective = np.fromiter(
            (mention.ner_type == NATIONALITY for mention in mentions), bool, len(mentions)
        )
        is_longer = is_adjective[mention_of] & (columns["matches"] == PARTIAL)
        is_unknown = column(mentions, "is_unknown").astype(bool)
        return ~(is_misread | is_longer | is_unknown[mention_of])

    def _type_agreement(self, mentions: Sequence[Mention], mention_of: I64, types: U8) -> F32:
        """Return how well each candidate's type agrees with the recogniser's label, shape (c,).

        Above 0 where it agrees, below where it does not, 0 where either is unknown.
        """
        labels = list(dict.fromkeys(mention.ner_type for mention in mentions))
        for label in labels:
            if label not in self._type_tables:
                self._type_tables[label] = type_table(label) - np.float32(UNKNOWN)

        # A row per label, a column per set of type bits.
        tables = (
            np.stack([self._type_tables[label] for label in labels])
            if labels
            else np.zeros((1, 1 << NUM_TYPES), np.float32)
        )
        numbers = {label: number for number, label in enumerate(labels)}
        label_of = np.fromiter(
            (numbers[mention.ner_type] for mention in mentions), np.int64, len(mentions)
        )
        agreement: F32 = tables[label_of[mention_of], types]
        return agreement

    def _candidates(self, surface: str, allow_fuzzy: bool) -> Candidates:  # noqa: FBT001
        """Return the candidates of a surface by itself, cached."""
        candidates = self._found_candidates.get((surface, allow_fuzzy))
        if candidates is None:
            candidates = find_candidates(surface, self._index, self._reach, allow_fuzzy=allow_fuzzy)
            self._found_candidates.put((surface, allow_fuzzy), candidates)
        return candidates

    def _look_up(self, keys: Sequence[SurfaceKey]) -> list[SurfaceCandidates]:
        """Return the candidates of distinct surfaces; those that are not cached all at once."""
        cached = {key: self._descriptions.get(key) for key in keys}
        new_keys = [key for key, described in cached.items() if described is None]
        new = self._describe(new_keys) if new_keys else ()
        for key, described in zip(new_keys, new, strict=True):
            self._descriptions.put(key, described)
            # No key is added, so the order stays that of the keys.
            cached[key] = described
        return [described for described in cached.values() if described is not None]

    def _candidates_of(self, key: SurfaceKey) -> Candidates:
        surface, allow_fuzzy, longer, full_name = key
        candidates = self._candidates(surface, allow_fuzzy)
        if longer:
            candidates = with_reused(candidates, [self._candidates(name, False) for name in longer])
        # "Athens" of "Athens, Georgia" is what the whole is called, if anything is.
        whole = self._candidates(full_name, False) if full_name else {}
        called = {qid for qid, candidate in whole.items() if candidate.match <= VARIANT}
        if not called & candidates.keys():
            return candidates
        return {qid: candidates[qid] for qid in candidates if qid in called}

    def _is_orphan(self, key: SurfaceKey) -> bool:
        """Say whether a surface ends longer names of its document, and no item bears any of them.

        After "Pat Riley", whom the knowledge base lacks, "Riley" is not the town of this name.
        """
        surface, _, longer, _ = key
        ending = f" {normalise(surface)}"
        named = [name for name in longer if normalise(name).endswith(ending)]
        return bool(named) and not any(
            candidate.match <= VARIANT
            for name in named
            for candidate in self._candidates(name, False).values()
        )

    def _describe(self, keys: Sequence[SurfaceKey]) -> list[SurfaceCandidates]:
        """Return the candidates that the store has, and their static features.

        Many surfaces at once, so that the store is read by arrays.
        """
        # All candidates of all surfaces, flat; `owners` holds the surface of each.

        by_item = [self._candidates_of(key) for key in keys]
        owners = np.repeat(np.arange(len(keys)), [len(candidates) for candidates in by_item])
        qids = np.fromiter(itertools.chain.from_iterable(by_item), np.uint32, len(owners))
        all_candidates = [candidate for candidates in by_item for candidate in candidates.values()]

        # Pages about pages are flagged in the store and never linked; nor is a name as such.
        rows = self._entities.rows(qids)
        is_linkable = rows >= 0
        is_linkable[is_linkable] &= ~self._entities.is_meta(rows[is_linkable])
        is_linkable[is_linkable] &= self._entities.types(rows[is_linkable]) != NAME
        chosen = np.flatnonzero(is_linkable)
        are_codes = self._are_codes([key[0] for key in keys], owners[chosen], rows[chosen])
        # What a user has added is called what the user says.
        chosen = chosen[~are_codes | (qids[chosen] >= FIRST_OWN)]
        chosen = chosen[first_per_owner(owners[chosen], MAX_SCORED)]
        rows, qids, owners = rows[chosen], qids[chosen], owners[chosen]

        # One row per chosen candidate, its columns the fields of Candidate.
        columns = np.array([all_candidates[row] for row in chosen.tolist()], np.float64)
        columns = columns.reshape(-1, len(Candidate._fields))
        matches = columns[:, Candidate._fields.index("match")].astype(np.uint8)
        popularity, types = self._entities.popularity(rows), self._entities.types(rows)
        surfaces = [key[0] for key in keys]
        labels = [self._entities.label(row) for row in rows.tolist()]
        is_orphan = np.fromiter((self._is_orphan(key) for key in keys), bool, len(keys))
        described = Described(
            qids=qids,
            popularity=popularity,
            statements=self._entities.statements(rows),
            is_primary=self._entities.is_primary(rows),
            labels=labels,
            is_orphan=is_orphan[owners],
        )
        static = static_features(surfaces, owners, described, columns)
        others = other_words(surfaces, owners, labels)

        # Copies, since a view would keep the arrays of all surfaces alive in the cache.
        bounds = np.searchsorted(owners, np.arange(len(keys) + 1)).tolist()
        arrays: tuple[Array, ...] = (qids, rows, matches, popularity, types, static, others)
        return [
            SurfaceCandidates(*(values[low:high].copy() for values in arrays))
            if low < high
            else _NO_CANDIDATES
            for low, high in itertools.pairwise(bounds)
        ]

    def _are_codes(self, surfaces: Sequence[str], owners: I64, rows: I64) -> Bools:
        """Say of candidates whether a short surface is but a code of theirs."""
        row_list = rows.tolist()
        return are_codes(
            surfaces,
            owners,
            lambda position: self._entities.label(row_list[position]),
            self._entities.types(rows),
        )


# Shared by all surfaces without candidates: nearly all that the index does not list.
_NO_CANDIDATES = SurfaceCandidates(
    qids=np.empty(0, np.uint32),
    rows=np.empty(0, np.int64),
    matches=np.empty(0, np.uint8),
    popularity=np.empty(0, np.uint32),
    types=np.empty(0, np.uint8),
    static=np.empty((0, len(STATIC)), np.float32),
    others=np.empty((0, MAX_OTHERS), np.uint32),
)


def _names(mentions: Sequence[Mention]) -> I64:
    """Return the number of each mention's text, whatever its letter case, shape (m,)."""
    numbers: dict[str, int] = {}
    return np.fromiter(
        (numbers.setdefault(mention.surface.casefold(), len(numbers)) for mention in mentions),
        np.int64,
        len(mentions),
    )


def decide(
    scored: Scored, num_mentions: int, model: Model, top_k: int, min_confidence: float
) -> Links:
    """Return the link or NIL of each mention, and its best candidates in order.

    Args:
        scored: all candidates of the batch.
        num_mentions: how many mentions the batch has, also those without a candidate.
        model: the weights.
        top_k: candidates that are returned of each mention.
        min_confidence: below this probability of the best candidate a mention is NIL.
    """
    added = contributions(scored.features, model)
    scores = np.sum([*added.values()], axis=0) + model.bias
    probability = probabilities(scores, scored.mentions, num_mentions)

    order = ranked(scored.mentions, probability, scored.popularity, scored.qids)
    order = order[first_per_owner(scored.mentions[order], top_k)]
    best = scored.take(order)
    probability = probability[order]

    # The best candidate of a mention is the one at its offset; mentions without any are NIL.
    offsets = offsets_of(np.bincount(best.mentions, minlength=num_mentions))
    has_any = offsets[1:] > offsets[:-1]
    best_rows = offsets[:-1][has_any]
    qids, confidence = np.zeros(num_mentions, np.uint32), np.zeros(num_mentions, np.float32)
    confidence[has_any] = probability[best_rows]
    qids[has_any] = np.where(probability[best_rows] >= min_confidence, best.qids[best_rows], 0)
    return Links(
        qids,
        confidence,
        offsets,
        best,
        probability,
        {name: values[order] for name, values in added.items()},
    )
