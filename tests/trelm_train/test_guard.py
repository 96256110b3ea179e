import math

import numpy as np
import pytest

from trelm_train.guard import ENOUGH, WINDOW, Guard


def guard_after(count: int, *, sigma: float = 6.0) -> Guard:
    guard, rng = Guard(sigma), np.random.default_rng(0)
    for _ in range(count):
        assert guard.judge(3.0 + 0.1 * rng.standard_normal(), 1.0 + 0.05 * rng.standard_normal()) == ""
    return guard


@pytest.mark.parametrize(
    ("loss", "norm", "why"),
    [
        (3.1, 1.0, ""),
        (3.5, 1.0, ""),  # five deviations
        (3.8, 1.0, "loss 3.8 is above"),
        (1.0, 0.1, ""),  # low is never wrong
        (3.0, 1.5, "gradient norm 1.5 is above"),
        (math.nan, 1.0, "not finite"),
        (3.0, math.inf, "not finite"),
    ],
)
def test_spikes(loss: float, norm: float, why: str) -> None:
    found = guard_after(WINDOW).judge(loss, norm)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_nothing_is_judged_by_too_few_steps() -> None:
    assert guard_after(ENOUGH - 1).judge(100.0, 100.0) == ""
    assert guard_after(ENOUGH).judge(100.0, 100.0) != ""


def test_a_skipped_step_does_not_count_for_later_ones() -> None:
    guard = guard_after(WINDOW)
    before = guard.state()
    assert guard.judge(9.0, 1.0)
    assert guard.judge(9.0, 1.0)
    assert guard.state() == before


def test_a_plateau_does_not_make_noise_a_spike() -> None:
    guard = Guard(6.0)
    for _ in range(WINDOW):
        guard.judge(2.0, 1.0)
    assert guard.judge(2.1, 1.05) == ""


def test_no_sigma_no_spikes() -> None:
    guard = guard_after(WINDOW, sigma=0.0)
    assert guard.judge(100.0, 100.0) == ""
    assert guard.judge(math.inf, 1.0) == "not finite"


def test_state_goes_on() -> None:
    guard = guard_after(100)
    other = Guard(6.0)
    other.load(guard.state())
    for loss in (3.05, 2.95, 3.4, 5.0):
        assert guard.judge(loss, 1.0) == other.judge(loss, 1.0)
    assert guard.state() == other.state()
