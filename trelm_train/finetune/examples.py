"""Hold labelled examples of a task, and say which of them train, choose and test.

An example is a text with marked spans and labels. Typing has one span and any number of labels;
relation classification has two spans, the subject first, and one label.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.checksums import checksum_of
from schemas.errors import ConfigError

PARTS = ("train", "dev", "test")
# So that other programs which split by a hash of the same text split it differently.
_SALT = b"trelm finetune split\n"
# One part of ten each for test and dev; without a file for dev, one part of ten of train.
_TENTHS = 10
HASH_SPLIT = (
    "one file, split by a hash of the sentence: 80 % train, 10 % dev, 10 % test; no sentence is in "
    "two parts, but other sentences of its document may be"
)
DEV_OF_TRAIN = "dev is a tenth of the train file, by a hash of the sentence"
GIVEN = "a file for each part"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Hold a half-open range of characters, what it is in the task, and its type if it has one."""

    start: int
    end: int
    kind: str
    type: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Hold a text, its marked spans and its labels."""

    text: str
    spans: tuple[Span, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """Hold the examples of one file, and what the file is."""

    path: Path
    format: str
    examples: list[Example]


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """Hold the examples of every part, where they come from, and how they were split."""

    parts: dict[str, list[Example]]
    files: dict[str, SourceFile]
    how: str

    def describe(self) -> dict[str, object]:
        """Say which files were read, and how many examples and labels each part has."""
        train = {example.text for example in self.parts["train"]}
        return {
            "split": self.how,
            "files": {
                option: {
                    "path": str(file.path),
                    "format": file.format,
                    "sha256": checksum_of(file.path).sha256,
                    "rows": len(file.examples),
                }
                for option, file in self.files.items()
            },
            "parts": {
                name: {
                    "rows": len(examples),
                    "rows_without_label": sum(not example.labels for example in examples),
                    # Of another part than train, a row that training has seen is easier.
                    "rows_whose_sentence_is_in_train": sum(
                        name != "train" and example.text in train for example in examples
                    ),
                    "labels": dict(label_counts(examples).most_common()),
                }
                for name, examples in self.parts.items()
            },
        }


def label_counts(examples: Sequence[Example]) -> Counter[str]:
    """Count the examples of each label."""
    return Counter(label for example in examples for label in example.labels)


def split(files: dict[str, SourceFile], limit: int = 0) -> Splits:
    """Divide the rows of files into train, dev and test.

    Args:
        files: by option: `data`, which is split by a hash of the sentence, or `train` and `test`,
            and `dev`, without which it is a tenth of train.
        limit: of rows for each part, those with the lowest hash; 0 takes all.

    Raises:
        ConfigError: a part has no rows.
    """
    if "data" in files:
        rows = files["data"].examples
        parts = {name: [row for row in rows if _part_of(row.text) == name] for name in PARTS}
        how = HASH_SPLIT
    elif "dev" in files:
        parts, how = {name: files[name].examples for name in PARTS}, GIVEN
    else:
        rows = files["train"].examples
        parts = {
            "train": [row for row in rows if _hash(row.text) % _TENTHS],
            "dev": [row for row in rows if not _hash(row.text) % _TENTHS],
            "test": files["test"].examples,
        }
        how = DEV_OF_TRAIN

    for name, examples in parts.items():
        if not examples:
            raise ConfigError(
                f"{', '.join(str(file.path) for file in files.values())}: no row is left for "
                f"{name} ({how}); give more rows, or a file for each part"
            )
    if limit:
        # By the hash: the first rows of such files are often all of one document or one label.
        parts = {name: sorted(rows, key=_order)[:limit] for name, rows in parts.items()}
        how += f"; at most {limit} rows of each part, those with the lowest hash"
    return Splits(parts=parts, files=files, how=how)


def _part_of(text: str) -> str:
    tenth = _hash(text) % _TENTHS
    return {0: "test", 1: "dev"}.get(tenth, "train")


def _order(example: Example) -> tuple[int, int, int]:
    # Spans too: a sentence may have several rows.
    return (_hash(example.text) // _TENTHS, example.spans[0].start, example.spans[-1].end)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(_SALT + text.encode()).digest()[:8], "big")
