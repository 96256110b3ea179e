"""A hidden tail in another spelling of the vocabulary: byte-level pieces with a space, letter case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trelm_train.config import MaskingConfig
from trelm_train.data.arrays import Ragged
from trelm_train.data.loader import Batch, Position, assemble, sentences_from_lists
from trelm_train.data.masking import Vocabulary, mask_batch
from trelm_train.data.spellings import spellings_of
from trelm_train.facts.plan import FactChooser
from trelm_train.memory.injection import spelt_out

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
FLAVIA, ZENDA = 91, 90
# A sentence, which "Zenda" is linked (0: the first), and whether the other one tells it.
SENTENCES = {
    "Zenda is where Flavia lives, and Zenda is big.": (0, True),
    "Zenda is where Flavia lives, and ZENDA is big.": (0, True),
    'The town ("Zenda") is large; Flavia lives in Zenda.': (1, True),
    "Flavia lives in Zenda.": (0, False),
}


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text for text in SENTENCES for _ in range(50)], trainer)
    return wrapped(tokenizer)


def cased() -> Any:
    words = ["Zenda", "ZENDA", "zenda", "Flavia", "lives", "where", "is", "in", "and", "##s"]
    signs = [",", ".", ";", '"', "(", ")", "The", "town", "large", "big", "are"]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words, *signs])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def batch_of(tokenizer: Any, text: str, number: int) -> Batch:
    """The sentence with two linked mentions and one fact: Flavia's residence is Zenda."""
    coded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    places = [place for place in range(len(text)) if text.startswith("Zenda", place)]
    linked = [
        (places[min(number, len(places) - 1)], 5, ZENDA),
        (text.index("Flavia"), 6, FLAVIA),
    ]
    spans = []
    for start, length, entity in sorted(linked):
        inside = [
            at + 1
            for at, (low, high) in enumerate(coded["offset_mapping"])
            if low < start + length and high > start
        ]
        spans.append((inside[0], inside[-1] + 1, entity))
    ids = coded["input_ids"]
    entities = [entity for *_, entity in spans]
    lists = {
        "ids": [[0, *ids, 2]],
        "words": [[place + 1 for place in range(len(ids))]],
        "span_start": [[start for start, *_ in spans]],
        "span_end": [[end for _, end, _ in spans]],
        "span_entity": [entities],
        "fact_head": [[entities.index(FLAVIA)]],
        "fact_relation": [[5]],
        "fact_tail": [[entities.index(ZENDA)]],
    }
    return assemble(sentences_from_lists(lists), [[0]], Position(), 1)


@pytest.mark.parametrize("make", [byte_level, cased])
def test_another_spelling_of_the_tail_is_seen(make: Any) -> None:
    tokenizer = make()
    vocabulary = Vocabulary(
        size=len(tokenizer), mask_id=4, pad_id=1, special_ids=(0, 1, 2, 3, 4),
        spelling=spellings_of(tokenizer, len(tokenizer)),
    )  # fmt: skip
    chooser = FactChooser(policy="all", probability=1.0, seed=0, spelling=vocabulary.spelling)
    by_ids = FactChooser(policy="all", probability=1.0, seed=0)
    num_missed = 0
    for text, (number, is_told) in SENTENCES.items():
        batch = batch_of(tokenizer, text, number)
        masked = mask_batch(batch, MaskingConfig(probability=0.0), vocabulary, seed=0, epoch=0)
        assert (len(chooser.choose(batch, masked)) == 0) == is_told, text
        num_missed += len(by_ids.choose(batch, masked)) and is_told
    assert num_missed, "compared by ids, some of them would be asked"


@pytest.mark.parametrize("make", [byte_level, cased])
def test_a_label_in_another_spelling_is_spelt_out(make: Any) -> None:
    """A triple that names it may not be injected."""
    tokenizer = make()
    spelling = spellings_of(tokenizer, len(tokenizer))
    batch = batch_of(tokenizer, "ZENDA is where Flavia lives, in Zenda.", 0)
    label = tokenizer("zenda" if make is cased else " zenda", add_special_tokens=False)["input_ids"]
    if make is byte_level:
        # No sentence has it in small letters, so its pieces are others; the name as it is, with a space.
        label = tokenizer(" Zenda", add_special_tokens=False)["input_ids"]
    labels = Ragged(
        values=np.asarray(label, np.int64), offsets=np.asarray([0, len(label)], np.int64)
    )
    one, row = np.zeros(1, np.int64), np.zeros(1, np.int64)
    assert spelt_out(batch, one, row, labels, spelling).tolist() == [True]


def test_pieces_inside_words_and_parts_of_characters_stay_apart() -> None:
    tokenizer = cased()
    spelling = spellings_of(tokenizer, len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(["Zenda", "ZENDA", "zenda", "##s", "is"])
    assert len({int(spelling[number]) for number in ids[:3]}) == 1
    assert len({int(spelling[number]) for number in ids}) == 3
    bytes_ = byte_level()
    numbers = spellings_of(bytes_, len(bytes_))
    parts = bytes_.convert_tokens_to_ids(["Ã", "Â", "â"])
    assert len({int(numbers[number]) for number in parts}) == 3
    assert [int(numbers[number]) for number in range(5)] == list(range(5)), "special tokens"
