"""Charts: positions and ticks, the fitted line, quantiles and bins; every drawing is well-formed
and keeps its marks inside.
"""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import zeta

from pipeline.report.data import CHANGE_UNIT, Band, Changes, Confidences, RankPoint
from pipeline.report.link_charts import confidence_plot, reliability_plot
from pipeline.report.svg import Chart, Scale, frames, log_ticks, short, steps
from pipeline.report.tail_charts import EDGES, _binned, change_plot, fitted, rank_plot
from pipeline.report.training import LossPoint, TrainedRun
from pipeline.report.training_charts import loss_plot

TAIL = {
    "power_law_exponent": 2.0, "power_law_exponent_low": 1.8, "power_law_exponent_high": 2.2, "power_law_x_min": 5,
    "power_law_entities": 200,
}  # fmt: skip
NO_FIT = dict.fromkeys(TAIL)
CHANGES = st.dictionaries(st.integers(0, 20_000), st.integers(1, 50), min_size=1, max_size=30)


def drawings(chart: Chart) -> list[ElementTree.Element]:
    """Both drawings, parsed."""
    return list(
        ElementTree.fromstring(f"<all>{chart.markup()}</all>")
    )  # XML makes line ends in attributes spaces


def marks(drawing: ElementTree.Element) -> list[ElementTree.Element]:
    return [one for one in drawing.iter() if one.get("class", "").startswith("mark")]


def check(chart: Chart, num_marks: int | None = None) -> list[ElementTree.Element]:
    """What holds for every chart; returns its drawings."""
    found = drawings(chart)
    assert [one.get("class") for one in found] == ["chart wide", "chart narrow"]
    for drawing in found:
        _, _, width, height = map(float, drawing.get("viewBox", "").split())
        ids = {one.get("id") for one in drawing.iter() if one.get("id")}
        assert {drawing.get("aria-labelledby"), drawing.get("aria-describedby")} <= ids
        for mark in marks(drawing):
            x, y = (float(mark.get(f"c{axis}") or mark.get(axis) or "nan") for axis in "xy")
            assert 0 <= x <= width
            assert 0 <= y <= height
            assert float(mark.get("width", 0)) >= 0
            assert float(mark.get("height", 0)) >= 0
            assert mark.get("data-tip")
        if num_marks is not None:
            assert len(marks(drawing)) == num_marks
    return found


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.booleans())
def test_scale_keeps_order_and_ends(one: float, other: float, log) -> None:
    scale = Scale(1, 1e6, 10, 500, log)
    assert (scale(1), scale(1e6)) == (10, 500)
    low, high = sorted((one, other))
    assert scale(low) <= scale(high)


def test_ticks() -> None:
    assert log_ticks(1) == [1]
    assert log_ticks(1000) == [1, 10, 100, 1000]
    assert log_ticks(999) == [1, 10, 100]
    assert log_ticks(60) == [1, 2, 5, 10, 20, 50]
    assert steps(0) == [0.0]
    assert steps(1) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [short(value) for value in (0.25, 1, 20_000, 1_500_000)] == ["0.25", "1", "20k", "1.5M"]


@given(st.floats(0.001, 1e9))
def test_steps_are_few_and_reach_far(high: float) -> None:
    found = steps(high)
    assert 2 <= len(found) <= 6
    assert found[-1] <= high * (1 + 1e-9)
    assert found[-1] > high * 0.6


@pytest.mark.parametrize("exponent", [1.2, 2.0, 3.7])
def test_fit_ends_at_its_items_and_has_the_slope_of_its_exponent(exponent: float) -> None:
    ranks, values = fitted(exponent, TAIL)
    assert (ranks[0], ranks[-1]) == (pytest.approx(1), pytest.approx(200))
    assert values[-1] == pytest.approx(5), (
        "as many items as were fitted have x_min mentions or more"
    )
    assert (np.diff(values) < 0).all()
    assert 200 * zeta(exponent, values) / zeta(exponent, 5) == pytest.approx(ranks, rel=1e-3)
    slope = np.polyfit(np.log(ranks[:20]), np.log(values[:20]), 1)[0]
    assert slope == pytest.approx(-1 / (exponent - 1), rel=0.05)


def test_fit_with_an_exponent_near_one_stays_finite() -> None:
    _, values = fitted(1.001, TAIL)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("tail", [TAIL, NO_FIT])
def test_rank_plot(tail) -> None:
    points = [
        RankPoint(rank, max(1000 // rank, 1), "head" if rank < 20 else "tail", rank, f"<{rank}>")
        for rank in range(1, 301)
    ]
    bands = [Band("head", 19, 0, 50, 1000, 0), Band("tail", 281, 0, 1, 50, 0)]
    wide, narrow = check(rank_plot(points, tail, bands))
    assert len(marks(wide)) == 300
    assert len(marks(narrow)) == 150
    assert marks(wide)[0].get("data-tip") == "<1> rank 1, 1,000 mentions, head"
    lines = [one.get("class") for one in wide.iter() if one.get("class") in ("fit", "spread")]
    assert lines == (["spread", "fit"] if tail is TAIL else [])


def test_rank_plot_of_a_single_entity() -> None:
    check(rank_plot([RankPoint(1, 1, "head", 1, "")], NO_FIT, [Band("head", 1, 1, 1, 1, 0)]), 1)


@given(CHANGES, st.sampled_from([0.05, 0.25, 0.5, 0.75, 0.95]))
def test_quantile_and_bins_agree_with_the_plain_way(counts: dict[int, int], share: float) -> None:
    values, sizes = (np.array(part) for part in zip(*sorted(counts.items()), strict=True))
    found = Changes(values, sizes)
    plain = np.repeat(values, sizes)
    assert found.quantile(share) == pytest.approx(
        np.quantile(plain, share, method="inverted_cdf") * CHANGE_UNIT
    )
    assert found.mean_si == pytest.approx(np.mean(1 / np.maximum(1 - plain * CHANGE_UNIT, 1e-4)))
    shares = _binned(found)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx(np.mean(plain == 0))
    assert shares[3] == pytest.approx(np.mean((plain >= EDGES[2]) & (plain < EDGES[3])))


@given(CHANGES, CHANGES)
def test_change_plot(one: dict[int, int], other: dict[int, int]) -> None:
    changes = {
        band: Changes(*(np.array(part) for part in zip(*sorted(counts.items()), strict=True)))
        for band, counts in (("head", one), ("tail", other))
    }
    wide, _ = check(change_plot(changes))
    assert len(marks(wide)) == sum(int((_binned(found) > 0).sum()) for found in changes.values())


def test_confidence_plot_has_a_column_per_kind() -> None:
    linked, nil = np.zeros(100, np.int64), np.zeros(100, np.int64)
    linked[[30, 31, 99]], nil[[0, 29]] = (5, 6, 7), (9, 1)
    found = Confidences(linked, nil, linked * 0.5, anchors=4)
    wide, narrow = check(confidence_plot(found, 0.3), 5)
    assert [one.get("class") for one in marks(wide)] == [
        "mark nil",
        "mark nil",
        "mark linked",
        "mark linked",
        "mark anchors",
    ]
    check(confidence_plot(Confidences(linked * 0, nil * 0, linked * 0.0, anchors=0), 0.3), 0)
    assert narrow.find(".//line[@class='limit']") is not None


def test_links_above_a_threshold() -> None:
    linked = np.arange(100)
    found = Confidences(linked, linked * 0, linked * 0.5, anchors=0)
    assert found.above(0.29) == (sum(range(29, 100)), pytest.approx(0.5)), (
        "0.29 * 100 is less than 29 in floats"
    )
    assert Confidences(linked * 0, linked, linked * 0.0, anchors=0).above(0.5) == (0, None)


def test_reliability_plot() -> None:
    bins = [
        {"count": 10, "confidence": 0.1, "accuracy": 0.2},
        {"count": 40, "confidence": 0.9, "accuracy": 0.8},
    ]
    wide, _ = check(reliability_plot(bins), 2)
    small, large = (float(one.get("r", 0)) for one in marks(wide))
    assert (small, large) == (7.5, 12.0), "areas follow the counts"


def test_frames_differ_in_kind_and_width() -> None:
    wide, narrow = frames(400, 300, top=5)
    assert (wide.kind, narrow.kind, wide.top, narrow.top) == ("wide", "narrow", 5, 5)
    assert narrow.width < 390 < wide.width


@pytest.mark.parametrize("points", [[], [LossPoint(50, 3.0, None)]])
def test_evaluations_after_the_last_logged_step_are_inside(points: list[LossPoint]) -> None:
    run = TrainedRun(name="a", points=points, evaluations=[(20, 2.5), (90, 2.0)], summary={})
    for drawing in drawings(loss_plot([run])):
        width = float(drawing.get("viewBox", "").split()[2])
        diamonds = [one.get("points", "") for one in drawing.iter() if one.tag.endswith("polygon")]
        assert len(diamonds) == 2
        assert all(
            float(corner.split(",")[0]) <= width for one in diamonds for corner in one.split()
        )
