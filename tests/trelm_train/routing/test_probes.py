import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm_train.data.loader import (
    Batch,
    BatchStream,
    Packing,
    Position,
    assemble,
    sentences_from_lists,
)
from trelm_train.data.masking import Vocabulary
from trelm_train.routing.probes import (
    BACKGROUND,
    CHUNK_TOKENS,
    TAIL,
    Probe,
    chunks,
    probes_of,
    upcoming_probes,
)

PACKING = Packing(max_tokens=48, batch_tokens=256, limit=64)


def test_a_probe_hides_every_mention_of_what_it_asks(batch: Batch, vocabulary: Vocabulary) -> None:
    probes = probes_of(batch, vocabulary, seed=0)
    sentences = sorted(set(batch.span_sentence_P.tolist()))
    assert len(probes) == len(sentences), "one for each sentence that has a mention"
    flat = batch.input_ids_RS.reshape(-1)
    tails = batch.span_start_P[batch.fact_tail_F]
    for probe, sentence in zip(probes, sentences, strict=True):
        start, end = batch.start_N[sentence], batch.end_N[sentence]
        ids = np.asarray(probe.input_ids)
        assert len(ids) == end - start
        assert (ids[probe.position_T] == vocabulary.mask_id).all()
        assert np.array_equal(probe.gold_T, flat[start + probe.position_T])
        assert start + probe.position_T[0] in tails, "tails of facts come first"
        changed = np.flatnonzero(ids != flat[start:end])
        assert np.array_equal(changed, probe.position_T), "nothing else is hidden"


def test_an_entity_mentioned_twice_is_hidden_twice(vocabulary: Vocabulary) -> None:
    lists = {
        "ids": [[2, 7, 8, 9, 7, 3]], "words": [[1, 2, 3, 4]], "span_start": [[1, 4]], "span_end": [[2, 5]],
        "span_entity": [[5, 5]], "span_policies": [[0, 0]],
    }  # fmt: skip
    batch = assemble(sentences_from_lists(lists), [[0]], Position(), 0)
    (probe,) = probes_of(batch, vocabulary, seed=0)
    mask = vocabulary.mask_id
    assert probe.input_ids == [2, mask, 8, 9, mask, 3]
    assert len(probe.position_T) == 1, "one of them is asked"


def test_probes_at_tails_ask_the_tails_of_facts_alone(
    plain_stream: BatchStream, vocabulary: Vocabulary
) -> None:
    batch = next(plain_stream.iterate(Position()))[0]
    probes = probes_of(batch, vocabulary, seed=0, kind=TAIL)
    with_fact = sorted(set(batch.span_sentence_P[batch.fact_tail_F].tolist()))
    assert 0 < len(with_fact) < len(set(batch.span_sentence_P.tolist())), "not every mention"
    assert len(probes) == len(with_fact)
    flat = batch.input_ids_RS.reshape(-1)
    tails = {
        (int(start), int(end))
        for start, end in zip(
            batch.span_start_P[batch.fact_tail_F], batch.span_end_P[batch.fact_tail_F], strict=True
        )
    }
    for probe, sentence in zip(probes, with_fact, strict=True):
        asked = batch.start_N[sentence] + probe.position_T
        assert (asked[0], asked[-1] + 1) in tails
        assert np.array_equal(probe.gold_T, flat[asked])
        assert all(probe.input_ids[place] == vocabulary.mask_id for place in probe.position_T)


def test_a_fact_about_itself_is_not_asked(vocabulary: Vocabulary) -> None:
    lists = {
        "ids": [[2, 7, 8, 9, 3]], "words": [[1, 2, 3]], "span_start": [[1, 3]], "span_end": [[2, 4]],
        "span_entity": [[5, 5]], "span_policies": [[0, 0]], "fact_head": [[0]],
        "fact_relation": [[6]], "fact_tail": [[1]],
    }  # fmt: skip
    batch = assemble(sentences_from_lists(lists), [[0]], Position(), 0)
    assert len(batch.fact_tail_F) == 1
    assert probes_of(batch, vocabulary, seed=0, kind=TAIL) == []


def test_background_probes_ask_one_word_of_each_sentence_without_mentions(
    plain_stream: BatchStream, vocabulary: Vocabulary
) -> None:
    batch = next(plain_stream.iterate(Position()))[0]
    probes = probes_of(batch, vocabulary, seed=0, kind=BACKGROUND)
    plain = sorted(set(range(len(batch.key_N))) - set(batch.span_sentence_P.tolist()))
    assert plain
    assert len(probes) == len(plain)
    flat = batch.input_ids_RS.reshape(-1)
    starts = set(batch.word_start_W.tolist())
    for probe, sentence in zip(probes, plain, strict=True):
        start, end = batch.start_N[sentence], batch.end_N[sentence]
        ids = np.asarray(probe.input_ids)
        assert np.array_equal(np.flatnonzero(ids != flat[start:end]), probe.position_T)
        assert np.array_equal(probe.gold_T, flat[start + probe.position_T])
        first, last = start + probe.position_T[0], start + probe.position_T[-1]
        assert first in starts, "a whole word"
        assert last + 1 in starts or last + 2 == end
    asked = {
        tuple(probes_of(batch, vocabulary, seed=seed, kind=BACKGROUND)[0].position_T)
        for seed in range(20)
    }
    assert len(asked) > 2, "the seed decides which word"


def test_no_mention_no_probe(vocabulary: Vocabulary) -> None:
    plain = assemble(sentences_from_lists({"ids": [[2, 7, 3]]}), [[0]], Position(), 0)
    assert probes_of(plain, vocabulary, seed=0) == []
    assert (
        upcoming_probes([(plain, Position(epoch=2))], vocabulary, seed=0, limit=5, start=Position())
        == []
    )


def test_the_set_is_a_function_of_seed_and_position(
    stream: BatchStream, vocabulary: Vocabulary
) -> None:
    def draw(seed: int, position: Position) -> list[list[int]]:
        found = upcoming_probes(
            stream.iterate(position), vocabulary, seed=seed, limit=9, start=position
        )
        assert len(found) == 9
        return [probe.input_ids for probe in found]

    first = draw(0, Position())
    list(
        zip(range(3), stream.iterate(Position(epoch=1)), strict=False)
    )  # what was read in between does not matter
    assert draw(0, Position()) == first
    assert draw(0, Position(index=1)) != first


def test_the_seed_decides_which_mention_is_asked(vocabulary: Vocabulary) -> None:
    count = 8
    lists = {
        "ids": [[2, *range(10, 10 + count), 3]], "words": [list(range(1, count + 1))],
        "span_start": [list(range(1, count + 1))], "span_end": [list(range(2, count + 2))],
        "span_entity": [list(range(count))], "span_policies": [[0] * count],
    }  # fmt: skip
    batch = assemble(sentences_from_lists(lists), [[0]], Position(), 0)
    asked = {int(probes_of(batch, vocabulary, seed=seed)[0].position_T[0]) for seed in range(20)}
    assert len(asked) > 3


probe_list = st.lists(st.integers(3, 60), min_size=1, max_size=90)


@given(probe_list, st.integers(0, 1000))
@settings(max_examples=25)
def test_chunks_hold_every_probe_once_and_little_else(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    probes = []
    for length in lengths:
        start = int(rng.integers(1, length - 1))
        stop = int(rng.integers(start + 1, length))
        at = np.arange(start, stop)
        probes.append(
            Probe(
                input_ids=rng.integers(10, 99, length).tolist(),
                position_T=at,
                gold_T=rng.integers(10, 99, len(at)),
            )
        )
    found, tokens, room = [], 0, 0
    for batch, targets in chunks(probes, PACKING, 0):
        assert batch.input_ids_RS.size <= max(CHUNK_TOKENS, batch.input_ids_RS.shape[1])
        assert targets.num_examples == len(batch.key_N)
        tokens, room = tokens + batch.num_tokens, room + batch.input_ids_RS.size
        for example, number in enumerate(batch.key_N.tolist()):
            rows = targets.example_T == example
            probe = probes[number]
            assert np.array_equal(
                targets.position_T[rows], batch.start_N[example] + probe.position_T
            )
            assert np.array_equal(targets.gold_T[rows], probe.gold_T)
            sentence = batch.input_ids_RS.reshape(-1)[batch.start_N[example] : batch.end_N[example]]
            assert sentence.tolist() == probe.input_ids
            found.append(number)
    assert sorted(found) == list(range(len(probes)))


def test_real_lengths_pack_tightly() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.5, 0.4, 256), 5, 128).astype(int)
    probes = [
        Probe(input_ids=[7] * int(length), position_T=np.asarray([1]), gold_T=np.asarray([7]))
        for length in lengths
    ]
    made = [
        batch
        for batch, _ in chunks(probes, Packing(max_tokens=128, batch_tokens=4096, limit=512), 0)
    ]
    share = sum(batch.num_tokens for batch in made) / sum(batch.input_ids_RS.size for batch in made)
    assert share >= 0.9


@pytest.mark.parametrize("limit", [1, 4])
def test_the_limit_holds(limit: int, stream: BatchStream, vocabulary: Vocabulary) -> None:
    found = upcoming_probes(
        stream.iterate(Position()), vocabulary, seed=0, limit=limit, start=Position()
    )
    assert len(found) == limit
