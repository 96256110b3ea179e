"""Train the linker's weights on gold links: features as stage `link` computes them, then a fit.

Goes in: a run with an index, and gold files or the run's own links. Comes out: weights for
`link.weights`, and figures of a cross-validation by document: each fold is scored by weights of the
others, and no link of its documents is in the counts. Costs what `link` costs, and seconds for the
fits.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.config import LinkConfig
from pipeline.engine.errors import StageError
from pipeline.link.disambiguation import Model
from pipeline.link.features import FEATURES, GROUPS, LOCAL
from pipeline.link.training.collect import Training, collect
from pipeline.link.training.crossval import (
    GoldMentions,
    choose_penalty,
    cross_validate,
    figures,
    fitting_for,
    log_loss,
    probability_of,
)
from pipeline.link.training.fitting import Fitting, fit
from pipeline.link.weights import TRAINED, load_weights

logger = logging.getLogger("trelm")


def train(training: Training, config: LinkConfig) -> tuple[Model, dict[str, Any]]:
    """Return weights fitted on all gold mentions, and figures of a cross-validation.

    Raises:
        StageError: the run has no index yet; no mention, or none with a candidate; a document is in
            two gold files; or nothing can be held out.
    """
    gold = collect(training, config)
    _check(gold, training)

    names = _names(gold, training)
    fitting = choose_penalty(gold, fitting_for(gold, names), training.folds)
    report: dict[str, Any] = {
        "folds": training.folds,
        "mentions": int(np.count_nonzero(~gold.is_copy)),
        "known": dict(gold.known),
        "kept": list(fitting.kept),
        "penalty": fitting.penalty,
    }
    report["figures"] = _by_file(gold, fitting, training)
    # What these weights are to be better than.
    shipped = probability_of(gold.examples, load_weights(TRAINED))
    report["shipped"] = figures(gold, shipped, ~gold.is_copy)
    fitted = cross_validate(gold, fitting, training.folds)
    report["loss"] = {
        name: round(log_loss(gold, probability), 4)
        for name, probability in (("fitted", fitted), ("shipped", shipped))
    }
    if training.ablate:
        report["without"] = _ablation(gold, fitting, training)

    # Fitted on all mentions, misspelt copies included; the figures above count no copy.
    model = fit(gold.examples, fitting)
    about = {
        "version": __version__,
        "gold": [_file_name(path) for path in training.gold_files] or ["links of the corpus"],
        "mentions": report["mentions"],
        "kept": report["kept"],
        "penalty": fitting.penalty,
        "held_out": report["figures"]["all"],
        "shipped": report["shipped"],
        "loss": report["loss"],
    }
    return Model(model.bias, model.weights, about), report


def _names(gold: GoldMentions, training: Training) -> list[str]:
    """Return the features to fit.

    Links of a wiki lead to items that have a page, from the first mention on: `title`, `primary`
    and `position` would learn just that, and count against the items of the tail.
    """
    # Without a re-ranker there is no feature `semantic`.
    left_out = frozenset() if training.gold_files else LOCAL - frozenset(GROUPS["semantic"])
    return [name for name in FEATURES if name in gold.examples.features and name not in left_out]


def _check(gold: GoldMentions, training: Training) -> None:
    """Refuse gold from which no weights, or no figures, can be computed.

    Raises:
        StageError: no mention has a candidate, or all documents are in one fold.
    """
    # Both would otherwise show as weights or figures of 0.
    if not len(gold.qids):
        raise StageError(
            f"{training.source}: no mention has a candidate in the index of {training.run}; "
            "nothing to learn from"
        )
    if len(np.unique(gold.folds(training.folds))) < 2:
        raise StageError(
            f"{training.source}: all {len(set(gold.documents))} document(s) are in one of "
            f"{training.folds} folds, so none can be held out; give more documents, "
            "or another --folds"
        )


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _by_file(gold: GoldMentions, fitting: Fitting, training: Training) -> dict[str, Any]:
    """Return the held-out figures of all mentions, and of each of several gold files."""
    probability = cross_validate(gold, fitting, training.folds)
    figures_of = {"all": figures(gold, probability, ~gold.is_copy)}
    if len(training.gold_files) > 1:
        for number, path in enumerate(training.gold_files):
            is_of_file = (gold.files == number) & ~gold.is_copy
            figures_of[_file_name(path)] = figures(gold, probability, is_of_file)
    return figures_of


def _ablation(gold: GoldMentions, fitting: Fitting, training: Training) -> dict[str, Any]:
    """Return figures without each group of features, and without each feature."""
    names_of_group = {
        group: [name for name in group_names if name in fitting.names]
        for group, group_names in GROUPS.items()
    }
    # A group of one feature would be the same as this feature.
    left_out = {
        f"{group} (all)": group_names
        for group, group_names in names_of_group.items()
        if len(group_names) > 1
    }
    left_out |= {name: [name] for name in fitting.names}

    figures_without = {}
    for title, removed in left_out.items():
        logger.info("link train: without %s", title)
        remaining = tuple(name for name in fitting.names if name not in removed)
        figures_without[title] = _by_file(gold, replace(fitting, names=remaining), training)
    return figures_without
