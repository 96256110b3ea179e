"""The text tokenizer: code points of tokens in any text, tokens of spans, words, names; BERT's and
RoBERTa's families.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder.tokenizer import TextTokenizer
from tests.pipeline import tiny_model
from tests.pipeline.shards.naive_shards import touching

# Composed and decomposed accents, characters that vanish (soft hyphen, zero width), grow (ß, İ, ﬁ)
# or need several tokens.
PIECES = st.sampled_from(
    "the of France Paris São Sa\u0303o é e\u0301 ß İ ﬁ Ǆ 東京 न्यू 👩\u200d🚀 🗺\ufe0f 😀 \u00ad \u200b \ufeff ' ’s , . - [MASK] "
    "</s> \t \n \u00a0 \u3000 1,234 x\u0301\u0323".split(" ")
)
TEXTS = st.lists(
    PIECES | st.just(" ") | st.just("  ") | st.text(max_size=3).filter(lambda t: t.isprintable()),
    max_size=14,
)
FAMILIES = ("bert", "bert-cased", "roberta", "roberta-prefix", "roberta-untrimmed")


def changed(source: Path, target: Path, **places: object) -> str:
    """A copy of a tokenizer with some settings of its parts changed."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    settings = json.loads((source / "tokenizer.json").read_text())
    for place, value in places.items():
        part, _, name = place.partition("__")
        settings[part][name] = value
    (target / "tokenizer.json").write_text(json.dumps(settings))
    return str(target)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    bert, roberta = tiny_model.make(folder / "bert"), tiny_model.make_byte_level(folder / "roberta")
    cased = changed(
        bert, folder / "cased", normalizer__lowercase=False, normalizer__strip_accents=False
    )
    prefix = changed(
        roberta,
        folder / "prefix",
        pre_tokenizer__add_prefix_space=True,
        post_processor__add_prefix_space=True,
    )
    untrimmed = changed(roberta, folder / "untrimmed", post_processor__trim_offsets=False)
    paths = (str(bert), cased, str(roberta), prefix, untrimmed)
    return {name: TextTokenizer(path) for name, path in zip(FAMILIES, paths, strict=True)}


@pytest.mark.parametrize("family", FAMILIES)
@given(pieces=st.lists(TEXTS, min_size=1, max_size=4), data=st.data())
def test_a_span_has_the_tokens_that_touch_it_and_no_other(
    tokenizers: dict[str, TextTokenizer], family: str, pieces: list[list[str]], data: st.DataObject
) -> None:
    tokenizer, texts = tokenizers[family], ["".join(found) for found in pieces]
    wanted = np.array([data.draw(st.booleans()) for _ in texts])
    runs, encodings = tokenizer.encode_runs(texts, wanted, longest=6), tokenizer.encode(texts)
    for number, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
        low, high = runs.offsets[number : number + 2]
        assert runs.ids[low:high].tolist() == encoding.ids.tolist()
        words = encoding.words.tolist()
        starts = [
            place for place, word in enumerate(words) if place == 0 or word != words[place - 1]
        ]
        assert np.flatnonzero(runs.starts_word[low:high]).tolist() == starts
        assert (np.diff(runs.point_offsets)[number] > 0) == (
            high > low and (wanted[number] or high - low > 6)
        )
        if runs.point_offsets[number + 1] == runs.point_offsets[number]:
            continue
        assert (encoding.starts <= encoding.ends).all()
        assert encoding.ends.max() <= len(text)
        tokens = np.arange(low, high)
        assert (
            runs.start_of(np.full(len(tokens), number), tokens).tolist() == encoding.starts.tolist()
        )
        spans = [
            (start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)
        ]
        columns = np.array(spans, np.int64).reshape(-1, 2)
        first, last = runs.spans(np.full(len(spans), number), columns[:, 0], columns[:, 1])
        for (start, end), one, other in zip(spans, first - low, last - low, strict=True):
            assert list(range(one, other)) == touching(encoding, start, end)
            assert (one, other) == encoding.span(start, end) or one >= other


@pytest.mark.parametrize("family", FAMILIES)
def test_names_have_the_tokens_that_they_have_in_running_text(
    tokenizers: dict[str, TextTokenizer], family: str
) -> None:
    tokenizer = tokenizers[family]
    text = "The capital of France is Paris, near São Denis and Sa\u0303o Denis."
    runs = tokenizer.encode_runs([text], np.array([True]))
    names = ["France", "Paris", "São Denis", "Sa\u0303o Denis"]
    labels = tokenizer.label_runs(names)
    for number, name in enumerate(names):
        start = np.array([text.index(name)])
        (first,), (last,) = runs.spans(np.array([0]), start, start + len(name))
        low, high = labels.offsets[number : number + 2]
        assert runs.ids[first:last].tolist() == labels.ids[low:high].tolist()
        assert high > low
    assert tokenizer.frame == ((2, 3) if family.startswith("bert") else (0, 2))


def test_nothing_to_encode(tokenizers: dict[str, TextTokenizer]) -> None:
    tokenizer = tokenizers["bert"]
    assert tokenizer.encode([]) == []
    assert tokenizer.label_runs([]).offsets.tolist() == [0]
    runs = tokenizer.encode_runs(["", " ", "\u200b"], np.ones(3, np.bool_), 10)
    assert runs.offsets.tolist() == [0, 0, 0, 0]
    first, last = runs.spans(np.array([1]), np.array([0]), np.array([1]))
    assert first >= last


@pytest.mark.parametrize(("texts", "characters"), [(3, 1000), (1000, 25), (1000, 5)])
def test_chunks_of_texts_change_nothing(
    tokenizers: dict[str, TextTokenizer],
    monkeypatch: pytest.MonkeyPatch,
    texts: int,
    characters: int,
) -> None:
    tokenizer, found = tokenizers["roberta"], [f"Paris is {number}" for number in range(20)]
    wanted = np.arange(20) % 3 == 0
    whole = tokenizer.encode_runs(found, wanted)
    monkeypatch.setattr("pipeline.encoder.tokenizer.CHUNK_TEXTS", texts)
    monkeypatch.setattr("pipeline.encoder.tokenizer.CHUNK_CHARACTERS", characters)
    cut = tokenizer.encode_runs(found, wanted)
    for name in ("ids", "offsets", "starts_word", "point_offsets", "starts", "ends"):
        assert getattr(whole, name).tolist() == getattr(cut, name).tolist()
