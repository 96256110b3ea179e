"""Make the chooser of a run's facts or mentions: every policy asks equally many, if it has them."""

from __future__ import annotations

import logging

import numpy as np

from schemas.array_types import I64
from schemas.shards import NO_POLICY, SPLITS
from trelm_train.config import ALL_FACTS, ASK_MENTIONS, FactsConfig
from trelm_train.data.sentences import in_file_order, read_sentences
from trelm_train.data.shards import Shards
from trelm_train.facts.plan import Chooser, FactChooser, MentionChooser, policy_marks

log = logging.getLogger(__name__)


def make_chooser(
    config: FactsConfig, shards: Shards, *, seed: int, spelling: I64 | None = None
) -> Chooser:
    """Return the chooser of a run.

    `facts.share` counts in all sentences with facts (or with mentions), so a policy that marks few
    of them asks each with a higher probability: policies are compared at an equal number.

    `spelling` says which tokens read the same (`Vocabulary`).

    Raises:
        ConfigError: the shards have no bits for the policy.
    """
    if config.policy == NO_POLICY:
        return _chooser(config, 0.0, seed, spelling)
    if config.policy == ALL_FACTS:
        return _chooser(config, config.share, seed, spelling)

    # Refused before the count: shards without its bits would give a run that asks nothing.
    shards.check_policy(config.policy, setting="facts.policy")
    num_sentences, num_marked = count_fact_sentences(shards, config)
    num_wanted = config.share * num_sentences
    # A sentence cannot be asked more than once per visit, so 1 is the limit.
    probability = min(1.0, num_wanted / num_marked) if num_marked else 0.0
    if num_marked < num_wanted:
        log.warning(
            "facts.policy %s marks %d of %d sentences with %s, fewer than facts.share = %s asks; "
            "all of them are asked",
            config.policy,
            num_marked,
            num_sentences,
            "mentions" if config.ask == ASK_MENTIONS else "facts",
            config.share,
        )
    return _chooser(config, probability, seed, spelling)


def _chooser(config: FactsConfig, probability: float, seed: int, spelling: I64 | None) -> Chooser:
    make = MentionChooser if config.ask == ASK_MENTIONS else FactChooser
    return make(
        policy=config.policy,
        probability=probability,
        seed=seed,
        statements=config.statements,
        spelling=spelling,
    )


def count_fact_sentences(shards: Shards, config: FactsConfig) -> tuple[int, int]:
    """Count the training sentences with a fact, and those with one whose head the policy marks.

    Where mentions are asked, they count in the place of facts. Statements count only where they are
    asked. Cost: one reading of the shards, about a thousandth of an epoch's training.
    """
    num_sentences = num_marked = 0
    for group in in_file_order(shards.row_groups):
        sentences = read_sentences([group], SPLITS[0])
        heads, policies = sentences.fact_head, sentences.span_policies
        asked = policies if config.ask == ASK_MENTIONS else heads
        serves_N = (np.diff(asked.offsets) > 0) & (config.statements | ~sentences.is_statement_N)
        sentence_F = np.repeat(np.arange(len(sentences)), np.diff(asked.offsets))
        # A fact names its head by the span's number within the sentence.
        place_F = policies.offsets[sentence_F] + heads.values if asked is heads else slice(None)
        bits_F = policies.values[place_F].astype(np.int64)

        is_marked_F = policy_marks(bits_F, config.policy) & serves_N[sentence_F]
        num_sentences += int(serves_N.sum())
        num_marked += len(np.unique(sentence_F[is_marked_F]))
    return num_sentences, num_marked
