"""Choose the sentences whose mentions are scored: all, or only those that injection can need.

A random sample of the sentences is always scored. From it come the corpus median, which the policies
compare with, and the report's figures of frequent entities. So the median is the same number, and
every decision about rare entities the same, whether all sentences are scored or only the needed ones.

A sentence is needed if it has a mention of a rare entity: the policies compare a rare entity with the
mean of its sentence, so they need the scores of all mentions in it, and of no other sentence.

Legend: S sentences of a unit, M linked mentions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays.hashing import GOLDEN, hash_texts, splitmix64
from pipeline.link.linked_sentences import LinkedUnit
from schemas.array_types import U32, U64, Bools


@dataclass(frozen=True, slots=True)
class ChosenSentences:
    """Say which sentences of a unit are in the sample, and which are scored."""

    # Share of all sentences in the sample, 0 to 1.
    share: float
    # QIDs of the rare entities, in order; None scores all sentences.
    rare: U32 | None

    def sampled(self, linked: LinkedUnit) -> Bools:
        """Return whether each sentence is in the sample, shape (S,).

        It follows from the document's id and the sentence's place alone, so the units do not matter.
        """
        if self.share >= 1:
            return np.ones(len(linked.document), np.bool_)
        of_document = hash_texts(linked.doc_ids.to_pylist())
        numbers: U64 = splitmix64(
            of_document[linked.document] + GOLDEN * linked.start.astype(np.uint64)
        )
        return numbers / float(1 << 64) < self.share

    def scored(self, linked: LinkedUnit, is_sampled: Bools) -> Bools:
        """Return whether each mention is scored, shape (M,).

        Args:
            linked: the unit.
            is_sampled: of its sentences, shape (S,).
        """
        if self.rare is None:
            return np.ones(len(linked.qid), np.bool_)
        places = np.searchsorted(self.rare, linked.qid)
        padded = np.append(self.rare, np.uint32(0))
        is_rare = (places < len(self.rare)) & (padded[places] == linked.qid)
        is_needed = is_sampled.copy()
        is_needed[linked.sentence[is_rare]] = True
        return is_needed[linked.sentence]
