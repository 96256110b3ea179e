"""The same sentences and entities as spaCy's own, for its small pipelines and for random weights of the same kind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import LinkConfig
from pipeline.link import fast_recogniser
from pipeline.link.fast_recogniser import FastPipeline
from pipeline.link.spacy_annotator import Annotated, Annotator
from tests.conftest import ROOT

MODEL = LinkConfig().spacy_model
ODD = [
    "",
    " ",
    "Paris",
    "\n\nParis \n\t Berlin  \n",
    "Mr. O'Neill's  U.S. visit (in  May 2010) didn't cost $3.5m. He'd gone to St. Louis, Mo.\n\nNew York",
    "\u2003Zoë’s  book “Emma”\u200b was sold in New York\nGazette and\n\nin Köln — 𝔘nicode 😀 too.",
    "a b c d e f g. " * 30,
]


def slow_one(annotator: Annotator, texts: list[str]) -> list[Annotated]:
    """What spaCy itself says."""
    fast, annotator._fast = annotator._fast, None
    try:
        return annotator.annotate(texts)
    finally:
        annotator._fast = fast


def assert_same(found: list[Annotated], wanted: list[Annotated]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.named == other.named
        assert one.sentences == other.sentences
        assert (one.tokens.starts == other.tokens.starts).all()
        assert (one.tokens.ends == other.tokens.ends).all()


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    made = Annotator(MODEL)
    assert made._fast is not None
    return made


def sample_texts() -> list[str]:
    lines = (ROOT / "examples/tiny/gold.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_texts_of_the_sample(annotator: Annotator) -> None:
    texts = [*sample_texts(), *ODD]
    found = annotator.annotate(texts)
    assert sum(len(one.named) for one in found) > 200
    assert_same(found, slow_one(annotator, texts))


@given(
    st.lists(
        st.text(st.sampled_from("ABaeno sst \n.,'’-0123$%éÜ\u200b\u00a0中。"), max_size=200),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_texts(annotator: Annotator, texts: list[str]) -> None:
    assert_same(annotator.annotate(texts), slow_one(annotator, texts))


def test_other_texts_of_the_batch_change_nothing(annotator: Annotator) -> None:
    texts = [*sample_texts()[:30], *ODD]
    assert_same(annotator.annotate(texts), [annotator.annotate([text])[0] for text in texts])


def test_forgotten_words_are_embedded_again(
    annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = sample_texts()[:20]
    wanted = annotator.annotate(texts)
    monkeypatch.setattr(fast_recogniser, "MAX_WORDS", 50)
    again = Annotator(MODEL)
    assert_same([again.annotate([text])[0] for text in texts], wanted)
    assert again._fast is not None
    assert len(again._fast._entities.vectors._rows) < 500


@pytest.mark.slow
@pytest.mark.kit
@pytest.mark.skipif("TRELM_KIT" not in os.environ, reason="needs the data kit")
def test_articles_of_the_kit(annotator: Annotator) -> None:
    folder = Path(os.environ["TRELM_KIT"]) / "text" / "wikitext-2"
    text = (folder / "valid.txt").read_text(encoding="utf-8")[:150_000]
    texts = [text, text.replace(" @-@ ", "-").replace(" <unk>", " Smith").replace(" ,", ",")]
    found = annotator.annotate(texts)
    assert sum(len(one.named) for one in found) > 5_000
    assert_same(found, slow_one(annotator, texts))


def random_pipeline(*, with_senter: bool, seed: int, depth: int = 2) -> Any:
    """A pipeline of the same kind with random weights: entities of all lengths, everywhere."""
    nlp = spacy.blank("en")
    tok2vec = {
        "@architectures": "spacy.HashEmbedCNN.v2", "width": 32, "depth": depth, "embed_size": 200,
        "window_size": 1, "maxout_pieces": 3, "subword_features": True, "pretrained_vectors": None,
    }  # fmt: skip
    if with_senter:
        nlp.add_pipe(
            "senter", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": tok2vec}}
        )
    parser = {
        "@architectures": "spacy.TransitionBasedParser.v2", "state_type": "ner", "extra_state_tokens": False,
        "hidden_width": 24, "maxout_pieces": 2, "use_upper": True, "tok2vec": tok2vec,
    }  # fmt: skip
    ner = nlp.add_pipe("ner", config={"model": parser})
    for label in ("PERSON", "ORG", "DATE"):
        ner.add_label(label)
    nlp.initialize()
    drawn = np.random.default_rng(seed)
    for pipe in nlp.pipe_names:
        for node in nlp.get_pipe(pipe).model.walk():
            for name in node.param_names:
                if node.has_param(name):
                    shape = node.get_param(name).shape
                    node.set_param(name, drawn.normal(0, 0.3, shape).astype(np.float32))
    # So that entities go on now and then.
    upper = ner.model.get_ref("upper")
    moves = [ner.moves.get_class_name(number) for number in range(ner.moves.n_moves)]
    goes_on = np.array([move.startswith("I") for move in moves], np.float32)
    upper.set_param("b", upper.get_param("b") + 2 * goes_on)
    return nlp


def spans_and_sentences(nlp: Any, texts: list[str]) -> list[tuple[list[Any], list[bool]]]:
    docs = list(nlp.pipe(texts))
    return [
        (
            [(span.start, span.end, span.label_) for span in doc.ents],
            [bool(value == 1) for value in doc.to_array(["SENT_START"])[1:]],
        )
        for doc in docs
    ]


def by_weights(nlp: Any, texts: list[str]) -> list[tuple[list[Any], list[bool]]]:
    fast = FastPipeline.of(nlp)
    assert fast is not None
    docs = [nlp.make_doc(text) for text in texts]
    features = [doc.to_array(list(fast.columns)) for doc in docs]
    is_space = np.array([token.is_space for doc in docs for token in doc], bool)
    opens, entities = fast.find(features, is_space)
    found, low = [], 0
    for doc in docs:
        spans = [
            (start - low, end - low, label)
            for start, end, label in zip(
                entities.starts.tolist(), entities.ends.tolist(), entities.labels, strict=True
            )
            if low <= start < low + len(doc)
        ]
        found.append((spans, opens[low + 1 : low + len(doc)].tolist()))
        low += len(doc)
    return found


@pytest.mark.parametrize("with_senter", [True, False])
@pytest.mark.parametrize(("seed", "depth"), [(0, 1), (1, 2), (2, 3), (4, 4)])
def test_random_weights(*, with_senter: bool, seed: int, depth: int) -> None:
    nlp = random_pipeline(with_senter=with_senter, seed=seed, depth=depth)
    texts = [text for text in (*sample_texts()[:40], *ODD) if text]
    found = by_weights(nlp, texts)
    assert found == spans_and_sentences(nlp, texts)
    lengths = {end - start for spans, _ in found for start, end, _ in spans}
    assert len(lengths) > 2, "entities of several lengths"


def with_ruler(nlp: Any) -> None:
    nlp.add_pipe("entity_ruler", before="ner")


def with_beam(nlp: Any) -> None:
    nlp.get_pipe("ner").cfg["beam_width"] = 4


def without_ner(nlp: Any) -> None:
    nlp.remove_pipe("ner")


def with_rules(nlp: Any) -> None:
    nlp.add_pipe("sentencizer")


def with_senter_last(nlp: Any) -> None:
    """Then its sentences cut no entity."""
    senter = nlp.get_pipe("senter")
    nlp.remove_pipe("senter")
    nlp.add_pipe("senter").cfg.update(senter.cfg)


def with_a_ruler_called_ner(nlp: Any) -> None:
    nlp.remove_pipe("ner")
    nlp.add_pipe("entity_ruler", name="ner")


def with_rules_called_senter(nlp: Any) -> None:
    nlp.remove_pipe("senter")
    nlp.add_pipe("sentencizer", name="senter", before="ner")


def with_a_tagger_called_senter(nlp: Any) -> None:
    nlp.remove_pipe("senter")
    tagger = nlp.add_pipe("tagger", name="senter", before="ner")
    for label in ("I", "S"):
        tagger.add_label(label)


def with_a_tokeniser_of_ones_own(nlp: Any) -> None:
    cut = nlp.tokenizer
    nlp.tokenizer = lambda text: cut(text)


def with_overwriting_senter(nlp: Any) -> None:
    nlp.get_pipe("senter").cfg["overwrite"] = True


def with_words_by_sentence_starts(nlp: Any) -> None:
    columns = next(
        node for node in nlp.get_pipe("ner").model.walk() if node.name == "extract_features"
    ).attrs["columns"]
    columns[0] = "SENT_START"


@pytest.mark.parametrize(
    "change",
    [
        with_ruler, with_beam, without_ner, with_rules, with_senter_last, with_a_ruler_called_ner,
        with_rules_called_senter, with_a_tagger_called_senter, with_a_tokeniser_of_ones_own,
        with_overwriting_senter, with_words_by_sentence_starts,
    ],
)  # fmt: skip
def test_other_pipelines_are_left_to_spacy(change: Callable[[Any], None]) -> None:
    nlp = random_pipeline(with_senter=True, seed=1)
    assert FastPipeline.of(nlp) is not None
    change(nlp)
    assert FastPipeline.of(nlp) is None


def test_another_network_is_left_to_spacy() -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.add_pipe("ner").add_label("ORG")
    nlp.initialize()
    assert FastPipeline.of(nlp) is None
    assert FastPipeline.of(spacy.blank("en")) is None
