"""Do what `trelm-train evaluate mlm` is asked for: measure a model on shards, on a text, or on both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.bucket_copies import local_file
from schemas.buckets import Location
from schemas.errors import ConfigError
from trelm_train.evaluate.forgetting import TextRequest, measure_text, readable_text
from trelm_train.evaluate.mlm_items import measure, readable


@dataclass(frozen=True, kw_only=True, slots=True)
class MlmRequest:
    """Hold the options of the command.

    Raises:
        ConfigError: nothing to measure on, or an option without the one that it belongs to.
    """

    model: str
    device: str
    shards: Location | None = None
    text_path: Location | None = None
    against: str | None = None
    # Sentences of the shards, and pieces of the text; 0: all.
    sentences: int = 0
    items_path: Location | None = None

    def __post_init__(self) -> None:
        if self.shards is None and self.text_path is None:
            raise ConfigError("nothing to measure the model on; give --shards, --text or both")
        if self.against is not None and self.text_path is None:
            raise ConfigError(
                f"--against {self.against}: what is forgotten is measured on a text; add --text FILE"
            )
        if self.items_path is not None and self.shards is None:
            raise ConfigError(f"--items {self.items_path}: rows are facts of shards; add --shards")


def measure_all(request: MlmRequest) -> tuple[dict[str, Any], str]:
    """Return the measures as plain values and as text; those of the text stand under `text`.

    Raises:
        ConfigError: a file or folder that was named is not what is needed.
        TrelmError: shards are damaged, or the rows cannot be written.
        NotFiniteError: a model gives NaN or infinite logits.
    """
    text: dict[str, Any] | None = None
    # The text first: what is wrong with it, or with the other model, is said at once.
    if request.text_path is not None:
        asked = TextRequest(
            path=local_file(request.text_path), against=request.against, limit=request.sentences
        )
        text = measure_text(request.model, asked, request.device)

    result: dict[str, Any] = {}
    lines: list[str] = []
    if request.shards is not None:
        measures = measure(
            request.model,
            request.shards,
            request.device,
            max_sentences=request.sentences,
            items_path=request.items_path,
        )
        result |= measures.to_dict()
        lines.append(readable(measures))
    if text is not None:
        result["text"] = text
        lines.append(readable_text(text))
    return result, "\n".join(lines)
