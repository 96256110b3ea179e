"""Hold a mention as the linker gets it, and compute what it says by itself, whatever the candidate.

Goes in: mentions with what was seen of them in the text. Comes out: one float32 column per feature.

Legend: m mentions, c candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.index.entity_types import EVENT, GROUP, LANGUAGE, ORGANISATION, PLACE
from pipeline.link.doubts import DOUBTS, NOUN_WORD, WORD
from pipeline.link.spans import PERSON_LABELS
from schemas.array_types import F32, I64, U8, U32, Bools
from schemas.ids import FIRST_OWN

# Types of items whose names are among the nouns of word lists: "Turin". Places have those of other
# words, too: "Nice", "Bath".
NAMED_BY_NOUNS = PLACE | ORGANISATION | EVENT | GROUP | LANGUAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """Hold a mention to be linked. Tokens are numbered within the batch."""

    # Number of the document in the batch.
    document: int
    first_token: int
    end_token: int
    surface: str
    ner_type: str | None
    # In its document: 0 at the beginning, 1 at the end.
    position: float
    allow_fuzzy: bool
    # Names of the same document for which it may be short.
    longer: tuple[str, ...] = ()
    # The longer name that it opens: "Athens, Georgia". Also among `longer`.
    full_name: str = ""
    # What "Russian" is here, if the words around tell: of `impossible`.
    reading: str = ""
    # Whether it stands for somebody whom no index knows: it has no candidates then.
    is_unknown: bool = False
    # What speaks against it being a mention at all: a kind of `doubts`.
    doubt: str = ""


def mention_features(
    mentions: Sequence[Mention],
    mention_of: I64,
    qids: U32,
    types: U8,
    features: Mapping[str, F32],
) -> dict[str, F32]:
    """Return the features of group "mention", shape (c,) each.

    Args:
        mentions: of the batch.
        mention_of: number of each candidate's mention, ascending, shape (c,).
        qids: item of each candidate, shape (c,).
        types: coarse type bits of each candidate, shape (c,).
        features: `same`, `partial` and `ending` of each candidate, shape (c,) each.
    """
    doubt_of_each = np.array([mention.doubt for mention in mentions], str)
    columns = {doubt: (doubt_of_each == doubt).astype(np.float32)[mention_of] for doubt in DOUBTS}
    # Nobody adds an entity of their own to have it doubted.
    columns = {doubt: column * (qids < FIRST_OWN) for doubt, column in columns.items()}
    columns[NOUN_WORD] *= types & NAMED_BY_NOUNS == 0
    columns[WORD] *= types & PLACE == 0

    # A person is seldom called by one name that is all of an item's name.
    is_one_name = _flags(_is_one_name_of_person(mention) for mention in mentions)
    # A surname ends a label. "Volkswagen" is not short for the one car that is listed.
    is_person = _flags(mention.ner_type in PERSON_LABELS for mention in mentions)
    is_short = is_person & (np.bincount(mention_of, minlength=len(mentions)) == 1)
    position = np.fromiter((mention.position for mention in mentions), np.float32, len(mentions))
    return {
        "position": position[mention_of],
        "mononym": features["same"] * is_one_name[mention_of],
        "sole": features["partial"] * features["ending"] * is_short[mention_of],
        **columns,
    }


def _is_one_name_of_person(mention: Mention) -> bool:
    is_person = mention.ner_type in PERSON_LABELS
    return is_person and " " not in mention.surface and not mention.longer


def column(mentions: Sequence[Mention], name: str) -> I64:
    """Return one whole-number attribute of all mentions, shape (m,)."""
    return np.fromiter((getattr(mention, name) for mention in mentions), np.int64, len(mentions))


def in_cased_documents(mentions: Sequence[Mention]) -> Bools:
    """Say of each mention whether most mentions of its document begin with a capital, (m,)."""
    documents = column(mentions, "document")
    is_capital = _flags(mention.surface[:1].isupper() for mention in mentions)
    num_capital, num_mentions = np.bincount(documents, is_capital), np.bincount(documents)
    is_cased: Bools = (2 * num_capital > num_mentions)[documents]
    return is_cased


def _flags(values: Iterable[bool]) -> Bools:
    return np.fromiter(values, bool)
