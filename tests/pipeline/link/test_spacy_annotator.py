"""Annotation against what spaCy says itself, on texts with line ends and odd white space."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import LinkConfig
from pipeline.index.words import SENTENCE_ENDS
from pipeline.link import spacy_annotator as annotate
from pipeline.link.spacy_annotator import Annotated, Annotator, ruled_sentences
from tests.conftest import ROOT

MODEL = LinkConfig().spacy_model
TEXTS = [
    "Angela Merkel was born in Hamburg.  She\tlived in Berlin. \n\n  Paris is in France.\r\nHe left\u00a0the U.S. in 1990. ",
    "",
    " \n \n",
    "\u2003Zoë’s  book “Emma”\u200b was sold in New York\nGazette and\n\nin Köln — 𝔘nicode 😀 too.",
    "one line without an end",
]


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    return Annotator(MODEL)


def shown(found: list[Annotated], annotator: Annotator) -> list[object]:
    keys = annotator.table.keys
    return [
        (
            one.tokens.starts.tolist(), one.tokens.ends.tolist(), [keys[word] for word in one.tokens.words.tolist()],
            one.tokens.opens_sentence.tolist(), one.named, one.sentences,
        )
        for one in found
    ]  # fmt: skip


def plain_sentences(doc) -> list[tuple[int, int]]:
    """Sentences of spaCy, cut at line ends, without surrounding space and without those of space
    alone.
    """
    found = []
    for sentence in doc.sents:
        part: list = []
        for token in [*sentence, None]:
            ends_line = token is not None and part and "\n" in doc.text[part[-1].idx : token.idx]
            if part and (token is None or (ends_line and not token.is_space)):
                found.append((part[0].idx, part[-1].idx + len(part[-1])))
                part = []
            if token is not None and not token.is_space:
                part.append(token)
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_equals_spacy(annotator: Annotator, text: str) -> None:
    (found,) = annotator.annotate([text])
    doc = annotator._nlp(text)
    tokens = [token for token in doc if not token.is_space]
    assert found.tokens.starts.tolist() == [token.idx for token in tokens]
    assert found.tokens.ends.tolist() == [token.idx + len(token) for token in tokens]
    assert found.named == [
        annotate.NamedEntity(
            entity.start_char,
            entity.end_char,
            entity.label_,
            has_stop=entity[-1].text.endswith(".") and entity[-1].text != ".",
        )
        for entity in doc.ents
    ]
    assert found.sentences == plain_sentences(doc)
    starts = [start for start, _ in found.sentences]
    assert found.tokens.starts[found.tokens.opens_sentence].tolist() == starts
    assert all(
        "\n" not in text[start:end] and text[start:end].strip() == text[start:end]
        for start, end in found.sentences
    )
    words = annotator.table.numbers(
        [token.orth for token in tokens], annotator._nlp.vocab.strings.__getitem__
    )
    assert found.tokens.words.tolist() == words


def test_the_recogniser_is_asked(annotator: Annotator) -> None:
    (found,) = annotator.annotate([TEXTS[0]])
    assert ("Hamburg", "GPE") in [(TEXTS[0][one.start : one.end], one.label) for one in found.named]
    assert len(found.sentences) == 4


def test_offsets_of_a_text_in_pieces(annotator: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are annotated the same whether they come in one piece or in many."""
    line = "Angela Merkel was born in Hamburg. She lived there."
    text = "\n".join([line] * 7)
    monkeypatch.setattr(annotate, "PIECE_CHARACTERS", 120)
    (found,) = annotator.annotate([text])
    (alone,) = annotator.annotate([line])
    step = len(line) + 1
    assert found.tokens.starts.tolist() == [
        n * step + start for n in range(7) for start in alone.tokens.starts.tolist()
    ]
    assert found.sentences == [
        (n * step + start, n * step + end) for n in range(7) for start, end in alone.sentences
    ]
    assert found.tokens.opens_sentence.tolist() == alone.tokens.opens_sentence.tolist() * 7
    assert {text[one.start : one.end] for one in found.named} >= {"Angela Merkel", "Hamburg"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["blank:en", MODEL])
def test_a_pipeline_that_is_loaded_again_says_the_same(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = Annotator(model)
    wanted = [shown(steady.annotate(TEXTS), steady) for _ in range(3)]
    forgetful, loads = Annotator(model), []
    monkeypatch.setattr(annotate, "MAX_NEW_WORDS", 5)
    load = annotate._load
    monkeypatch.setattr(annotate, "_load", lambda name: loads.append(name) or load(name))
    assert [shown(forgetful.annotate(TEXTS), forgetful) for _ in range(3)] == wanted
    assert loads == [model] * 2, "before the second and the third batch"


def test_a_full_table_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    steady, small = Annotator("blank:en"), Annotator("blank:en")
    small.table = annotate.WordTable(3)
    for _ in range(3):
        assert shown(small.annotate(TEXTS), small) == shown(steady.annotate(TEXTS), steady)
    assert len(small.table) == len(steady.table) > 3


BLANK = Annotator("blank:en")
SENTENCIZER = spacy.blank("en")
SENTENCIZER.add_pipe("sentencizer", config={"punct_chars": sorted(SENTENCE_ENDS)})
PARTS = st.sampled_from(
    [
        "Paris",
        "is",
        "U.S.",
        "St.",
        ".",
        "?",
        "!",
        "…",
        "...",
        "”",
        ")",
        "(",
        ",",
        "1990",
        "3.5",
        "。",
        "-",
    ]
)


def one_spaced(text: str) -> str:
    """Two spaces are a token for spaCy, which may open a sentence; here white space opens none."""
    return " ".join(text.split())


@settings(max_examples=150)
@given(
    st.lists(PARTS, max_size=20).map(" ".join) | st.text("aB1.?! ”", max_size=30).map(one_spaced)
)
def test_ruled_sentences_equal_the_sentencizer(text: str) -> None:
    doc = SENTENCIZER(text)
    kept = [number for number, token in enumerate(doc) if not token.is_space]
    table = annotate.WordTable()
    words = table.numbers([doc[number].text for number in kept])
    wanted = np.cumsum([bool(token.is_sent_start) for token in doc])[kept] if kept else []
    assert np.diff(ruled_sentences(table.flags[words])).tolist() == np.diff(wanted).tolist()


def test_blank_finds_sentences_and_no_names() -> None:
    (found,) = BLANK.annotate(["Paris grew. It is old\nBonn grew"])
    assert found.named == []
    assert found.sentences == [(0, 11), (12, 21), (22, 31)]


# A line of several sentences, and how a piece of it may begin.
LINES = {
    "Gen. Ulysses Grant met Prof. Ada King of St. Louis on 3 Oct. 1880. He left. ": (
        "Gen.",
        "He l",
    ),
    'The mayor said "No!" to Angela Merkel. "Yes," said J. R. R. Tolkien (1954). ': (
        "The ",
        '"Yes',
    ),
    "巴黎是法国首都。柏林是德国首都。": ("巴黎是法", "柏林是德"),
}


@pytest.mark.parametrize("line", LINES)
def test_a_long_line_is_cut_where_sentences_end(line: str) -> None:
    found = list(annotate.pieces(line * 600))
    assert len(found) > 2
    assert {piece[:4] for _, piece in found} <= set(LINES[line])
    assert "".join(piece for _, piece in found) == line * 600


@pytest.mark.parametrize("model", ["blank:en", MODEL])
def test_a_long_line_has_the_sentences_of_short_ones(model: str) -> None:
    """It was cut at a blank before every 4,000th character, in the middle of names."""
    sentence, number = "Paris is in New York City today.", 400
    annotator_ = BLANK if model == "blank:en" else Annotator(model)
    on_one_line, on_lines = annotator_.annotate(
        [" ".join([sentence] * number), "\n".join([sentence] * number)]
    )
    step = len(sentence) + 1
    assert on_one_line.sentences == [(n * step, n * step + len(sentence)) for n in range(number)]
    assert on_one_line.sentences == on_lines.sentences
    assert on_one_line.tokens.starts.tolist() == on_lines.tokens.starts.tolist()


def test_a_long_line_without_ends_is_cut_between_common_words() -> None:
    text = ("New York City and the old town of San Jose, " * 400).strip()
    for start, piece in annotate.pieces(text):
        before = text[:start].rsplit(maxsplit=1)[-1:] or [""]
        assert before[0].strip(",").islower() or not start
        assert piece[:1].islower() or not start


def test_no_texts() -> None:
    assert BLANK.annotate([]) == []


def test_a_run_without_white_space_is_cut() -> None:
    """A tokeniser would take seconds for it."""
    text = "Paris " + "." * 2_000 + " grew\n" + "x" * 700
    found = list(annotate.pieces(text))
    assert "".join(piece for _, piece in found) == text
    assert [start for start, _ in found] == [
        0,
        *np.cumsum([len(piece) for _, piece in found])[:-1].tolist(),
    ]
    assert max(len(word) for _, piece in found for word in piece.split()) <= 500


def test_spacy_alone_does_not_import_torch() -> None:
    """In a new process, since this one has both."""
    code = (
        "import sys; from pipeline.link import spacy_annotator as annotate; "
        "annotate._load('blank:en'); assert 'torch' not in sys.modules; import torch, spacy; "
        "assert torch.ones(1).sum() == 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_another_thread_imports_torch_meanwhile() -> None:
    code = (
        "import sys, threading; from pipeline.link import spacy_annotator as annotate\n"
        "with annotate._without_torch('blank:en'):\n"
        "    try:\n"
        "        import torch; raise SystemExit('it is hidden from this thread')\n"
        "    except ModuleNotFoundError: pass\n"
        "    found = []\n"
        "    other = threading.Thread(target=lambda: found.append(__import__('torch')))\n"
        "    other.start(); other.join()\n"
        "assert found and 'torch' in sys.modules\n"
        "assert not [one for one in sys.meta_path if isinstance(one, annotate._NoTorch)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_a_pipeline_that_needs_torch_too_late_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.cfg").write_text('@architectures = "spacy.TorchBiLSTMEncoder.v1"')
    code = (
        "import sys; from pipeline.link import spacy_annotator as annotate\n"
        "annotate._load('blank:en')\n"
        "annotate._load(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )  # fmt: skip
    assert "load it in a process of its own" in done.stderr


def test_a_pipeline_that_computes_with_torch_gets_it(tmp_path: Path) -> None:
    for name, text, expected in (
        ("cnn", '@architectures = "spacy.HashEmbedCNN.v2"', False),
        ("trf", '@architectures = "spacy-curated-transformers.XlmrTransformer.v1"', True),
        ("lstm", '@architectures = "spacy.TorchBiLSTMEncoder.v1"', True),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.cfg").write_text(text)
        assert annotate._needs_torch(str(tmp_path / name)) == expected, name
    assert annotate._needs_torch(str(tmp_path / "no-config")), "nothing is known of it"
    assert not annotate._needs_torch("blank:en")
