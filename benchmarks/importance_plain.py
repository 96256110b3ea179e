"""Run the peer of `importance`: the plain way, two forward passes for each mention, in the order in
which mentions arrive.

What one writes first: batches of mentions, the tokenizer's own padding, the model in float32,
torch's own threads. The batch size is tried. Nothing is read or written within its time: sentences
and spans are given, cosines stay in a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.linking_clock import Clock
from pipeline.engine.tables import RunPaths
from pipeline.link.linked_sentences import LinkedReader, linked_units

TUNING_MENTIONS = 8  # batch sizes are tried on one mention in this many


@dataclass(frozen=True)
class Mention:
    """Hold a sentence, and all spans of one entity in it."""

    key: tuple[str, int, int]
    sentence: str
    spans: tuple[tuple[int, int], ...]


def plain(
    out: Path,  # noqa: ARG001
    run: str,
    model: str,
    batch_sizes: Sequence[int],
    *,
    scores: bool = False,
) -> dict[str, Any]:
    """Score all mentions of a run; the batch size is tried first."""
    way, mentions = Plain(model), read_mentions(run)
    way.cosines(mentions[: batch_sizes[0]], batch_sizes[0])
    best = batch_sizes[0]
    if len(batch_sizes) > 1:
        part = mentions[: max(len(mentions) // TUNING_MENTIONS, max(batch_sizes))]
        best = min(batch_sizes, key=lambda size: _seconds(way, part, size))
    clock = Clock()
    cosines, cut = way.cosines(mentions, best)
    taken = clock.taken()
    rows = (
        [(*mention.key, *row) for mention, *row in zip(mentions, cosines, cut, strict=True)]
        if scores
        else []
    )
    return {**taken, "mentions": len(mentions), "batch_size": best, "rows": rows}


def _seconds(way: Plain, mentions: Sequence[Mention], batch_size: int) -> float:
    clock = Clock()
    way.cosines(mentions, batch_size)
    return clock.taken()["seconds"]


def read_mentions(run: str) -> list[Mention]:
    """Linked mentions in the order of the text."""
    reader, found = LinkedReader(RunPaths(root=run)), []
    for unit in linked_units(reader._paths):
        linked = reader.read(unit)
        texts, doc_ids = linked.sentence_texts(), linked.doc_ids.to_pylist()
        columns = (linked.sentence, linked.mention_start, linked.mention_end, linked.qid)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        spans: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for sentence, start, end, qid in rows:
            shift = int(linked.start[sentence])
            spans.setdefault((sentence, qid), []).append((start - shift, end - shift))
        for sentence, start, end, qid in rows:
            key = (doc_ids[linked.document[sentence]], start, end)
            found.append(Mention(key, texts[sentence], tuple(spans[sentence, qid])))
    return found


class Plain:
    """Run tokenizer and model as the library gives them."""

    def __init__(self, model: str, max_tokens: int = 128) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._model: Any = (
            AutoModelForMaskedLM.from_pretrained(model).eval().base_model
        )  # without the head: as AutoModel
        self._max_tokens = max_tokens

    def cosines(
        self, mentions: Sequence[Mention], batch_size: int
    ) -> tuple[list[float], list[bool]]:
        """Return the cosine of each mention, and whether its sentence was cut."""
        values: list[float] = []
        cut: list[bool] = []
        for low in range(0, len(mentions), batch_size):
            found, longer = self._batch(mentions[low : low + batch_size])
            values += found
            cut += longer
        return values, cut

    def _batch(self, mentions: Sequence[Mention]) -> tuple[list[float], list[bool]]:
        import torch

        encoded = self._tokenizer(
            [mention.sentence for mention in mentions],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        variants = encoded["input_ids"].clone()
        offsets = encoded["offset_mapping"]
        for row, mention in enumerate(mentions):
            for start, end in mention.spans:
                variants[row][(offsets[row, :, 1] > start) & (offsets[row, :, 0] < end)] = (
                    self._tokenizer.mask_token_id
                )
        inner = (encoded["special_tokens_mask"] == 0).unsqueeze(-1)
        with torch.inference_mode():
            left, right = (
                self._means(ids, encoded["attention_mask"], inner)
                for ids in (encoded["input_ids"], variants)
            )
            found = torch.nn.functional.cosine_similarity(left, right)
        return found.tolist(), [bool(one.overflowing) for one in encoded.encodings]

    def _means(self, ids: Any, mask: Any, inner: Any) -> Any:  # noqa: ANN401 - tensors
        states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return (states * inner).sum(1) / inner.sum(1)


def largest_difference(
    plain_rows: Sequence[Sequence[Any]], ours: dict[str, list[Any]]
) -> tuple[float | None, int]:
    """Compare the cosines of sentences that the plain way did not cut.

    Returns:
        The largest difference, None if every sentence was cut; and the number of cosines compared.
    """
    keys = zip(ours["doc_id"], ours["start"], ours["end"], strict=True)
    by_key = dict(zip(keys, ours["cosine"], strict=True))
    apart = [
        abs(by_key[doc_id, start, end] - cosine)
        for doc_id, start, end, cosine, cut in plain_rows
        if not cut
    ]
    return max(apart, default=None), len(apart)
