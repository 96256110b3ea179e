"""Fitting on choices that known weights have made."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from pipeline.link.disambiguation import BY_HAND, Model, contributions
from pipeline.link.training.fitting import (
    EVIDENCE,
    PENALTIES,
    Examples,
    Fitting,
    _loss_and_gradient,
    fit,
)

TRUE = Model(-1.0, {"prior": 1.2, "label": 0.8, "position": -0.7, "partial": -1.5})
NAMES = tuple(TRUE.weights)
# Weights from which a distance is measured.
STILL = np.array([0.3, -0.2, 0.0, 1.0])


def fitting(penalty: float, names: tuple[str, ...] = NAMES, kept: tuple[str, ...] = ()) -> Fitting:
    return Fitting(names=names, kept=kept, penalty=penalty)


def simulated(
    num_mentions: int, seed: int, model: Model = TRUE, names: tuple[str, ...] = NAMES
) -> Examples:
    """Mentions with 0 to 5 candidates; which one is meant, or none, is drawn from the model's own
    probabilities.
    """
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 6, num_mentions)
    mentions = np.repeat(np.arange(num_mentions), sizes)
    # Features on different scales, none of mean 0.
    features = {
        name: (random.normal(size=len(mentions)) * (place + 1) + place).astype(np.float32)
        for place, name in enumerate(names)
    }
    scores = model.bias + sum(
        contributions({"prior": np.zeros(len(mentions)), **features}, model).values()
    )
    ends = np.cumsum(sizes)
    is_gold = np.zeros(len(mentions), bool)
    for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
        exponents = np.append(np.exp(scores[start:end]), 1.0)
        chosen = random.choice(end - start + 1, p=exponents / exponents.sum())
        if chosen < end - start:
            is_gold[start + chosen] = True
    return Examples(
        features=features, mentions=mentions, is_gold=is_gold, num_mentions=num_mentions
    )


def loss(model: Model, examples: Examples) -> float:
    columns = np.stack([examples.features[name] for name in NAMES], axis=1).astype(np.float64)
    values = np.array([*(model.weights[name] for name in NAMES), model.bias])
    return _loss_and_gradient(values, columns, examples, STILL, 0.0)[0]


def test_known_weights_are_recovered() -> None:
    model = fit(simulated(8_000, 0), fitting(1e-4))
    assert model.bias == pytest.approx(TRUE.bias, abs=0.15)
    for name in NAMES:
        assert model.weights[name] == pytest.approx(TRUE.weights[name], abs=0.1), name


def test_a_fitted_model_beats_the_start_and_the_truth_on_its_own_examples() -> None:
    examples, others = simulated(1_500, 1), simulated(1_500, 2)
    start = Model(0.0, dict.fromkeys(NAMES, 0.0))
    fitted = fit(examples, fitting(0.0))
    assert loss(fitted, examples) <= loss(TRUE, examples) + 1e-6
    assert loss(fitted, others) < 0.8 * loss(start, others)


def test_the_loss_of_a_coin() -> None:
    """One candidate with score 0, and NIL: log 2 each, whichever is right."""
    examples = Examples(
        features={"prior": np.zeros(2)},
        mentions=np.array([0, 1]),
        is_gold=np.array([True, False]),
        num_mentions=2,
    )
    value, gradient = _loss_and_gradient(np.zeros(2), np.zeros((2, 1)), examples, np.zeros(1), 0.0)
    assert value == pytest.approx(np.log(2))
    assert gradient.tolist() == [0.0, 0.0]
    nothing = Examples(
        features={}, mentions=np.empty(0, np.int64), is_gold=np.empty(0, bool), num_mentions=3
    )
    assert _loss_and_gradient(np.zeros(2), np.zeros((0, 1)), nothing, np.zeros(1), 0.0)[0] == 0.0, (
        "NIL without a choice is certain"
    )


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences(penalty: float, seed: int) -> None:
    examples = simulated(40, seed)
    columns = np.stack([examples.features[name] for name in NAMES], axis=1).astype(np.float64)
    point = np.random.default_rng(seed).normal(size=len(NAMES) + 1)

    def value(values: np.ndarray) -> float:
        return _loss_and_gradient(values, columns, examples, STILL, penalty)[0]

    def gradient(values: np.ndarray) -> np.ndarray:
        return _loss_and_gradient(values, columns, examples, STILL, penalty)[1]

    assert check_grad(value, gradient, point) < 1e-5 * np.abs(gradient(point)).max() + 1e-6


def test_evidence_never_counts_against_a_candidate() -> None:
    """Choices that were made against the evidence: its weight ends at 0, that of the others goes
    where it will.
    """
    names = ("near", "type", "position")
    misled = Model(0.0, {"near": -1.0, "type": -0.5, "position": -1.0})
    assert {"near", "type"} <= EVIDENCE
    assert "position" not in EVIDENCE
    model = fit(simulated(2_000, 3, misled, names), fitting(1e-4, names))
    assert (model.weights["near"], model.weights["type"]) == (0.0, 0.0)
    assert model.weights["position"] < -0.3


def distance(model: Model) -> float:
    return sum(abs(value - BY_HAND.weights.get(name, 0.0)) for name, value in model.weights.items())


def test_a_penalty_holds_the_weights_to_those_set_by_hand() -> None:
    examples = simulated(800, 4)
    free, near, nearest = (
        distance(fit(examples, fitting(penalty))) for penalty in (0.0, 0.1, 100.0)
    )
    assert free > near > nearest
    assert nearest < 0.01
    assert list(PENALTIES) == sorted(PENALTIES, reverse=True), "of equal ones the first is taken"


def test_a_constant_feature_is_harmless() -> None:
    """It would be read against NIL, which is what the bias is for."""
    examples = simulated(800, 4)
    examples.features["title"] = np.ones(len(examples.mentions), np.float32)  # type: ignore[index]
    with_constant = fit(examples, fitting(1e-4, (*NAMES, "title")))
    assert with_constant.weights["title"] == 0.0
    assert with_constant.weights["prior"] == pytest.approx(
        fit(examples, fitting(1e-4)).weights["prior"], abs=1e-3
    )


def test_weights_that_are_kept_stay_and_the_others_make_up_for_them() -> None:
    examples = simulated(4_000, 6)
    model = fit(examples, fitting(1e-4, kept=("prior", "partial")))
    assert model.weights["prior"] == BY_HAND.weights["prior"]
    assert model.weights["partial"] == BY_HAND.weights["partial"]
    assert model.weights["position"] == pytest.approx(TRUE.weights["position"], abs=0.2)
    assert loss(model, examples) >= loss(fit(examples, fitting(1e-4)), examples)


def test_examples_of_some_mentions() -> None:
    examples = simulated(30, 5)
    chosen = np.arange(30) % 3 != 0
    some = examples.of_mentions(chosen)
    assert some.num_mentions == 20
    kept = np.flatnonzero(chosen)
    for number in range(20):
        mine, theirs = some.mentions == number, examples.mentions == kept[number]
        assert some.is_gold[mine].tolist() == examples.is_gold[theirs].tolist()
        for name in NAMES:
            assert some.features[name][mine].tolist() == examples.features[name][theirs].tolist()
    assert len(some.mentions) == sum(np.isin(examples.mentions, kept))


def test_without_candidates_there_is_nothing_to_learn() -> None:
    nothing = {name: np.empty(0, np.float32) for name in NAMES}
    examples = Examples(
        features=nothing, mentions=np.empty(0, np.int64), is_gold=np.empty(0, bool), num_mentions=3
    )
    by_hand = {name: BY_HAND.weights.get(name, 0.0) for name in NAMES}
    assert fit(examples, fitting(0.1)) == Model(BY_HAND.bias, by_hand)
