"""Asked facts: which ones, where their tails are hidden, and what counts as a target."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import ConfigError
from schemas.shards import POLICY_BITS
from tests.trelm_train import world
from tests.trelm_train.conftest import request_for, some_sentences
from trelm_train.config import FactsConfig, MaskingConfig
from trelm_train.data.loader import Batch, BatchStream, Position, assemble
from trelm_train.data.masking import MaskedBatch, Vocabulary, mask_batch
from trelm_train.data.sentences import read_sentences
from trelm_train.data.shards import Shards, open_shards
from trelm_train.facts.chooser import count_fact_sentences, make_chooser
from trelm_train.facts.plan import FactChooser, MentionChooser, ask, hide, mentions
from trelm_train.training.session import start_run
from trelm_train.training.step import count
from trelm_train.training.step_inputs import StepInputs

EVERY = FactChooser(policy="all", probability=1.0, seed=0)


@pytest.fixture
def masked(batch: Batch, vocabulary: Vocabulary) -> MaskedBatch:
    return mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)


def test_every_token_of_every_mention_of_a_tail_is_hidden_and_asked(
    batch: Batch, masked: MaskedBatch, vocabulary: Vocabulary
) -> None:
    facts = EVERY.choose(batch, masked)
    hidden = mentions(batch, facts.sentence_G, facts.tail_G)
    ids = hide(batch, masked.input_ids_RS, hidden, vocabulary.mask_id).reshape(-1)
    asked = ask(batch, masked, hidden)

    wanted = {}  # position of each asked token, and what stood there
    tail_of = dict(zip(facts.sentence_G.tolist(), facts.tail_G.tolist(), strict=True))
    for place, entity in enumerate(batch.span_entity_P.tolist()):
        if tail_of.get(int(batch.span_sentence_P[place])) == entity:
            for at in range(int(batch.span_start_P[place]), int(batch.span_end_P[place])):
                wanted[at] = int(batch.input_ids_RS.reshape(-1)[at])
    assert len(wanted) > len(facts) > 5, "some tails have several tokens"
    assert all(ids[at] == vocabulary.mask_id for at in wanted)
    assert dict(
        zip(asked.target_M[asked.asked_M].tolist(), asked.gold_M[asked.asked_M].tolist(), strict=True)
    ) == wanted  # fmt: skip

    # The other targets stay as they were, in order, and each position is a target once.
    others = set(masked.target_M.tolist()) - set(wanted)
    assert set(asked.target_M[~asked.asked_M].tolist()) == others
    assert (np.diff(asked.target_M) > 0).all()
    assert set(np.flatnonzero(asked.chosen_RS.reshape(-1)).tolist()) == set(asked.target_M.tolist())


def test_a_tail_that_stays_visible_is_not_asked(batch: Batch, masked: MaskedBatch) -> None:
    facts = EVERY.choose(batch, masked)
    ids = batch.input_ids_RS.copy()
    flat = ids.reshape(-1)
    in_mention = np.zeros(flat.size, np.bool_)
    for start, end in zip(batch.span_start_P, batch.span_end_P, strict=True):
        in_mention[start:end] = True

    # In every other sentence the tail is named once more, without a link.
    repeated = set()
    for fact in range(0, len(facts), 2):
        sentence, tail = facts.sentence_G[fact], facts.tail_span_G[fact]
        words = np.arange(batch.start_N[sentence] + 1, batch.end_N[sentence] - 1)
        free = words[~in_mention[words]]
        name = flat[batch.span_start_P[tail] : batch.span_end_P[tail]]
        if len(free) >= len(name):
            flat[free[: len(name)]] = name
            repeated.add(int(facts.key_G[fact]))
    asked = EVERY.choose(replace(batch, input_ids_RS=ids), masked)
    assert len(repeated) > 3
    assert set(asked.key_G.tolist()) == set(facts.key_G.tolist()) - repeated

    # A head that has the tail's name in its own is asked about: a probe shows that name too.
    ids = batch.input_ids_RS.copy()
    head, tail = facts.head_span_G, facts.tail_span_G
    ids.reshape(-1)[batch.span_start_P[head]] = ids.reshape(-1)[batch.span_start_P[tail]]
    same = EVERY.choose(replace(batch, input_ids_RS=ids), masked)
    assert np.array_equal(same.key_G, facts.key_G)


def test_facts_do_not_depend_on_the_packing(stream: BatchStream, vocabulary: Vocabulary) -> None:
    sentences = some_sentences(stream)

    def by_sentence(rows: list[list[int]]) -> dict[int, tuple[int, int]]:
        packed = assemble(sentences, rows, Position(), 0)
        chosen = replace(EVERY, probability=0.6).choose(
            packed, mask_batch(packed, MaskingConfig(), vocabulary, seed=0, epoch=0)
        )
        columns = (chosen.key_G.tolist(), chosen.head_G.tolist(), chosen.tail_G.tolist())
        return {key: (head, tail) for key, head, tail in zip(*columns, strict=True)}

    order = list(range(len(sentences)))
    whole = by_sentence([order])
    assert whole == by_sentence([[row] for row in reversed(order)])
    assert 5 < len(whole) < len(sentences)


@pytest.mark.parametrize("policy", ["long-tail-important", "high-frequency"])
def test_a_policy_asks_only_facts_whose_head_it_marks(
    policy: str, batch: Batch, masked: MaskedBatch
) -> None:
    bits = np.zeros(len(batch.span_start_P), np.int64)
    bits[::3] = POLICY_BITS[policy]
    marked = replace(batch, span_policies_P=bits)
    chosen = replace(EVERY, policy=policy).choose(marked, masked)
    assert len(chosen) > 1
    assert (chosen.head_span_G % 3 == 0).all()
    assert not len(replace(EVERY, policy="klt").choose(marked, masked))
    assert not len(replace(EVERY, policy="none").choose(marked, masked))


def test_a_mention_is_asked_by_itself(
    batch: Batch, masked: MaskedBatch, vocabulary: Vocabulary
) -> None:
    every = MentionChooser(policy="all", probability=1.0, seed=0)
    chosen = every.choose(batch, masked)
    # One per sentence, of either end of the fact.
    assert len(chosen) == len(set(chosen.sentence_G.tolist())) == len(batch.key_N)
    assert (chosen.tail_span_G == chosen.head_span_G).all()
    heads = set(batch.fact_head_F.tolist())
    num_heads = sum(span in heads for span in chosen.tail_span_G.tolist())
    assert 0 < num_heads < len(chosen)

    # Its words are gone wherever the sentence mentions it, and are targets.
    hidden = mentions(batch, chosen.sentence_G, chosen.tail_G)
    ids = hide(batch, masked.input_ids_RS, hidden, vocabulary.mask_id).reshape(-1)
    asked = ask(batch, masked, hidden)
    for span in chosen.tail_span_G.tolist():
        place = np.arange(batch.span_start_P[span], batch.span_end_P[span])
        assert (ids[place] == vocabulary.mask_id).all()
        assert np.isin(place, asked.target_M[asked.asked_M]).all()

    # A policy speaks of the mention itself.
    bits = np.zeros(len(batch.span_start_P), np.int64)
    bits[::3] = POLICY_BITS["importance"]
    marked = replace(batch, span_policies_P=bits)
    of_policy = replace(every, policy="importance").choose(marked, masked)
    assert len(of_policy) > 1
    assert (of_policy.tail_span_G % 3 == 0).all()


def test_a_mention_whose_words_stay_visible_is_not_asked(batch: Batch, masked: MaskedBatch) -> None:
    every = MentionChooser(policy="all", probability=1.0, seed=0)
    span = int(every.choose(batch, masked).tail_span_G[0])
    # The other mention of the sentence gets the same words.
    sentence = batch.span_sentence_P[span]
    (other,) = set(np.flatnonzero(batch.span_sentence_P == sentence).tolist()) - {span}
    ids = batch.input_ids_RS.copy()
    flat = ids.reshape(-1)
    flat[batch.span_start_P[other] : batch.span_end_P[other]] = flat[batch.span_start_P[span]]
    flat[batch.span_start_P[span] : batch.span_end_P[span]] = flat[batch.span_start_P[span]]
    again = every.choose(replace(batch, input_ids_RS=ids), masked)
    assert sentence not in again.sentence_G


def test_mentions_are_counted_in_the_place_of_facts(tokenizer: Any, tmp_path: Path) -> None:
    columns = world.example_columns(tokenizer)
    for place in range(0, len(columns["doc_id"]), 3):
        # The tail's mention, which is no head of a fact.
        columns["span_policies"][place] = [0, POLICY_BITS["importance"]]
    knowledge = world.knowledge_columns(tokenizer)
    shards = open_shards(world.write_shards(tmp_path / "shards", tokenizer, columns, knowledge))
    of_facts, marked_facts = count_fact_sentences(shards, FactsConfig(policy="importance"))
    config = FactsConfig(policy="importance", ask="mentions")
    of_mentions, marked_mentions = count_fact_sentences(shards, config)
    assert of_facts == of_mentions
    assert marked_facts == 0 < marked_mentions < of_mentions
    assert isinstance(make_chooser(config, shards, seed=0), MentionChooser)


def test_policies_ask_equally_many(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = world.example_columns(tokenizer)
    for place in range(0, len(columns["doc_id"]), 3):
        columns["span_policies"][place] = [POLICY_BITS["importance"]] * 2
    knowledge = world.knowledge_columns(tokenizer)
    shards = open_shards(world.write_shards(tmp_path / "shards", tokenizer, columns, knowledge))
    num_sentences, num_marked = count_fact_sentences(shards, FactsConfig(policy="importance"))
    assert 0 < num_marked < num_sentences
    share = num_marked / num_sentences / 2
    chooser = make_chooser(FactsConfig(policy="importance", share=share), shards, seed=0)
    assert chooser.probability == pytest.approx(0.5)
    assert make_chooser(FactsConfig(share=share), shards, seed=0).probability == share
    assert not caplog.messages
    assert make_chooser(FactsConfig(policy="importance"), shards, seed=0).probability == 1.0
    assert f"marks {num_marked} of {num_sentences} sentences" in caplog.text


def test_facts_of_statements_can_be_left_out(
    tokenizer: Any, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    columns = world.example_columns(tokenizer)
    training = [place for place, split in enumerate(columns["split"]) if split == "train"]
    for place in training[::2]:
        columns["is_statement"][place] = True
    knowledge = world.knowledge_columns(tokenizer)
    shards = open_shards(world.write_shards(tmp_path / "shards", tokenizer, columns, knowledge))
    sentences = read_sentences(shards.row_groups, "train")
    assert sentences.is_statement_N.sum() == len(training[::2])
    batch = assemble(sentences, [[row] for row in reversed(range(len(sentences)))], Position(), 0)
    masked = mask_batch(batch, MaskingConfig(), vocabulary, seed=0, epoch=0)

    asked = {}
    for statements in (True, False):
        config = FactsConfig(statements=statements, policy="long-tail-important")
        facts = make_chooser(config, shards, seed=0).choose(batch, masked)
        asked[statements] = facts.sentence_G
        wanted = len(training) if statements else len(training) - len(training[::2])
        assert count_fact_sentences(shards, config) == (wanted, wanted)
    is_statement_G = batch.is_statement_N[asked[True]]
    assert 3 < is_statement_G.sum() < len(asked[True])
    # The others are asked as before.
    assert asked[False].tolist() == asked[True][~is_statement_G].tolist()


def test_a_policy_without_bits_is_refused(shards: Shards) -> None:
    bare = replace(shards, policies=("all",))
    with pytest.raises(ConfigError, match=r"facts\.policy 'klt'"):
        make_chooser(FactsConfig(policy="klt"), bare, seed=0)


def test_the_loss_is_the_mean_over_targets_and_asked_tokens(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Against a plain computation: one cross-entropy per target, an asked one twice as heavy."""
    sets = ("facts.enabled=true", "facts.share=1", "facts.weight=2", "cka.enabled=false",
            "injection.enabled=false", "routing.policy=full", "train.precision=float32", "train.dropout=0")  # fmt: skip
    session = start_run(request_for(shards_path, model_path, tmp_path / "out", *sets))
    components = session.components
    (batch, _) = next(session.stream.iterate(Position()))
    micro = session.preparer(batch, 0)
    inputs = StepInputs(micro_batches=(micro,), following=session.position)
    totals = count(components, inputs)
    assert (totals.asked, totals.contrasted) == (micro.num_asked, 0)
    assert totals.asked_tokens > totals.asked > 5

    with torch.no_grad():
        states = components.model.encode(components.model.pack(batch, micro.input_ids_RS))
        at = torch.from_numpy(micro.masked.target_M)
        logits = components.model.logits(states.reshape(-1, components.model.hidden_size)[at])
        each = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(micro.masked.gold_M), reduction="none"
        )
    weight = torch.where(torch.from_numpy(micro.masked.asked_M), 2.0, 1.0)
    from trelm_train.training.step import train_step

    taken = train_step(components, inputs, 0)
    assert taken.loss == pytest.approx(float((each * weight).sum() / weight.sum()), rel=1e-4)
    assert taken.fact_loss == pytest.approx(float(each[weight == 2].mean()), rel=1e-4)
    assert taken.mlm_loss == pytest.approx(float(each[weight == 1].mean()), rel=1e-4)


def test_a_rank_without_facts_counts_none(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    request = request_for(
        shards_path, model_path, tmp_path / "out", "facts.enabled=false", "cka.enabled=false"
    )
    session = start_run(request)
    for batch, _ in itertools.islice(session.stream.iterate(Position()), 2):
        micro = session.preparer(batch, 0)
        assert not micro.masked.asked_M.any()
        assert not micro.hidden_P.any()
        assert micro.input_ids_RS is micro.masked.input_ids_RS
