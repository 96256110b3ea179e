"""Markers stand around the spans, words are spelt as before, and a cut keeps the spans."""

import random
from typing import Any

import numpy as np
import pytest

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, Span
from trelm_train.finetune.marking import Encoded, encode, kept_tokens, markers_of, truncation

FIRST = 1000
NAMES = {FIRST: "<", FIRST + 1: ">", FIRST + 2: "[", FIRST + 3: "]"}


def example(text: str, *names: str, types: tuple[str, ...] = ("", "")) -> Example:
    """The first name is the subject, or the entity where there is one alone."""
    kinds = ("subject", "object") if len(names) == 2 else ("entity",)
    spans = [
        Span(start=text.index(name), end=text.index(name) + len(name), kind=kind, type=of_type)
        for name, kind, of_type in zip(names, kinds, types, strict=False)
    ]
    return Example(text=text, spans=tuple(spans), labels=())


def shown(tokenizer: Any, encoded: Encoded) -> str:
    """The tokens in order, with < > and [ ] for the first and the second pair of markers."""
    ids = encoded.ids.tolist()
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    return " ".join(NAMES.get(token) or tokenizer.convert_ids_to_tokens(token) for token in ids[1:-1])  # fmt: skip


def one(tokenizer: Any, row: Example, length: int = 60) -> Encoded:
    (encoded,) = encode(tokenizer, [row], markers_of([row], FIRST), length)
    return encoded


def test_markers_stand_around_the_span(tokenizer: Any) -> None:
    encoded = one(tokenizer, example("Rain fell on Zenda and on all of Ruritania .", "Zenda"))
    plain = tokenizer("Rain fell on Zenda and on all of Ruritania .", add_special_tokens=False)
    assert shown(tokenizer, encoded) == "rain fell on < zenda > and on all of ruritania ."
    assert [token for token in encoded.ids.tolist()[1:-1] if token < FIRST] == plain["input_ids"]
    assert encoded.ids[encoded.marks[0]] == FIRST
    assert (encoded.is_cut, encoded.is_span_cut, encoded.is_beyond) == (False, False, False)


def test_subject_and_object_have_markers_of_their_own(tokenizer: Any) -> None:
    text = "Rudolf Rassendyll lives in Zenda ."
    row = example(text, "Zenda", "Rudolf Rassendyll")
    encoded = one(tokenizer, row)
    # Kinds in alphabetical order: the object's markers are the first ones.
    assert shown(tokenizer, encoded) == "< rudolf rassendyll > lives in [ zenda ] ."
    assert encoded.ids[list(encoded.marks)].tolist() == [FIRST + 2, FIRST]


def test_spans_that_touch_or_nest_do_not_cross(tokenizer: Any) -> None:
    text = "North Falls Zenda"
    touching = one(tokenizer, example(text, "Zenda", "North Falls"))
    assert shown(tokenizer, touching) == "< north falls > [ zenda ]"
    nested = one(tokenizer, example(text, "North Falls", "Falls"))
    assert shown(tokenizer, nested) == "[ north < falls > ] zenda"
    equal = one(tokenizer, example(text, "Zenda", "Zenda"))
    assert shown(tokenizer, equal) == "north falls [ < zenda > ]"


def test_a_neighbour_without_a_space_is_not_in_the_span(tokenizer: Any) -> None:
    text = "king.rain.town"
    assert shown(tokenizer, one(tokenizer, example(text, "rain"))) == "king . < rain > . town"


def test_part_of_a_word_takes_the_word_whole(tokenizer: Any) -> None:
    encoded = one(tokenizer, example("the king .", "kin"))
    assert shown(tokenizer, encoded) == "the < king > ."


def test_an_empty_span_is_marked_where_it_is(tokenizer: Any) -> None:
    row = Example(text="the king .", spans=(Span(start=4, end=4, kind="entity"),), labels=())
    assert shown(tokenizer, one(tokenizer, row)) == "the < > king ."


def test_a_byte_level_vocabulary_keeps_its_spaces() -> None:
    """RoBERTa spells a word after a space differently: a marker must not change that."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", *pre_tokenizers.ByteLevel.alphabet(), "Ġk", "Ġki"]
    model = models.BPE({word: n for n, word in enumerate(words)}, [("Ġ", "k"), ("Ġk", "i")])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>")  # fmt: skip
    encoded = one(tokenizer, example("a kié b", "kié"))
    # é is two bytes, so two tokens of one character.
    assert shown(tokenizer, encoded) == "a < Ġki Ã © > Ġ b"


def test_typed_markers_fall_back_to_plain_ones(tokenizer: Any) -> None:
    train = [example("Zenda king", "Zenda", "king", types=("CITY", "STATE_OR_PROVINCE"))]
    markers = markers_of(train, FIRST, is_typed=True)
    assert markers.descriptions == (
        "object", "end of object", "object state or province", "end of object state or province",
        "subject", "end of subject", "subject city", "end of subject city",
    )  # fmt: skip
    unseen = example("Zenda king", "Zenda", "king", types=("PERSON", "STATE_OR_PROVINCE"))
    (encoded,) = encode(tokenizer, [unseen], markers, 60)
    assert encoded.ids[list(encoded.marks)].tolist() == [FIRST + 4, FIRST + 2]
    assert markers_of(train, FIRST).descriptions == (
        "object", "end of object", "subject", "end of subject",
    )  # fmt: skip


def test_a_cut_keeps_the_span_and_what_is_near(tokenizer: Any) -> None:
    text = "Rain " * 30 + "Zenda king " + "town " * 30
    encoded = one(tokenizer, example(text, "Zenda"), length=16)
    # 16 tokens: [CLS], [SEP], two markers, and twelve of the text.
    assert len(encoded.ids) == 16
    assert (
        shown(tokenizer, encoded)
        == "rain rain rain rain rain rain < zenda > king town town town town"
    )
    assert (encoded.is_cut, encoded.is_span_cut, encoded.is_beyond) == (True, False, True)


def test_a_span_at_the_end_takes_all_context_from_the_left(tokenizer: Any) -> None:
    encoded = one(tokenizer, example("town " * 30 + "Zenda", "Zenda"), length=16)
    assert shown(tokenizer, encoded) == "town " * 11 + "< zenda >"


def test_a_span_that_is_too_long_is_kept_from_its_start(tokenizer: Any) -> None:
    text = "Rain Zenda " + "town " * 40 + "king"
    row = example(text, "Zenda " + "town " * 39 + "town")
    encoded = one(tokenizer, row, length=16)
    assert shown(tokenizer, encoded) == "< zenda " + "town " * 11 + ">"
    assert encoded.is_span_cut
    assert encoded.marks == (1,)


def test_two_far_spans_are_both_kept(tokenizer: Any) -> None:
    text = "Zenda " + "Rain " * 50 + "king town"
    encoded = one(tokenizer, example(text, "Zenda", "king"), length=16)
    # Ten tokens of the text: the spans, and what is next to either, in turns.
    assert shown(tokenizer, encoded) == "[ zenda ] rain rain rain rain rain rain rain < king > town"
    assert (encoded.is_cut, encoded.is_span_cut) == (True, False)


def test_what_lies_between_is_kept_if_it_fits() -> None:
    # 8 tokens from the first span to the last; budget 10: two more, one on either side.
    assert kept_tokens(30, [(10, 11), (17, 18)], 10).tolist() == list(range(9, 19))


def test_two_spans_that_are_too_long_keep_the_first_tokens_of_both() -> None:
    assert kept_tokens(40, [(2, 12), (20, 30)], 7).tolist() == [2, 3, 4, 5, 20, 21, 22]


def test_kept_tokens_against_plain_loops() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        number, budget = rng.randint(1, 25), rng.randint(4, 15)
        ranges = []
        for _ in range(rng.choice([1, 2])):
            start = rng.randrange(number)
            ranges.append((start, rng.randint(start, number)))
        kept = kept_tokens(number, ranges, budget).tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == min(number, budget)
        inside = {token for start, end in ranges for token in range(start, end)}
        if len(inside) <= budget:
            assert inside <= set(kept), (number, ranges, budget)
        else:
            # Of each span the first tokens.
            assert set(kept) <= inside
            for start, end in ranges:
                flags = [token in kept for token in range(start, end)]
                others = [span for span in ranges if span != (start, end)]
                if not any(begin < end and start < stop for begin, stop in others):
                    assert flags == sorted(flags, reverse=True)


def test_truncation_is_counted(tokenizer: Any) -> None:
    texts = [("Zenda " * 3, "Zenda"), ("Rain " * 20 + "Zenda", "Zenda"), ("Zenda " + "Rain " * 20, "Zenda"), ("Zenda" + " Rain" * 20, "Zenda" + " Rain" * 20)]  # fmt: skip
    rows = [example(text, name) for text, name in texts]
    encoded = encode(tokenizer, rows, markers_of(rows, FIRST), 16)
    assert truncation(encoded) == {
        "rows": 4,
        "rows_cut": 3,
        "rows_with_a_span_cut": 1,
        "rows_that_a_cut_at_the_end_would_spoil": 2,
    }
    assert max(len(row.ids) for row in encoded) == 16
    assert all(row.ids.dtype == np.int32 for row in encoded)


def test_a_length_without_context_is_refused(tokenizer: Any) -> None:
    row = example("Zenda", "Zenda")
    with pytest.raises(ConfigError, match="--length 15: too short; give 16"):
        one(tokenizer, row, length=15)
