"""Train a sentence encoder as a re-ranker on the corpus's own links: `link train-reranker`.

Goes in: a run with documents, their links and an index, and any encoder. Comes out: a folder with
the encoder, trained to bring a mention's window near the text of its item and away from those of
its other candidates, and with the weight of its feature beside the linker's others. Links are held
out by document: on these the weight is fitted and the gain measured. Costs minutes on a CPU.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.arrays.runs import offsets_of
from pipeline.config import LinkConfig
from pipeline.database.kb_lookups import redirects_of
from pipeline.encoder.fine_tuning import FineTuning, RankingExample, fine_tune
from pipeline.encoder.tokenizer import check_model
from pipeline.engine import files
from pipeline.engine.errors import StageError
from pipeline.engine.sole_writer import sole_writer
from pipeline.engine.tables import RunPaths
from pipeline.index.entity_store import EntityStore
from pipeline.index.extended_index import IndexFolders
from pipeline.link.disambiguation import Model, contributions
from pipeline.link.gold import GoldDocument
from pipeline.link.linker import Scored
from pipeline.link.mention_batch import batch_of
from pipeline.link.reranker import (
    SETTINGS_FILE,
    CandidateReranker,
    Context,
    RerankerSettings,
    item_text,
)
from pipeline.link.stage import batches, contexts_of, find_mentions, open_resources
from pipeline.link.training.collect import gold_of
from pipeline.link.training.crossval import fold_of
from pipeline.link.training.held_out import HeldOutIndex, links_by_fold
from pipeline.link.training.link_gold import linked_documents
from pipeline.link.weights import load_weights
from schemas.array_types import F32, F64, I64, Bools
from schemas.bucket_cache import work_folder
from schemas.bucket_copies import send_folder
from schemas.durable import partial_of, publish_folder
from schemas.errors import ConfigError
from schemas.run_lock import LOCK_NAME

# One document in so many is held out.
HELD_OUT = 5
# A name and its item are learned from so many links at most: the frequent ones teach nothing new.
MAX_PER_PAIR = 3
# Wrong candidates of an example, those with the best scores first.
MAX_WRONG = 7
MIN_EXAMPLES = 50
# Held-out links that are scored: the cost is bounded, and so is the interval (± .02 at .9).
MAX_HELD_OUT_LINKS = 1000
# Candidates whose cosines differ by .1 are about as far apart as the best prior can put them.
MAX_WEIGHT = 60.0
logger = logging.getLogger("trelm")


@dataclass(frozen=True, kw_only=True, slots=True)
class RerankerTraining:
    """Say what to train, on what."""

    run: str
    # Name or folder of the encoder.
    model: str
    # Folder to write; it must not be there.
    out: str
    # Links to learn from, at most; 0 fits the weight alone and leaves the encoder as it is.
    max_links: int = 4000
    settings: FineTuning = FineTuning()


@dataclass(frozen=True, slots=True)
class _Links:
    """Hold the corpus's links of some documents, and their candidates.

    Legend: m links, c candidates.
    """

    contexts: list[Context]
    # Item of each link, length m.
    gold: list[int]
    scored: Scored
    surfaces: list[str]

    @property
    def is_gold(self) -> Bools:
        """Say of each candidate whether the link leads to it, shape (c,)."""
        gold = np.array(self.gold, np.uint32)
        return self.scored.qids == gold[self.scored.mentions]

    def sample(self, num_links: int, seed: int) -> _Links:
        """Return some of the links with several candidates, drawn at random, in their order."""
        sizes = np.bincount(self.scored.mentions, minlength=len(self.gold))
        chosen = np.flatnonzero(sizes > 1)
        if len(chosen) > num_links:
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, num_links, replace=False))
        is_chosen = np.zeros(len(self.gold), bool)
        is_chosen[chosen] = True
        scored = self.scored.take(np.flatnonzero(is_chosen[self.scored.mentions]))
        # The chosen links are numbered from 0 again.
        numbers = np.cumsum(is_chosen) - 1
        numbers_of = chosen.tolist()
        return _Links(
            [self.contexts[number] for number in numbers_of],
            [self.gold[number] for number in numbers_of],
            replace(scored, mentions=numbers[scored.mentions]),
            [self.surfaces[number] for number in numbers_of],
        )


def train_reranker(training: RerankerTraining, config: LinkConfig) -> dict[str, Any]:
    """Train an encoder and write it; return the figures on held-out links.

    Raises:
        ConfigError: the folder to write is there already.
        StageError: the run has no links, or too few; no such model.
        LockedError: another program writes in the folder.
    """
    _check_new(training.out)
    check_model(training.model, "encoder", "--model")
    with sole_writer(training.out):
        # Another program may have filled it since.
        _check_new(training.out)
        return _train(training, config)


def _check_new(out: str) -> None:
    """Refuse a folder that holds anything; who holds it is told by its lock.

    Raises:
        ConfigError: it is there, or is a file.
    """
    if files.is_local(out):
        folder = Path(out)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
        is_taken = folder.exists() and bool(names - {LOCK_NAME})
    else:
        lock = files.join(out, LOCK_NAME)
        is_taken = any(entry.path != lock for entry in files.list_files(files.join(out, "**")))
    if is_taken:
        raise ConfigError(f"--out {out}: is there already; give another folder")


def _train(training: RerankerTraining, config: LinkConfig) -> dict[str, Any]:
    """Train an encoder and write it to a folder that this program holds."""
    paths = RunPaths(root=training.run)
    entities, learned, held_out = _collect(paths, config)
    held_out = held_out.sample(MAX_HELD_OUT_LINKS, training.settings.seed)
    weights = load_weights(config.weights)

    reranker = CandidateReranker(training.model, entities)
    before = _figures(held_out, weights, reranker)
    report: dict[str, Any] = {"held_out_links": before["links"], "before": before}
    if training.max_links:
        reranker.reranker.settings = RerankerSettings(is_trained=True)
        examples = _examples(learned, weights, reranker, entities, training)
        if len(examples) < MIN_EXAMPLES:
            raise StageError(
                f"{training.run}: {len(examples)} of its own links have several candidates with a "
                f"text to compare; {MIN_EXAMPLES} are needed. Give a corpus with more links, or "
                "--max-links 0 to fit the weight alone"
            )
        logger.info("link train-reranker: learning from %d links", len(examples))
        report["links"] = len(examples)
        report["loss"] = fine_tune(
            reranker.reranker.encoder, examples, training.settings, _Progress()
        )
        # Vectors of the encoder as it was are of no use any more.
        reranker.reranker.forget()
        report["after"] = _figures(held_out, weights, reranker)

    best = report.get("after", before)
    settings = replace(reranker.reranker.settings, weight=best["weight"])
    _save(training.out, reranker, settings, report)
    return report


class _Progress:
    """Log every tenth of the steps."""

    def __init__(self) -> None:
        self._next, self._losses = 0.1, [0.0][:0]

    def __call__(self, share: float, loss: float) -> None:
        self._losses.append(loss)
        if share >= self._next:
            mean = sum(self._losses) / len(self._losses)
            logger.info("link train-reranker: %d %% of the steps, loss %.3f", 100 * share, mean)
            self._next, self._losses = self._next + 0.1, []


def _collect(paths: RunPaths, config: LinkConfig) -> tuple[EntityStore, _Links, _Links]:
    """Return the store, the links to learn from, and those that are held out.

    Raises:
        StageError: the run has no index or no links.
    """
    paths.require("index")
    documents = _current(linked_documents(paths), paths)
    if not documents:
        raise StageError(
            f"{paths.root}: its corpus has no links of its own to learn from; give one that has "
            "(wikitext, or JSONL with documents.links_field)"
        )
    # The links are the mentions; weights and the re-ranker do not matter here.
    config = replace(config, gold_spans="", anchors=False, mentions="detected", rerank_model="")
    resources = open_resources(config, IndexFolders.of(paths))
    resources.gold = documents

    parts: list[_Links] = []
    for fold_is_held_out in (False, True):
        chosen = {
            name: document
            for name, document in documents.items()
            if (fold_of(name, HELD_OUT) == 0) == fold_is_held_out
        }
        # The index counted these very links: it would know the answer.
        (links,) = links_by_fold(paths, chosen, 1)
        linker = resources.linker.reading(HeldOutIndex(resources.index, links), resources.entities)
        texts = [(name, document.text) for name, document in chosen.items()]
        found = []
        for batch in batches(texts):
            with_mentions = find_mentions(resources, batch, config)
            mentions, tokens = batch_of(with_mentions, resources.annotator, resources.names, "none")
            gold = list(gold_of(with_mentions, chosen))
            surfaces = [mention.surface for mention in mentions]
            scored = linker.score(mentions, tokens)
            found.append(_Links(contexts_of(with_mentions), gold, scored, surfaces))
        parts.append(_joined(found))
    return resources.entities, parts[0], parts[1]


def _current(documents: Mapping[str, GoldDocument], paths: RunPaths) -> dict[str, GoldDocument]:
    """Return documents whose links lead to what merged items are now."""
    items = {mention.qid for one in documents.values() for mention in one.mentions}
    current_qid = redirects_of(paths, {qid for qid in items if qid is not None})
    return {
        name: replace(
            one,
            mentions=tuple(
                replace(mention, qid=current_qid[mention.qid])
                for mention in one.mentions
                if mention.qid is not None
            ),
        )
        for name, one in documents.items()
    }


def _joined(found: Sequence[_Links]) -> _Links:
    """Return the links of all batches as one."""
    if not found:
        raise StageError(
            "the links are all in documents of one part, so none can be held out; give more "
            "documents"
        )
    first = offsets_of(np.array([len(links.gold) for links in found], np.int64))
    scored = [links.scored for links in found]
    return _Links(
        [context for links in found for context in links.contexts],
        [item for links in found for item in links.gold],
        Scored(
            np.concatenate(
                [one.mentions + offset for one, offset in zip(scored, first[:-1], strict=True)]
            ),
            np.concatenate([one.qids for one in scored]),
            np.concatenate([one.rows for one in scored]),
            np.concatenate([one.matches for one in scored]),
            np.concatenate([one.popularity for one in scored]),
            {
                name: np.concatenate([one.features[name] for one in scored])
                for name in scored[0].features
            },
        ),
        [surface for links in found for surface in links.surfaces],
    )


def _base_scores(links: _Links, weights: Model) -> F64:
    """Return the linear scores of all candidates without the re-ranker, shape (c,)."""
    plain = Model(weights.bias, {**weights.weights, "semantic": 0.0})
    scores: F64 = np.sum([*contributions(links.scored.features, plain).values()], axis=0)
    return scores + weights.bias


def _examples(
    links: _Links,
    weights: Model,
    reranker: CandidateReranker,
    entities: EntityStore,
    training: RerankerTraining,
) -> list[RankingExample]:
    """Return what the encoder learns from: links whose item has a rival with a text."""
    scores, is_gold = _base_scores(links, weights), links.is_gold
    bounds = np.searchsorted(links.scored.mentions, np.arange(len(links.gold) + 1)).tolist()
    with_facts = reranker.reranker.settings.is_trained

    chosen: list[tuple[Context, list[str]]] = []
    num_of_pair: Counter[tuple[str, int]] = Counter()
    order = list(range(len(links.gold)))
    random.Random(training.settings.seed).shuffle(order)
    for number in order:
        low, high = bounds[number], bounds[number + 1]
        pair = links.surfaces[number], links.gold[number]
        if len(chosen) == training.max_links:
            break
        if not is_gold[low:high].any() or num_of_pair[pair] == MAX_PER_PAIR:
            continue

        # The right one, then the wrong ones with the best scores.
        rows = low + np.lexsort((-scores[low:high], ~is_gold[low:high]))
        texts = [
            item_text(entities, row, with_facts=with_facts)
            for row in links.scored.rows[rows[: MAX_WRONG + 1]].tolist()
        ]
        wrong = [text for text in texts[1:] if text and text != texts[0]]
        if texts[0] and wrong:
            num_of_pair[pair] += 1
            chosen.append((links.contexts[number], [texts[0], *wrong]))

    windows = reranker.reranker.windows([context for context, _ in chosen])
    examples = []
    for window, (_, texts) in zip(windows, chosen, strict=True):
        examples.append(RankingExample(window, tuple(reranker.reranker.text_ids(texts))))
    return examples


def _figures(links: _Links, weights: Model, reranker: CandidateReranker) -> dict[str, Any]:
    """Return the weight that fits the held-out links best, and accuracies at those in the KB."""
    scores = _base_scores(links, weights)
    semantic = reranker(links.contexts, links.scored)
    weight = fit_weight(scores, semantic, links.scored.mentions, links.is_gold, len(links.gold))
    has_gold = np.zeros(len(links.gold), bool)
    has_gold[links.scored.mentions[links.is_gold]] = True
    return {
        "links": int(np.count_nonzero(has_gold)),
        "weight": round(weight, 3),
        "accuracy": _accuracy(links, scores, has_gold),
        "accuracy_reranked": _accuracy(links, scores + weight * semantic, has_gold),
        "accuracy_alone": _accuracy(links, semantic.astype(np.float64), has_gold),
    }


def _accuracy(links: _Links, scores: F64, has_gold: Bools) -> float:
    """Return the share of links with their item among the candidates whose best one is it."""
    mentions = links.scored.mentions
    order = np.lexsort((links.scored.qids, -scores, mentions))
    is_best = np.concatenate([[True], np.diff(mentions[order]) > 0]) if len(order) else order > 0
    right = int(np.count_nonzero(links.is_gold[order[is_best]]))
    return round(right / max(int(np.count_nonzero(has_gold)), 1), 4)


def fit_weight(
    scores: F64, feature: F32, mentions: I64, is_gold: Bools, num_mentions: int
) -> float:
    """Return the weight of one more feature under which the gold candidates are most likely.

    Only mentions with their gold item among the candidates count. All other weights stay.

    Args:
        scores: without the feature, shape (c,).
        feature: its values, shape (c,).
        mentions: of each candidate, ascending, shape (c,).
        is_gold: whether a candidate is the right one, shape (c,).
        num_mentions: how many mentions there are.
    """
    has_gold = np.zeros(num_mentions, bool)
    has_gold[mentions[is_gold]] = True
    rows = has_gold[mentions]
    if not rows.any():
        return 0.0
    scores, values = scores[rows], feature[rows].astype(np.float64)
    mentions, is_gold = mentions[rows], is_gold[rows]

    def loss(weight: float) -> float:
        weighted = scores + weight * values
        # Less the highest score, so that no exponent overflows.
        top = np.full(num_mentions, -np.inf)
        np.maximum.at(top, mentions, weighted)
        total = np.bincount(mentions, np.exp(weighted - top[mentions]), num_mentions)
        likelihood = weighted[is_gold] - top[mentions[is_gold]] - np.log(total[mentions[is_gold]])
        return -float(likelihood.mean())

    return float(minimize_scalar(loss, bounds=(0.0, MAX_WEIGHT), method="bounded").x)


def _save(
    out: str, reranker: CandidateReranker, settings: RerankerSettings, report: Mapping[str, Any]
) -> None:
    """Write the folder, whole or not at all."""
    content = {"is_trained": settings.is_trained, "weight": settings.weight, "report": report}
    text = json.dumps(content, indent=1) + "\n"
    if not files.is_local(out):
        with files.told(), work_folder() as scratch:
            reranker.reranker.encoder.save(str(scratch))
            (scratch / SETTINGS_FILE).write_text(text)
            send_folder(scratch, out.rstrip("/"), last=SETTINGS_FILE)
        return
    scratch = partial_of(Path(out))
    # What a killed program left there is written again.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    reranker.reranker.encoder.save(str(scratch))
    (scratch / SETTINGS_FILE).write_text(text)
    publish_folder(scratch, Path(out), SETTINGS_FILE)


def format_report(report: Mapping[str, Any]) -> str:
    """Return the figures in words."""
    lines = [f"{report['held_out_links']:,} held-out links with their item among the candidates"]
    for name, title in (("before", "the encoder as it was"), ("after", "trained")):
        if name in report:
            figures = report[name]
            lines.append(
                f"  {title:<24} accuracy {figures['accuracy']:.3f} → "
                f"{figures['accuracy_reranked']:.3f} with weight {figures['weight']:.1f} "
                f"(alone {figures['accuracy_alone']:.3f})"
            )
    return "\n".join(lines)
