"""The model: its file, probabilities, contributions, order."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.link.disambiguation import (
    BY_HAND,
    FORMAT,
    Model,
    contributions,
    probabilities,
    ranked,
)
from pipeline.link.features import FEATURES, GROUPS

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MODELS = st.builds(
    Model,
    FLOATS,
    st.dictionaries(st.sampled_from(FEATURES), FLOATS),
    st.dictionaries(st.text(), st.text()),
)


@given(MODELS)
def test_a_model_survives_its_file(model: Model) -> None:
    assert Model.from_json(model.to_json(), "w.json") == model


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(BY_HAND.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "w.json: no weights of a linker"),
        ("[]", "w.json: no weights of a linker"),
        ("null", "w.json: no weights of a linker"),
        (changed(bias=10**400), "w.json: no weights of a linker"),  # no float holds it
        (changed(about=5), "w.json: no weights of a linker"),
        ("{}", "KeyError: 'format'"),
        (changed(format="trelm linker weights 0"), "format 'trelm linker weights 0', but must be"),
        (changed(weights={"priör": 1.0, "label": 1.0}), r"unknown feature\(s\) priör"),
        (changed(weights=[1.0]), "no weights of a linker"),
        (changed(weights={"prior": "much"}), "could not convert"),
        (changed(weights={"prior": None}), "no weights of a linker"),
        (changed(weights={"prior": math.nan}), "not finite"),
        (changed(bias=math.inf), "not finite"),
        (json.dumps({"format": FORMAT, "weights": {}}), "KeyError: 'bias'"),
    ],
)
def test_what_is_no_model(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Model.from_json(text, "w.json")


def test_set_by_hand_is_a_model() -> None:
    assert Model.from_json(BY_HAND.to_json(), "w") == BY_HAND


def test_contributions_are_by_group_and_sum_to_the_score() -> None:
    random = np.random.default_rng(0)
    features = {
        name: random.normal(size=4).astype(np.float32) for name in FEATURES if name != "semantic"
    }
    model = Model(1.0, {name: float(place) for place, name in enumerate(FEATURES)})
    parts = contributions(features, model)
    assert tuple(parts) == tuple(GROUPS)
    assert parts["semantic"].tolist() == [0.0] * 4, "a feature that was not computed adds nothing"
    for group, names in GROUPS.items():
        wanted = sum(
            (model.weights[name] * features[name] for name in names if name in features),
            np.zeros(4),
        )
        assert parts[group].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


@given(st.lists(st.lists(st.floats(-900, 900), max_size=5), min_size=1, max_size=4))
def test_probabilities_leave_room_for_nil(mentions: list[list[float]]) -> None:
    numbers = np.array([number for number, own in enumerate(mentions) for _ in own], np.int64)
    found = probabilities(np.array(sum(mentions, []), np.float64), numbers, len(mentions))
    for number, own in enumerate(mentions):
        top = max([0.0, *own])
        total = math.exp(-top) + sum(math.exp(score - top) for score in own)
        wanted = [math.exp(score - top) / total for score in own]
        assert found[numbers == number].tolist() == pytest.approx(wanted, abs=1e-5)


def test_ranked_breaks_ties_by_popularity_then_id() -> None:
    order = ranked(
        np.array([0, 0, 0, 1]),
        np.array([0.2, 0.2, 0.2, 0.9]),
        np.array([1, 5, 5, 9]),
        np.array([1, 9, 3, 2]),
    )
    assert order.tolist() == [2, 1, 0, 3]
    assert ranked(
        np.array([0, 0]), np.array([0.1, 0.2]), np.array([9, 1], np.uint32), np.array([1, 2])
    ).tolist() == [
        1,
        0,
    ]
    unsigned = np.array([0, 3], np.uint32)  # as the store keeps them: nothing may wrap round
    assert ranked(np.array([0, 0]), np.array([0.2, 0.2]), unsigned, np.array([1, 2])).tolist() == [
        1,
        0,
    ]
