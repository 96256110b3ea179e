"""One mention from surface to links row: candidates, scores, ranking. Pure, given an index and an entity store.

Bounded caches: candidates are the same for the same surface, terms for the same window of text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.core.candidates import Candidates, NameIndex, exact_candidates, fuzzy_candidates
from pipeline.core.disambiguation import (
    Scores,
    context_score,
    log_prior,
    probabilities,
    ranked,
    string_score,
)
from pipeline.core.entity_types import type_table

CACHE_SIZE = 50_000
MAX_SCORED = 64


class Entities(Protocol):
    """What linking needs of the entity store."""

    idf: np.ndarray

    def rows(self, qids: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def popularity(self, rows: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def types(self, rows: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def is_meta(self, rows: np.ndarray) -> np.ndarray: ...  # noqa: D102
    def label(self, row: int) -> str: ...  # noqa: D102
    def terms(self, row: int) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSettings:
    """What decides a link, apart from the knowledge base."""

    bias: float
    weights: tuple[float, float, float, float]
    top_k: int
    min_confidence: float
    fuzzy: bool
    fuzzy_cutoff: float


@dataclass(frozen=True, slots=True)
class Link:
    """The outcome for one mention."""

    qid: int | None
    confidence: float
    candidates: list[dict[str, Any]]


NIL = Link(None, 0.0, [])


@dataclass(frozen=True, slots=True)
class _Known:
    """Candidates that the store has, with all that does not depend on the context."""

    qids: np.ndarray
    rows: np.ndarray
    popularity: np.ndarray
    prior: np.ndarray
    string: np.ndarray
    types: np.ndarray


class Linker:
    """Links mentions against one index and one store."""

    def __init__(
        self,
        index: NameIndex,
        entities: Entities,
        settings: LinkSettings,
        text_terms: Callable[[str], set[int]],
    ) -> None:
        self._index = index
        self._entities = entities
        self._settings = settings
        self._text_terms = text_terms
        self._cache: OrderedDict[tuple[str, bool], _Known | None] = OrderedDict()
        self._type_tables: dict[str | None, np.ndarray] = {}

    def link(self, surface: str, ner_type: str | None, context: str, *, allow_fuzzy: bool) -> Link:
        """The best item for a mention, or NIL, with the scores of its best candidates.

        Args:
            surface: text of the mention.
            ner_type: the recogniser's label, or None.
            context: text around the mention; the surface's own words are left out of it.
            allow_fuzzy: whether a name without an exact key may be matched approximately.
        """
        known = self._known(surface, allow_fuzzy and self._settings.fuzzy)
        if known is None:
            return NIL
        terms = self._text_terms(context) - self._text_terms(surface)
        scores = Scores(
            prior=known.prior,
            string=known.string,
            context=context_score(
                np.array(sorted(terms), np.uint32),
                [self._entities.terms(int(row)) for row in known.rows],
                self._entities.idf,
            ),
            type=self._type_table(ner_type)[known.types],
        )
        return self._decide(known, scores)

    def _decide(self, known: _Known, scores: Scores) -> Link:
        probability = probabilities(scores, self._settings.bias, self._settings.weights)
        order = ranked(probability, known.popularity, known.qids)[: self._settings.top_k]
        candidates = [
            {
                "qid": int(known.qids[row]),
                "score": float(probability[row]),
                "prior": float(scores.prior[row]),
                "string": float(scores.string[row]),
                "context": float(scores.context[row]),
                "type": float(scores.type[row]),
            }
            for row in order
        ]
        best = int(order[0])
        confidence = float(probability[best])
        qid = int(known.qids[best]) if confidence >= self._settings.min_confidence else None
        return Link(qid, confidence, candidates)

    def _known(self, surface: str, allow_fuzzy: bool) -> _Known | None:  # noqa: FBT001
        key = (surface, allow_fuzzy)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        found = exact_candidates(surface, self._index)
        if allow_fuzzy and len(found.qids) == 0:
            found = fuzzy_candidates(surface, self._index, self._settings.fuzzy_cutoff)
        known = self._describe(surface, found)
        self._cache[key] = known
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return known

    def _describe(self, surface: str, found: Candidates) -> _Known | None:
        rows = self._entities.rows(found.qids)
        keep = rows >= 0
        keep[keep] &= ~self._entities.is_meta(rows[keep])  # pages about pages are flagged, never linked
        places = np.flatnonzero(keep)[:MAX_SCORED]
        if len(places) == 0:
            return None
        rows = rows[places]
        popularity = self._entities.popularity(rows)
        labels = [self._entities.label(int(row)) for row in rows]
        return _Known(
            qids=found.qids[places],
            rows=rows,
            popularity=popularity,
            prior=log_prior(found.counts[places], popularity),
            string=string_score(surface, labels, found.similarity[places]),
            types=self._entities.types(rows),
        )

    def _type_table(self, ner_type: str | None) -> np.ndarray:
        if ner_type not in self._type_tables:
            self._type_tables[ner_type] = type_table(ner_type)
        return self._type_tables[ner_type]
