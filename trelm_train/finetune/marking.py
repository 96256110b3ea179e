"""Turn examples into token ids with markers around their spans, cut to a length that keeps the spans.

The whole text is tokenised once, as in pre-training, and markers are put between tokens: a word is
spelt the same with and without them. A marker is a token of its own that the vocabulary lacks; its id
follows the last one of the model. Its description says what its embedding begins as.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.array_types import I32, I64
from schemas.errors import ConfigError
from trelm_train.finetune.examples import Example, Span
from trelm_train.model.protocols import Tokenizer

# Legend: T tokens of a text, C cores: what must be kept.

# Tokens that are added to every text, [CLS] and [SEP], and to every span.
AROUND_TEXT, AROUND_SPAN = 2, 2
# A limit below this leaves no context.
MIN_LENGTH = 16
# Texts that are tokenised at a time.
_TEXTS = 1000
Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Markers:
    """Number the markers of a task, and describe each in words."""

    # Kind of a span and its type -> the markers before and after it.
    ids: dict[tuple[str, str], tuple[int, int]]
    # In the order of their ids.
    descriptions: tuple[str, ...]
    is_typed: bool

    def of(self, span: Span) -> tuple[int, int]:
        """Return the markers before and after a span; a type that was never seen has the plain ones."""
        plain = self.ids[(span.kind, "")]
        return self.ids.get((span.kind, span.type), plain) if self.is_typed else plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Hold the token ids of an example, with the places of the markers before its spans."""

    ids: I32
    marks: tuple[int, ...]
    # Tokens were left out; tokens of a span were; cutting at the end would have left some out.
    is_cut: bool
    is_span_cut: bool
    is_beyond: bool


def markers_of(examples: Sequence[Example], first_id: int, *, is_typed: bool = False) -> Markers:
    """Give ids to the markers of training examples, from `first_id` on.

    With types, a span of a type has markers of its own, as [SUBJ-PERSON] in the literature.
    """
    spans = [span for example in examples for span in example.spans]
    kinds = {(span.kind, "") for span in spans}
    if is_typed:
        kinds |= {(span.kind, span.type) for span in spans}

    ids, descriptions = {}, []
    for number, (kind, entity_type) in enumerate(sorted(kinds)):
        words = f"{kind} {entity_type.replace('_', ' ').lower()}".strip()
        descriptions += [words, f"end of {words}"]
        ids[(kind, entity_type)] = (first_id + 2 * number, first_id + 2 * number + 1)
    return Markers(ids=ids, descriptions=tuple(descriptions), is_typed=is_typed)


def encode(
    tokenizer: Tokenizer, examples: Sequence[Example], markers: Markers, length: int
) -> list[Encoded]:
    """Encode examples with at most `length` tokens each.

    Raises:
        ConfigError: the length leaves no room for context, or the tokenizer has no [CLS] or [SEP].
    """
    if length < MIN_LENGTH:
        raise ConfigError(f"--length {length}: too short; give {MIN_LENGTH} or more")
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigError("the tokenizer has no [CLS] or [SEP] token, which a classifier reads")
    return list(_encoded(tokenizer, examples, markers, length))


def _encoded(
    tokenizer: Tokenizer, examples: Sequence[Example], markers: Markers, length: int
) -> Iterator[Encoded]:
    for begin in range(0, len(examples), _TEXTS):
        some = examples[begin : begin + _TEXTS]
        encodings: Any = tokenizer([example.text for example in some], add_special_tokens=False)
        for example, encoding in zip(some, encodings.encodings, strict=True):
            ids_T = np.asarray(encoding.ids, np.int64)
            offsets_T2 = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
            ranges = [token_range(offsets_T2, span) for span in example.spans]
            pairs = [markers.of(span) for span in example.spans]
            yield _marked(tokenizer, ids_T, ranges, pairs, length)


def token_range(offsets_T2: I64, span: Span) -> Range:
    """Return the half-open range of tokens that touch a span; empty where the span is."""
    # Offsets never go back, so a search finds the first token that ends behind the span's start.
    start = int(np.searchsorted(offsets_T2[:, 1], span.start, side="right"))
    end = int(np.searchsorted(offsets_T2[:, 0], span.end, side="left"))
    return start, max(start, end)


def kept_tokens(num_tokens: int, ranges: Sequence[Range], budget: int) -> I64:
    """Choose at most `budget` tokens of a text, in order: those of the spans, then the nearest ones.

    What lies between two spans counts as near as the spans themselves, if all of it fits. Where the
    spans alone are too long, their first tokens are kept, of each as many.
    """
    index_T = np.arange(num_tokens)
    if num_tokens <= budget:
        return index_T

    hull = (min(start for start, _ in ranges), max(end for _, end in ranges))
    cores = [hull] if hull[1] - hull[0] <= budget else list(ranges)
    # Inside of a span the depth says how far, outside of all spans it is 0.
    outside_CT = np.stack(
        [np.maximum(np.maximum(start - index_T, index_T - (end - 1)), 0) for start, end in cores]
    )
    depth_CT = np.stack([index_T - start for start, _ in cores])
    distance_T = outside_CT.min(0)
    depth_T = np.where(outside_CT == 0, depth_CT, num_tokens).min(0)
    depth_T = np.where(distance_T == 0, depth_T, 0)
    # Stable: of two tokens at one distance, the left one first.
    order = np.lexsort((depth_T, distance_T))
    return np.sort(order[:budget])


def _marked(
    tokenizer: Tokenizer,
    ids_T: I64,
    ranges: Sequence[Range],
    pairs: Sequence[tuple[int, int]],
    length: int,
) -> Encoded:
    """Cut a text, and put in markers, [CLS] and [SEP]."""
    budget = length - AROUND_TEXT - AROUND_SPAN * len(ranges)
    kept = kept_tokens(len(ids_T), ranges, budget)
    # Where the spans are among the kept tokens.
    inner = [
        (int(np.searchsorted(kept, start)), int(np.searchsorted(kept, end)))
        for start, end in ranges
    ]

    # A marker goes before the token of its place. At one place: what ends there, then empty spans,
    # then what begins there; so pairs are nested and never cross where spans do not.
    insertions = []
    for number, ((start, end), (before, after)) in enumerate(zip(inner, pairs, strict=True)):
        if start == end:
            insertions += [(start, 1, number, 0, before), (end, 1, number, 1, after)]
        else:
            insertions += [(start, 2, -end, number, before), (end, 0, -start, -number, after)]
    insertions.sort()
    places = [entry[0] for entry in insertions]
    marked = np.insert(ids_T[kept], places, [entry[-1] for entry in insertions])

    # Behind [CLS] and the markers that were put in before.
    place_of = {entry[-1]: entry[0] + shift + 1 for shift, entry in enumerate(insertions)}
    ids = np.concatenate(([tokenizer.cls_token_id], marked, [tokenizer.sep_token_id]))
    num_lost = sum(end - start for start, end in ranges) - sum(end - start for start, end in inner)
    return Encoded(
        ids=ids.astype(np.int32),
        marks=tuple(place_of[before] for before, _ in pairs),
        is_cut=len(kept) < len(ids_T),
        is_span_cut=num_lost > 0,
        is_beyond=any(end > budget for _, end in ranges),
    )


def truncation(encoded: Sequence[Encoded]) -> dict[str, int]:
    """Count what a limit has cost."""
    return {
        "rows": len(encoded),
        "rows_cut": sum(row.is_cut for row in encoded),
        "rows_with_a_span_cut": sum(row.is_span_cut for row in encoded),
        "rows_that_a_cut_at_the_end_would_spoil": sum(row.is_beyond for row in encoded),
    }
