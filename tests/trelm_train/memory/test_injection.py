from dataclasses import replace

import numpy as np
import pytest
import torch

from schemas.shards import POLICY_BITS
from tests.trelm_train.world import COUNTRIES, ROW
from trelm_train.config import InjectionConfig, MemoryConfig
from trelm_train.data.arrays import from_lengths
from trelm_train.data.knowledge import Knowledge
from trelm_train.data.loader import Batch, BatchStream, Position, assemble, sentences_from_lists
from trelm_train.memory.injection import (
    InitialEmbeddings,
    Injector,
    chosen_spans,
    freeze_embeddings,
    sample_triples,
    spelt_out,
    triple_vectors,
    usable_triples,
)
from trelm_train.memory.memory_bank import MemoryBank, Notes
from trelm_train.model.masked_lm import MaskedLm

ALWAYS = InjectionConfig(dropout=0.0, masked_probability=1.0)


@pytest.fixture
def initial(model: MaskedLm, knowledge: Knowledge) -> InitialEmbeddings:
    return freeze_embeddings(model.word_embeddings.weight, knowledge)


def nothing(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(batch.input_ids_RS.shape, np.bool_), np.zeros(len(batch.span_start_P), np.bool_)


def notes(rows: np.ndarray, sentences: np.ndarray, values: torch.Tensor) -> Notes:
    zeros = np.zeros(len(rows), np.int64)
    both = torch.stack([values, values], dim=1)
    return Notes(row_O=rows, sentence_O=sentences, epoch_O=zeros, start_O=zeros, value_O2H=both)


def full_bank(knowledge: Knowledge, hidden: int) -> MemoryBank:
    bank = MemoryBank(knowledge.num_bank_rows, hidden, MemoryConfig())
    rows = np.repeat(np.arange(knowledge.num_bank_rows), 2)
    values = torch.randn(len(rows), hidden, generator=torch.Generator().manual_seed(0))
    sentences = np.tile(np.asarray([9001, 9002]), knowledge.num_bank_rows)
    bank.write(notes(rows, sentences, values))
    return bank


def test_no_triple_of_an_entity_in_the_same_sentence_is_ever_used(
    stream: BatchStream, knowledge: Knowledge
) -> None:
    """Every sentence states (h, r, t): neither mention may get that triple, in any epoch, in either
    direction.
    """
    used = 0
    for number, (batch, _) in enumerate(stream.iterate(Position())):
        if number == 12:
            break
        spans = np.arange(len(batch.span_start_P))
        for span, triple in enumerate(
            sample_triples(batch, spans, knowledge, seed=number).tolist()
        ):
            if triple >= 0:
                mentioned = batch.span_entity_P[
                    batch.span_sentence_P == batch.span_sentence_P[span]
                ]
                assert knowledge.triple_other.values[triple] not in mentioned
                used += 1
    assert used, "other triples are used"


def test_an_inverse_relation_is_excluded_too(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    """h has only triples with t, by two relations and in both directions: nothing is left to
    inject.
    """
    head = int(batch.span_entity_P[batch.fact_head_F[0]])
    tail = int(batch.span_entity_P[batch.fact_tail_F[0]])
    lengths = np.zeros(len(knowledge), np.int64)
    lengths[head] = 2
    twice = from_lengths(np.asarray([tail, tail], np.int64), lengths)
    only = replace(
        knowledge,
        triple_other=twice,
        triple_relation=from_lengths(
            np.asarray([ROW["capital of"], ROW["country"]], np.int64), lengths
        ),
        triple_is_head=from_lengths(np.asarray([1, 0], np.int64), lengths),
    )
    injection = Injector(ALWAYS, only, initial, seed=0).plan(batch, *nothing(batch), None)
    injected = set(batch.span_sentence_P[injection.span_J].tolist())
    assert int(batch.span_sentence_P[batch.fact_head_F[0]]) not in injected


def test_an_entity_with_many_triples(batch: Batch, knowledge: Knowledge) -> None:
    many = 1000
    entity = int(batch.span_entity_P[0])
    lengths = np.zeros(len(knowledge), np.int64)
    lengths[entity] = many
    others = np.full(many, int(batch.span_entity_P[1]))  # in the sentence …
    others[::2] = len(knowledge) - 1  # … and not
    big = replace(knowledge, triple_other=from_lengths(others, lengths))
    drawn = {int(sample_triples(batch, np.asarray([0]), big, seed=seed)[0]) for seed in range(50)}
    assert len(drawn) > 30
    assert all(triple % 2 == 0 for triple in drawn)


def test_translation_algebra(knowledge: Knowledge, initial: InitialEmbeddings) -> None:
    label = initial.vectors(np.arange(len(knowledge)))
    town = ROW["Zenda"]
    first = int(knowledge.triple_other.offsets[town])
    count = int(knowledge.triple_other.lengths(np.asarray([town]))[0])
    triples = np.arange(first, first + count)
    vectors = triple_vectors(knowledge, initial, triples)
    for number, triple in enumerate(triples.tolist()):
        other = label[knowledge.triple_other.values[triple]]
        relation = label[knowledge.triple_relation.values[triple]]
        is_head = bool(knowledge.triple_is_head.values[triple])
        assert is_head == (knowledge.label(int(knowledge.triple_other.values[triple])) in COUNTRIES)
        assert torch.allclose(vectors[number], other - relation if is_head else other + relation)


def test_label_vectors_are_means_of_the_initial_embeddings(
    model: MaskedLm, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    ids = torch.from_numpy(knowledge.label_ids.of(ROW["Golden City"]))
    own = initial.vectors(np.asarray([ROW["Zenda"], ROW["Golden City"]]))
    assert torch.allclose(own[1], model.word_embeddings.weight[ids].mean(0))
    assert not own.requires_grad
    assert initial.token_norm == pytest.approx(
        float(model.word_embeddings.weight.detach().norm(dim=1).mean())
    )


def test_triple_only_memory_only_and_both(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    bank = full_bank(knowledge, initial.hidden_size)
    injector = Injector(replace(ALWAYS, triple_share=0.3), knowledge, initial, seed=0)
    both = injector.plan(batch, *nothing(batch), bank)
    alone = injector.plan(batch, *nothing(batch), None)
    assert set(alone.span_J) == set(both.span_J[both.triple_J >= 0]), (
        "without a bank only triples are injected"
    )
    norms = alone.vector_JH.norm(dim=1)
    assert torch.allclose(norms, torch.full_like(norms, initial.token_norm), rtol=1e-4), (
        "alpha is 1 without a note"
    )
    untold = both.vector_JH[torch.from_numpy(both.triple_J < 0)].norm(dim=1)
    assert len(untold)
    assert torch.allclose(untold, torch.full_like(untold, initial.token_norm), rtol=1e-4), (
        "alpha is 0 without a triple"
    )
    place = {span: number for number, span in enumerate(alone.span_J.tolist())}
    for number, span in enumerate(both.span_J.tolist()):
        if both.triple_J[number] >= 0:
            row = np.asarray([knowledge.bank_row[batch.span_entity_P[span]]])
            note = bank.read(row)[0]
            wanted = (
                0.3 * alone.vector_JH[place[span]] + 0.7 * note / note.norm() * initial.token_norm
            )
            assert torch.allclose(both.vector_JH[number], wanted, atol=1e-4)


def test_only_the_sentence_itself_has_written_the_note(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    bank = MemoryBank(knowledge.num_bank_rows, initial.hidden_size, MemoryConfig())
    row = knowledge.bank_row[batch.span_entity_P[:1]]
    key = batch.key_N[batch.span_sentence_P[:1]]
    ones = torch.ones(len(row), initial.hidden_size)
    bank.write(notes(row, key, ones))
    injector = Injector(ALWAYS, knowledge, initial, seed=0)
    with_bank, without = (
        injector.plan(batch, *nothing(batch), bank),
        injector.plan(batch, *nothing(batch), None),
    )
    left = {
        s: v.tolist() for s, v in zip(with_bank.span_J.tolist(), with_bank.vector_JH, strict=True)
    }
    right = {s: v.tolist() for s, v in zip(without.span_J.tolist(), without.vector_JH, strict=True)}
    assert left.get(0) == right.get(0)


def test_the_edit_mixes_span_tokens_only(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings, model: MaskedLm
) -> None:
    injector = Injector(replace(ALWAYS, strength=0.25), knowledge, initial, seed=0)
    injection = injector.plan(batch, *nothing(batch), full_bank(knowledge, model.hidden_size))
    edit = injector.edit(batch, injection)
    assert edit is not None
    word = model.word_embeddings(torch.from_numpy(batch.input_ids_RS)).detach()
    changed = edit(word).reshape(-1, model.hidden_size)
    word = word.reshape(-1, model.hidden_size)
    inside = torch.zeros(len(word), dtype=torch.bool)
    for number, span in enumerate(injection.span_J.tolist()):
        for token in range(batch.span_start_P[span], batch.span_end_P[span]):
            inside[token] = True
            assert torch.allclose(
                changed[token], 0.75 * word[token] + 0.25 * injection.vector_JH[number], atol=1e-5
            )
    assert torch.equal(changed[~inside], word[~inside])


def test_states_are_mixed_at_their_own_length(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings, model: MaskedLm
) -> None:
    """What enters the first layer is changed there alone, by a vector as long as itself."""
    config = replace(ALWAYS, strength=0.25, place="states")
    injector = Injector(config, knowledge, initial, seed=0)
    injection = injector.plan(batch, *nothing(batch), full_bank(knowledge, model.hidden_size))
    edit = injector.edit(batch, injection)
    assert edit is not None
    packed = model.pack(batch)
    with torch.no_grad(), model.evaluating():
        plain = model.embed(packed).reshape(-1, model.hidden_size)
        with model.edit_embeddings(edit, at_states=True):
            changed = model.embed(packed).reshape(-1, model.hidden_size)
    inside = torch.zeros(len(plain), dtype=torch.bool)
    for number, span in enumerate(injection.span_J.tolist()):
        vector = injection.vector_JH[number] / initial.token_norm
        for token in range(batch.span_start_P[span], batch.span_end_P[span]):
            inside[token] = True
            wanted = 0.75 * plain[token] + 0.25 * vector * plain[token].norm()
            assert torch.allclose(changed[token], wanted, atol=1e-5)
    assert inside.any()
    assert torch.equal(changed[~inside], plain[~inside])


def test_what_is_not_injected(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    bank = full_bank(knowledge, initial.hidden_size)
    chosen, blocked = nothing(batch)
    everything = len(batch.span_start_P)

    def count(config: InjectionConfig, masked: np.ndarray, without: np.ndarray) -> int:
        return len(
            Injector(config, knowledge, initial, seed=0).plan(batch, masked, without, bank).span_J
        )

    assert count(ALWAYS, chosen, blocked) == everything
    assert count(replace(ALWAYS, dropout=1.0), chosen, blocked) == 0
    assert count(ALWAYS, chosen, ~blocked) == 0
    assert count(replace(ALWAYS, masked_probability=0.0), ~chosen, blocked) == 0
    assert 0 < count(replace(ALWAYS, masked_probability=0.5), ~chosen, blocked) < everything
    assert 0 < count(replace(ALWAYS, dropout=0.5), chosen, blocked) < everything
    assert count(replace(ALWAYS, policy="klt"), chosen, blocked) == 0
    empty = Injector(replace(ALWAYS, dropout=1.0), knowledge, initial, seed=0)
    assert empty.edit(batch, empty.plan(batch, chosen, blocked, bank)) is None


def test_policies_are_bits(batch: Batch) -> None:
    assert chosen_spans(batch, "all").all()
    assert chosen_spans(batch, "long-tail-important").all()
    assert not chosen_spans(batch, "none").any()
    assert not chosen_spans(batch, "high-frequency").any()


def sentence_with(ids: list[int], span: tuple[int, int], entity: int) -> Batch:
    """Two packed sentences: one with a mention and plain words, and one that only has its special
    tokens.
    """
    lists = {"ids": [[2, *ids, 3], [2, 3]], "span_start": [[span[0]], []], "span_end": [[span[1]], []],
             "span_entity": [[entity], []], "span_policies": [[POLICY_BITS["all"]], []]}  # fmt: skip
    return assemble(sentences_from_lists(lists), [[0, 1]], Position(), 0)


def test_a_triple_whose_other_end_is_spelt_out_is_not_used(knowledge: Knowledge) -> None:
    """The town is mentioned, its country stands there as plain words that the linker missed: the
    triple would tell it.
    """
    town = ROW["Zenda"]
    triples = np.arange(
        knowledge.triple_other.offsets[town], knowledge.triple_other.offsets[town + 1]
    )
    country = next(
        row for row in knowledge.triple_other.of(town).tolist() if knowledge.label(row) in COUNTRIES
    )
    label, other = (
        knowledge.label_ids.of(country).tolist(),
        knowledge.label_ids.of(ROW["Flavia"]).tolist(),
    )
    own = knowledge.label_ids.of(town).tolist()
    assert not set(label) <= set(own)

    def used(words: list[int]) -> set[int]:
        batch = sentence_with(own + words, (1, 1 + len(own)), town)
        usable = usable_triples(batch, np.zeros(len(triples), np.int64), triples, knowledge)
        return set(knowledge.triple_other.values[triples[usable]].tolist())

    assert country in used([])
    assert country not in used(label)
    assert country not in used(other + label[::-1]), "order does not matter"


def test_a_part_of_a_label_does_not_tell_it(knowledge: Knowledge) -> None:
    city = ROW["Golden City"]
    label = knowledge.label_ids.of(city).tolist()
    assert len(set(label)) > 1
    for words, is_named in (
        (label, True),
        (label[::-1], True),
        (label[1:], False),
        (label[:1], False),
    ):
        batch = sentence_with(words, (1, 2), ROW["Zenda"])
        assert spelt_out(
            batch, np.asarray([0]), np.asarray([city]), knowledge.label_ids
        ).tolist() == [is_named]


def test_a_triple_whose_other_end_is_mentioned_by_another_name_is_not_used(
    knowledge: Knowledge,
) -> None:
    """The linker knows the country by an alias: its label is not there to be found."""
    town = ROW["Zenda"]
    first, end = knowledge.triple_other.offsets[town], knowledge.triple_other.offsets[town + 1]
    triples = np.arange(first, end)
    country = next(
        row for row in knowledge.triple_other.of(town).tolist() if knowledge.label(row) in COUNTRIES
    )
    lists = {"ids": [[2, 10, 11, 3]], "span_start": [[1, 2]], "span_end": [[2, 3]], "span_entity": [[town, country]],
             "span_policies": [[1, 1]]}  # fmt: skip
    batch = assemble(sentences_from_lists(lists), [[0]], Position(), 0)
    inside = np.zeros(len(triples), np.int64)
    others = knowledge.triple_other.values[triples]
    assert not spelt_out(batch, inside, others, knowledge.label_ids).any()
    assert (usable_triples(batch, inside, triples, knowledge) == (others != country)).all()


def test_another_sentence_of_the_row_does_not_count(knowledge: Knowledge) -> None:
    label = knowledge.label_ids.of(ROW["Genovia"]).tolist()
    batch = sentence_with(label, (1, 2), ROW["Zenda"])
    asked = np.full(2, ROW["Genovia"])
    assert spelt_out(batch, np.asarray([0, 1]), asked, knowledge.label_ids).tolist() == [
        True,
        False,
    ]


def test_an_empty_label_is_never_spelt_out(batch: Batch) -> None:
    nothing_known = from_lengths(np.zeros(0, np.int64), np.zeros(3, np.int64))
    rows = np.asarray([0, 2])
    assert not spelt_out(batch, np.zeros(2, np.int64), rows, nothing_known).any()
    assert not len(spelt_out(batch, rows[:0], rows[:0], nothing_known))


def test_the_anchor_does_not_move_with_the_model(model: MaskedLm, knowledge: Knowledge) -> None:
    initial = freeze_embeddings(model.word_embeddings.weight, knowledge)
    rows = np.arange(len(knowledge))
    before = initial.vectors(rows)
    with torch.no_grad():
        model.word_embeddings.weight.add_(1.0)
    assert torch.equal(initial.vectors(rows), before)
    assert initial.vectors(rows[:0]).shape == (0, model.hidden_size)


def test_a_draw_needs_neither_bank_nor_model(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    """The same draw serves whatever the bank holds when its turn comes."""
    injector = Injector(ALWAYS, knowledge, initial, seed=0)
    drawn = injector.draw(batch, *nothing(batch))
    for bank in (None, full_bank(knowledge, initial.hidden_size)):
        late, at_once = injector.vectors(drawn, bank), injector.plan(batch, *nothing(batch), bank)
        assert np.array_equal(late.span_J, at_once.span_J)
        assert torch.equal(late.vector_JH, at_once.vector_JH)


def test_half_precision_embeddings_are_edited_too(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    injector = Injector(ALWAYS, knowledge, initial, seed=0)
    edit = injector.edit(
        batch, injector.plan(batch, *nothing(batch), full_bank(knowledge, initial.hidden_size))
    )
    assert edit is not None
    word = torch.randn(*batch.input_ids_RS.shape, initial.hidden_size)
    assert torch.allclose(edit(word.bfloat16()).float(), edit(word), atol=0.1)


def test_gradients_reach_the_edited_embeddings(
    batch: Batch, knowledge: Knowledge, initial: InitialEmbeddings
) -> None:
    """A mention's own embedding keeps 1 - lambda of its gradient, every other token all of it."""
    injector = Injector(replace(ALWAYS, strength=0.25), knowledge, initial, seed=0)
    injection = injector.plan(batch, *nothing(batch), full_bank(knowledge, initial.hidden_size))
    edit = injector.edit(batch, injection)
    assert edit is not None
    word = torch.zeros(*batch.input_ids_RS.shape, initial.hidden_size, requires_grad=True)
    torch.autograd.backward(edit(word).sum())
    wanted = np.ones(batch.input_ids_RS.size)
    for span in injection.span_J.tolist():
        wanted[batch.span_start_P[span] : batch.span_end_P[span]] = 0.75
    assert word.grad is not None
    assert word.grad.reshape(-1, initial.hidden_size)[:, 0].tolist() == wanted.tolist()
