"""What a mention says by itself, whatever the candidate."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.index.entity_types import PERSON, PLACE, WORK
from pipeline.link.doubts import DOUBTS, NOUN_WORD, PHRASE, WORD
from pipeline.link.features import GROUPS
from pipeline.link.mention_features import Mention, mention_features
from schemas.ids import FIRST_OWN


def a_mention(surface: str = "Paris", **fields) -> Mention:
    values = {"ner_type": None, "position": 0.5, **fields}
    return Mention(
        document=0, first_token=0, end_token=1, surface=surface, allow_fuzzy=False, **values
    )


def features_of(
    mention: Mention, *, same=(1.0,), partial=(0.0,), ending=0.0, types=(PLACE,), qid=5
) -> dict:
    columns = {"same": np.float32(same), "partial": np.float32(partial)}
    columns["ending"] = np.full(len(same), ending, np.float32)
    found = mention_features(
        [mention],
        np.zeros(len(same), np.int64),
        np.full(len(same), qid, np.uint32),
        np.array(types, np.uint8),
        columns,
    )
    assert tuple(found) == GROUPS["mention"]
    assert {column.dtype for column in found.values()} == {np.dtype(np.float32)}
    return {name: column.tolist() for name, column in found.items()}


@pytest.mark.parametrize("doubt", ["", *DOUBTS])
def test_a_doubt_is_a_feature_of_its_own(doubt: str) -> None:
    found = features_of(a_mention(doubt=doubt), types=(WORK,))
    assert {name: found[name] for name in DOUBTS} == {
        name: [float(name == doubt)] for name in DOUBTS
    }


def test_a_noun_may_be_the_name_of_a_place() -> None:
    both = {"same": (1.0, 1.0), "partial": (0.0, 0.0), "types": (PLACE, WORK)}
    assert features_of(a_mention("Turin", doubt=NOUN_WORD), **both)[NOUN_WORD] == [0, 1]
    assert features_of(a_mention("Nice", doubt=WORD), **both)[WORD] == [0, 1]
    assert features_of(a_mention("crude oil", doubt=PHRASE), **both)[PHRASE] == [1, 1]


def test_an_entity_of_the_users_own_is_never_doubted() -> None:
    mention = a_mention("turbo encabulator", doubt=PHRASE)
    assert features_of(mention, types=(WORK,), qid=FIRST_OWN)[PHRASE] == [0]
    assert features_of(mention, types=(WORK,))[PHRASE] == [1]


@pytest.mark.parametrize(
    ("mention", "wanted"),
    [
        (a_mention("Rachel", ner_type="PERSON"), [1, 0]),
        (a_mention("Rachel", ner_type="GPE"), [0, 0]),
        (a_mention("Rachel Zork", ner_type="PERSON"), [0, 0]),
        (a_mention("Rachel", ner_type="PERSON", longer=("Rachel Zork",)), [0, 0]),
    ],
)
def test_a_person_with_one_name(mention: Mention, wanted: list[int]) -> None:
    """Only the item whose whole label it is, the first of the two."""
    found = features_of(mention, same=(1, 0), partial=(0, 1), types=(PERSON, PERSON))
    assert found["mononym"] == wanted


def test_the_only_candidate_of_a_surname() -> None:
    person = a_mention("Merkel", ner_type="PERSON")
    assert features_of(person, same=(0,), partial=(1,), ending=1)["sole"] == [1]
    assert features_of(person, same=(0,), partial=(1,))["sole"] == [0], "a first name"
    assert features_of(person, same=(1,), ending=1)["sole"] == [0], "a whole name"
    company = a_mention("Volkswagen", ner_type="ORG")
    assert features_of(company, same=(0,), partial=(1,), ending=1)["sole"] == [0]
    two = features_of(person, same=(0, 0), partial=(1, 1), ending=1, types=(PERSON, PERSON))
    assert two["sole"] == [0, 0]


def test_no_mentions() -> None:
    empty = np.zeros(0, np.float32)
    found = mention_features(
        [],
        np.zeros(0, np.int64),
        np.zeros(0, np.uint32),
        np.zeros(0, np.uint8),
        dict.fromkeys(("same", "partial", "ending"), empty),
    )
    assert all(len(column) == 0 for column in found.values())
