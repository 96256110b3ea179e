"""Put the mentions of a batch of documents together as the linker needs them.

Goes in: annotated documents with their spans. Comes out: mentions with what the text says of each,
and the tokens of all documents, one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.index.name_keys import normalise
from pipeline.link.document_mentions import DocumentMentions
from pipeline.link.doubts import LinkedNames, doubts_of
from pipeline.link.features import BatchTokens
from pipeline.link.impossible import reading_of
from pipeline.link.mention_features import Mention
from pipeline.link.misspelt_names import likely_misspelt
from pipeline.link.short_forms import longer_names
from pipeline.link.spacy_annotator import Annotator
from pipeline.link.spans import DICTIONARY, Span
from pipeline.link.unknown_persons import stand_for_unknown_persons


def batch_of(
    documents: Sequence[DocumentMentions],
    annotator: Annotator,
    names: LinkedNames,
    fuzzy: str,
) -> tuple[list[Mention], BatchTokens]:
    """Return the mentions and tokens of a batch as the linker needs them.

    Args:
        documents: of the batch.
        annotator: the one that annotated them; its word numbers hold until its next call.
        names: of the corpus's links.
        fuzzy: which mentions may be misspelt, as `LinkConfig.fuzzy_mentions` says it.
    """
    mentions: list[Mention] = []
    # Tokens of the documents before.
    num_tokens = 0
    for number, document in enumerate(documents):
        surfaces = [document.text[span.start : span.end] for span in document.spans]
        doubts = (
            doubts_of(document.spans, surfaces, annotator.common_words, names)
            if annotator.has_recogniser
            else [""] * len(surfaces)
        )
        mentions += _mentions_of(document, surfaces, doubts, fuzzy, number, num_tokens)
        num_tokens += len(document.annotated.tokens)

    terms = annotator.table.terms
    words = np.concatenate(
        [np.empty(0, np.int64), *(document.annotated.tokens.words for document in documents)]
    )
    sizes = [len(document.annotated.tokens) for document in documents]
    owners = np.repeat(np.arange(len(documents)), sizes)
    return mentions, BatchTokens(terms=terms[words], documents=owners)


def _mentions_of(
    document: DocumentMentions,
    surfaces: Sequence[str],
    doubts: Sequence[str],
    fuzzy: str,
    number: int,
    num_tokens: int,
) -> Iterator[Mention]:
    """Yield the mentions of one document.

    Args:
        document: with its spans.
        surfaces: texts of the spans.
        doubts: about the spans.
        fuzzy: which may be misspelt.
        number: of the document in the batch.
        num_tokens: tokens of the documents before it.
    """
    tokens, spans = document.annotated.tokens, document.spans
    starts = np.fromiter((span.start for span in spans), np.int64, len(spans))
    ends = np.fromiter((span.end for span in spans), np.int64, len(spans))
    first_tokens = np.searchsorted(tokens.ends, starts, "right") + num_tokens
    end_tokens = np.searchsorted(tokens.starts, ends, "left") + num_tokens
    length = max(len(document.text), 1)
    for span, surface, low, high, longer, allow_fuzzy, is_unknown, doubt in zip(
        spans,
        surfaces,
        first_tokens.tolist(),
        end_tokens.tolist(),
        longer_names(surfaces),
        _may_be_misspelt(spans, surfaces, fuzzy),
        stand_for_unknown_persons(spans, surfaces),
        doubts,
        strict=True,
    ):
        yield Mention(
            document=number,
            first_token=low,
            end_token=high,
            surface=surface,
            ner_type=span.ner_type,
            position=span.start / length,
            allow_fuzzy=allow_fuzzy,
            longer=(span.full_name, *longer) if span.full_name else longer,
            full_name=span.full_name,
            is_unknown=is_unknown,
            # A name that is short for a longer one of the text is no common word there.
            doubt="" if longer else doubt,
            reading=reading_of(document.text, span.start, span.end, span.ner_type),
        )


def _may_be_misspelt(spans: Sequence[Span], surfaces: Sequence[str], fuzzy: str) -> list[bool]:
    """Say of a document's mentions whether each may be a misspelling.

    At spans that an annotator or the corpus gives, each may be. A mention that was found needs a
    stronger reason than a capital letter.
    """
    if fuzzy == "none":
        return [False] * len(spans)
    if fuzzy == "all":
        likely = [True] * len(spans)
    else:
        likely = likely_misspelt(list(map(normalise, surfaces)), [span.known for span in spans])
    return [
        span.detector.startswith(("gold", "anchor")) or (is_likely and span.detector != DICTIONARY)
        for span, is_likely in zip(spans, likely, strict=True)
    ]
