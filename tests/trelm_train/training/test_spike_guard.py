import math

import numpy as np
import pytest

from trelm_train.training.spike_guard import ENOUGH, WINDOW, SpikeGuard, step_values


def take(guard: SpikeGuard, loss: float, norm: float) -> str:
    """What a training step does with its values."""
    values = step_values(loss, norm, asked=None, contrast=None)
    verdict = guard.judge(values)
    if not verdict:
        guard.accept(values)
    return verdict


def guard_after(count: int, *, sigma: float = 6.0) -> SpikeGuard:
    guard, rng = SpikeGuard(sigma), np.random.default_rng(0)
    for _ in range(count):
        assert (
            take(guard, 3.0 + 0.1 * rng.standard_normal(), 1.0 + 0.05 * rng.standard_normal()) == ""
        )
    return guard


@pytest.mark.parametrize(
    ("loss", "norm", "why"),
    [
        (3.1, 1.0, ""),
        (3.5, 1.0, ""),  # five deviations
        (3.8, 1.0, "masked-LM loss 3.8 is above"),
        (1.0, 0.1, ""),  # low is never wrong
        (3.0, 1.5, "gradient norm 1.5 is above"),
        (math.nan, 1.0, "not finite"),
        (3.0, math.inf, "not finite"),
    ],
)
def test_spikes(loss: float, norm: float, why: str) -> None:
    found = take(guard_after(WINDOW), loss, norm)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_nothing_is_judged_by_too_few_steps() -> None:
    assert take(guard_after(ENOUGH - 1), 100.0, 100.0) == ""
    assert take(guard_after(ENOUGH), 100.0, 100.0) != ""


def test_a_skipped_step_does_not_count_for_later_ones() -> None:
    guard = guard_after(WINDOW)
    before = guard.state()
    assert take(guard, 9.0, 1.0)
    assert take(guard, 9.0, 1.0)
    assert guard.state() == before


def test_a_plateau_does_not_make_noise_a_spike() -> None:
    guard = SpikeGuard(6.0)
    for _ in range(WINDOW):
        take(guard, 2.0, 1.0)
    assert take(guard, 2.1, 1.05) == ""


def test_no_sigma_no_spikes() -> None:
    guard = guard_after(WINDOW, sigma=0.0)
    assert take(guard, 100.0, 100.0) == ""
    assert take(guard, math.inf, 1.0) == "not finite"


def test_state_goes_on() -> None:
    guard = guard_after(100)
    other = SpikeGuard(6.0)
    other.load(guard.state())
    for loss in (3.05, 2.95, 3.4, 5.0):
        assert take(guard, loss, 1.0) == take(other, loss, 1.0)
    assert guard.state() == other.state()


def test_steps_with_facts_are_not_spikes_beside_those_without() -> None:
    """Facts in one step of sixty: their contrastive loss and larger gradient are judged among themselves."""
    guard, skipped = SpikeGuard(6.0), 0
    for number in range(6000):
        facts = int(number % 60 == 59)
        values = step_values(
            3.0 + 0.01 * (number % 7),
            1.0 + 4.0 * facts,
            asked=None,
            contrast=4.2 if facts else None,
        )
        verdict = guard.judge(values)
        skipped += bool(verdict)
        if not verdict:
            guard.accept(values)
    assert skipped == 0
    assert guard.judge(step_values(3.0, 5.0, asked=None, contrast=9.0)).startswith(
        "contrastive loss 9 is above"
    )
    assert guard.judge(step_values(3.0, 5.0, asked=None, contrast=None)).startswith(
        "gradient norm 5 is above"
    )
