"""Training the linker's weights on gold links: features as stage `link` makes them, a conditional logit, a weights file.

Goes in: a run with an index, gold files. Comes out: weights for `link.weights`, and figures of a cross-validation by document:
each fold is scored by weights of the others, and no link of its documents is in the counts. Links of the gold's own documents
that the index has learned from never count while these are trained on. Costs what `link` costs, and seconds for the fits.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.config import LinkConfig
from pipeline.database.kb_lookups import in_degrees, redirects_of
from pipeline.documents.anchors import anchor_texts
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.index.alias_index import AliasIndex, Postings
from pipeline.index.name_keys import SOURCE_BITS, index_keys
from pipeline.link.candidates import KeyPostings
from pipeline.link.disambiguation import Model
from pipeline.link.features import FEATURES, GROUPS
from pipeline.link.gold import GoldDocument, load_gold
from pipeline.link.linker import Linker, Mention
from pipeline.link.stage import (
    Found,
    LinkResources,
    batch_of,
    batches,
    contexts_of,
    find_mentions,
    open_resources,
)
from pipeline.link.training.crossval import GoldMentions, cross_validate, figures, fold_of
from pipeline.link.training.fitting import Examples, fit
from pipeline.link.training.misspell import misspelt
from pipeline.link.weights import HAND
from schemas import ANCHORS
from schemas.array_types import Array

FoldLinks = dict[str, Counter[int]]  # key -> item -> links of one fold
MISSPELT_SHARE = (
    0.1  # of the gold mentions: copies with one edit, so that fuzzy candidates have a weight
)
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What to train on, and how."""

    run: str
    gold_files: tuple[str, ...]
    folds: int = 5
    ablate: bool = False


def train(training: Training, config: LinkConfig) -> tuple[Model, dict[str, Any]]:
    """Weights fitted on all gold mentions, and figures of a cross-validation.

    Raises:
        StageError: no index yet, no mention or none with a candidate, a document in two gold files, or nothing to hold out.
    """
    gold = collect(training, config)
    _check(gold, training)
    names = [name for name in FEATURES if name in gold.examples.features]
    report: dict[str, Any] = {
        "folds": training.folds,
        "mentions": int(np.count_nonzero(~gold.is_copy)),
    }
    report["figures"] = _by_file(gold, names, training)
    if training.ablate:
        report["without"] = _ablation(gold, names, training)
    model = fit(gold.examples, names)
    about = {
        "version": __version__,
        "gold": [path.rsplit("/", 1)[-1] for path in training.gold_files],
        "mentions": report["mentions"],
        "held_out": report["figures"]["all"],
    }
    return Model(model.bias, model.weights, about), report


def _check(gold: GoldMentions, training: Training) -> None:
    """Refuse what no weights, or no figures, can come of."""
    shown = ", ".join(training.gold_files)
    if not len(gold.qids):
        raise StageError(
            f"{shown}: no mention has a candidate in the index of {training.run}; nothing to learn from"
        )
    if len(np.unique(gold.folds(training.folds))) < 2:
        raise StageError(
            f"{shown}: all {len(set(gold.documents))} document(s) are in one of {training.folds} folds, so none can be held "
            "out; give more documents, or another --folds"
        )


def _by_file(gold: GoldMentions, names: Sequence[str], training: Training) -> dict[str, Any]:
    probability = cross_validate(gold, names, training.folds)
    found = {"all": figures(gold, probability, ~gold.is_copy)}
    for number, path in enumerate(training.gold_files if len(training.gold_files) > 1 else ()):
        found[path.rsplit("/", 1)[-1]] = figures(
            gold, probability, (gold.files == number) & ~gold.is_copy
        )
    return found


def _ablation(gold: GoldMentions, names: Sequence[str], training: Training) -> dict[str, Any]:
    """Figures without each group of features, and without each feature of a group of several."""
    groups = {group: [name for name in own if name in names] for group, own in GROUPS.items()}
    left_out = {f"{group} (all)": own for group, own in groups.items() if len(own) > 1}
    left_out |= {name: [name] for name in names}
    found = {}
    for title, own in left_out.items():
        logger.info("link train: without %s", title)
        found[title] = _by_file(gold, [name for name in names if name not in own], training)
    return found


def collect(training: Training, config: LinkConfig) -> GoldMentions:
    """Features of all gold mentions, and of misspelt copies of some."""
    paths = RunPaths(root=training.run)
    paths.require("index")
    file_of, documents = _load(training.gold_files)
    config = replace(
        config, gold_spans="", anchors=False, weights=HAND
    )  # weights do not matter here
    resources = open_resources(
        config, paths.artefact("index", "aliases"), paths.artefact("index", "entities")
    )
    resources.gold = documents  # its spans are the mentions
    held_out = own_links(paths, documents, training.folds)
    linkers = [resources.linker.with_index(HeldOutIndex(resources.index, own)) for own in held_out]
    parts = list(_parts(resources, documents, linkers, config))
    if not sum(len(part.gold) for part in parts):
        raise StageError(f"{', '.join(training.gold_files)}: no mention to train on")
    return _joined(parts, file_of, paths, resources)


def _load(paths: Sequence[str]) -> tuple[dict[str, int], dict[str, GoldDocument]]:
    file_of: dict[str, int] = {}
    documents: dict[str, GoldDocument] = {}
    for number, path in enumerate(paths):
        for doc_id, document in load_gold(path).items():
            if doc_id in documents:
                raise StageError(f"{path}: document {doc_id!r} is in {paths[file_of[doc_id]]} too")
            documents[doc_id], file_of[doc_id] = document, number
    return file_of, documents


def own_links(
    paths: RunPaths, documents: Mapping[str, GoldDocument], folds: int
) -> list[FoldLinks]:
    """Per fold, the links of the gold's documents that the index has learned from."""
    found: list[FoldLinks] = [defaultdict(Counter) for _ in range(folds)]
    index, corpus = paths.manifest("index"), paths.manifest("documents")
    if index is None or corpus is None or "documents" not in index.inputs:
        return found
    for path in paths.files("documents", ANCHORS):
        for rows, surfaces in anchor_texts(path):
            columns = (rows.column(name).to_pylist() for name in ("doc_id", "qid"))
            for doc_id, qid, surface in zip(*columns, surfaces, strict=True):
                for key in index_keys(surface, "anchor") if doc_id in documents else ():
                    found[fold_of(doc_id, folds)][key][qid] += 1
    moved = redirects_of(
        paths, {qid for links in found for counts in links.values() for qid in counts}
    )
    for links in found:
        for (
            key,
            counts,
        ) in links.items():  # the index counts links to merged items for what these have become
            now: Counter[int] = Counter()
            for qid, count in counts.items():
                now[moved.get(qid, qid)] += count
            links[key] = now
    return found


class HeldOutIndex:
    """The alias index as if some links had never been counted."""

    def __init__(self, index: AliasIndex, links: FoldLinks) -> None:
        self._index = index
        self._links = links
        self.similar_keys = index.similar_keys
        self.items_with_word = index.items_with_word

    def postings(self, key: str) -> KeyPostings:
        """Candidates of a key; those that only these links say are left out."""
        found = self._index.postings(key)
        own = self._links.get(key)
        if own is None or not len(found.qids):
            return found
        minus = np.fromiter(
            (own.get(qid, 0) for qid in found.qids.tolist()), np.int64, len(found.qids)
        )
        counts = np.maximum(found.counts.astype(np.int64) - minus, 0).astype(np.uint32)
        order = np.argsort(
            -counts.astype(np.int64), kind="stable"
        )  # as the index has them: most pointed-to first
        kept = order[((found.flags != SOURCE_BITS["anchor"]) | (counts > 0))[order]]
        return Postings(found.qids[kept], counts[kept], found.flags[kept])


@dataclass(frozen=True, slots=True)
class _Part:
    """One batch."""

    features: dict[str, Array]
    mentions: Array
    qids: Array
    matches: Array
    gold: list[int]
    doc_ids: list[str]
    is_copy: list[bool]


def _parts(
    resources: LinkResources,
    documents: Mapping[str, GoldDocument],
    linkers: Sequence[Linker],
    config: LinkConfig,
) -> Iterator[_Part]:
    done = 0
    for fold, linker in enumerate(linkers):
        own = [
            (name, document.text)
            for name, document in documents.items()
            if fold_of(name, len(linkers)) == fold
        ]
        for batch in batches(own):
            found = find_mentions(resources, batch, config)
            yield _part(resources, linker, found, documents, fuzzy=config.fuzzy)
            done += len(batch)
            logger.info("link train: %d of %d documents", done, len(documents))


def _part(
    resources: LinkResources,
    linker: Linker,
    found: Sequence[Found],
    documents: Mapping[str, GoldDocument],
    *,
    fuzzy: bool,
) -> _Part:
    mentions, tokens = batch_of(found, resources.annotator, fuzzy=fuzzy)
    gold = list(_gold_of(found, documents))
    copies = list(_misspelt_copies(found, mentions)) if fuzzy else []
    everything = [*mentions, *(copy for _, copy in copies)]
    scored = linker.score(everything, tokens)
    if resources.rerank is not None:
        contexts = contexts_of(found)
        scored.features["semantic"] = resources.rerank(
            [*contexts, *(contexts[place] for place, _ in copies)], scored
        )
    return _Part(
        scored.features,
        scored.mentions,
        scored.qids,
        scored.matches,
        [*gold, *(gold[place] for place, _ in copies)],
        [found[mention.document].doc_id for mention in everything],
        [False] * len(mentions) + [True] * len(copies),
    )


def _misspelt_copies(
    found: Sequence[Found], mentions: Sequence[Mention]
) -> Iterator[tuple[int, Mention]]:
    """Misspelt copies of some mentions, and which they are of; the same ones however documents are batched."""
    chances = [random.Random(document.doc_id) for document in found]
    for place, mention in enumerate(mentions):
        chance = chances[mention.document]
        if chance.random() < MISSPELT_SHARE:
            surface = misspelt(mention.surface, chance)
            if surface != mention.surface:
                yield place, replace(mention, surface=surface, longer=())


def _gold_of(found: Sequence[Found], documents: Mapping[str, GoldDocument]) -> Iterator[int]:
    for document in found:
        said = {
            (mention.start, mention.end): mention.qid
            for mention in documents[document.doc_id].mentions
        }
        for span in document.spans:
            yield said[span.start, span.end] or 0


def _joined(
    parts: Sequence[_Part], file_of: Mapping[str, int], paths: RunPaths, resources: LinkResources
) -> GoldMentions:
    sizes = [len(part.gold) for part in parts]
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    items = [qid if 0 < qid < 1 << 32 else 0 for part in parts for qid in part.gold]
    moved = redirects_of(paths, set(items))
    said = np.array([moved[qid] for qid in items], np.uint32)
    gold = np.where(resources.entities.rows(said) >= 0, said, 0).astype(np.uint32)
    qids = np.concatenate([part.qids for part in parts])
    mentions = np.concatenate(
        [part.mentions + first for part, first in zip(parts, firsts, strict=True)]
    )
    degrees = in_degrees(paths, set(qids.tolist()))
    doc_ids = [doc_id for part in parts for doc_id in part.doc_ids]
    return GoldMentions(
        examples=Examples(
            features={
                name: np.concatenate([part.features[name] for part in parts])
                for name in parts[0].features
            },
            mentions=mentions,
            is_gold=qids == gold[mentions],
            num_mentions=len(gold),
        ),
        qids=qids,
        matches=np.concatenate([part.matches for part in parts]),
        in_degree=np.fromiter((degrees.get(qid, 0) for qid in qids.tolist()), np.int64, len(qids)),
        gold=gold,
        documents=doc_ids,
        files=np.array([file_of[doc_id] for doc_id in doc_ids], np.int64),
        is_copy=np.array([flag for part in parts for flag in part.is_copy], bool),
    )
