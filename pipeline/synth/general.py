"""Read general text to mix in: paragraphs that name no subject of the corpus.

Goes in: text files with a paragraph per line, or JSONL with a field `text`. Comes out: paragraphs,
as many as are needed. Memory: one line, and what is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import DocumentsConfig
from pipeline.documents.corpus import kind_of, read_jsonl
from pipeline.engine import files
from pipeline.engine.tasks import ByteRange
from pipeline.sources.lines import read_lines
from pipeline.synth.names import NameFinder
from pipeline.synth.settings import SynthConfig
from schemas.errors import ConfigError

# Shorter lines are headings.
MIN_WORDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneralText:
    """Hold the paragraphs that are mixed in, and what was left out on the way to them."""

    paragraphs: tuple[str, ...] = ()
    num_words: int = 0
    # Paragraphs that name a subject.
    num_naming: int = 0


def take_paragraphs(config: SynthConfig, num_words: int, subjects: NameFinder) -> GeneralText:
    """Return paragraphs that make up the share of the corpus that is asked for.

    Args:
        config: `general` and `general_share`.
        num_words: words of the sentences that name entities.
        subjects: finds the names that no paragraph may have.

    Raises:
        ConfigError: the text is too short, or of a kind that is not read.
    """
    # The share is one of all words, those of the general text included.
    needed = round(num_words * config.general_share / (1 - config.general_share))
    if not config.general or not needed:
        return GeneralText()

    paragraphs: list[str] = []
    words_taken, num_naming = 0, 0
    for paragraph in _paragraphs(config.general):
        if subjects.names_in(paragraph):
            # It might state a fact that counts as not stated, or mention an absent subject.
            num_naming += 1
            continue

        paragraphs.append(paragraph)
        words_taken += len(paragraph.split())
        if words_taken >= needed:
            return GeneralText(
                paragraphs=tuple(paragraphs), num_words=words_taken, num_naming=num_naming
            )
    raise ConfigError(
        f"{config.general}: {words_taken:,} words of general text that name no subject, but a share of "
        f"{config.general_share} needs {needed:,}; give more text, or a lower --general-share"
    )


def _paragraphs(pattern: str) -> Iterator[str]:
    """Yield the lines of all files that are long enough to be paragraphs."""
    for path in files.expand((pattern,)):
        for text in _texts(path):
            for line in text.splitlines():
                paragraph = " ".join(line.split())
                if paragraph.count(" ") + 1 >= MIN_WORDS:
                    yield paragraph


def _texts(path: str) -> Iterator[str]:
    """Yield the lines of a text file, or the texts of a JSONL file.

    Raises:
        ConfigError: neither of the two, or not UTF-8.
    """
    kind = kind_of(path)
    # One range: a corpus of this size needs no workers.
    whole = ByteRange(path=path, start=0, end=files.size_of(path))
    if kind == "text":
        for position, line in read_lines(whole):
            try:
                yield line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{path}:{position}: not UTF-8 ({error.reason}); convert the file"
                ) from error
    elif kind == "jsonl":
        for document in read_jsonl(whole, path, DocumentsConfig(), None):
            if document.problem:
                raise ConfigError(
                    f"{path}:{document.position}: {document.problem}; correct the line"
                )
            yield document.text
    else:
        raise ConfigError(
            f"{path}: general text is read from text files and JSONL, not from {kind}; convert it"
        )
