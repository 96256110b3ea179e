"""Read the files of a task, divide their rows, and refuse what cannot be trained on.

Goes in: paths by option (`data`, or `train`, `test` and perhaps `dev`). Comes out: the rows of each
part. Nothing of a model is needed, so a wrong file is refused before any training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, SourceFile, Splits, label_counts, split
from trelm_train.finetune.relation_file import read_relations
from trelm_train.finetune.relation_scores import negative_class
from trelm_train.finetune.task import types_give_labels_away
from trelm_train.finetune.typing_file import read_typing


def read_typing_splits(files: Mapping[str, Path], limit: int) -> Splits:
    """Read rows of entity typing, at most `limit` of each part (0: all).

    Raises:
        ConfigError: options that do not fit together, or a file that is wrong.
    """
    return _read(files, limit, read_typing)


def read_relation_splits(
    files: Mapping[str, Path], limit: int, *, negative: str | None, is_typed: bool
) -> tuple[Splits, str | None]:
    """Read rows of relation classification, and find the negative class.

    Args:
        files: paths by option.
        limit: of rows of each part; 0 takes all.
        negative: the label that says "no relation"; None finds it by its name.
        is_typed: markers name the types of subject and object.

    Raises:
        ConfigError: options that do not fit together, a file or a negative class that is wrong, or
            types would tell the answers.
    """
    splits = _read(files, limit, read_relations)
    if is_typed:
        # All rows of the file: a few of them, as --limit leaves, say little of types.
        _check_types((splits.files.get("data") or splits.files["train"]).examples)
    # Of all parts: it stays the negative class where no training row has it.
    labels = {label for rows in splits.parts.values() for label in label_counts(rows)}
    return splits, negative_class(labels, negative)


def _read(files: Mapping[str, Path], limit: int, reader: Callable[[Path], SourceFile]) -> Splits:
    given = set(files)
    if given not in ({"data"}, {"train", "test"}, {"train", "dev", "test"}):
        raise ConfigError(
            "give --data FILE, which is split, or --train FILE and --test FILE, and --dev FILE if "
            "there is one"
        )
    return split({option: reader(path) for option, path in files.items()}, limit)


def _check_types(rows: Sequence[Example]) -> None:
    """Refuse typed markers where there are no types, or where they tell the relation.

    Raises:
        ConfigError: says which.
    """
    if not any(span.type for example in rows for span in example.spans):
        raise ConfigError("--markers typed: the rows have no types; give --markers plain")
    if types_give_labels_away(rows):
        raise ConfigError(
            "--markers typed: the types alone tell the relation of nearly every row, so the "
            "markers would tell the answer (they are roles, not types of entities); give "
            "--markers plain"
        )
