"""The benchmark of the full data: unit costs from known points, the full run's hours, what it generates and prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import harness, wikipedia, wikipedia_data, wikipedia_table
from benchmarks.wikipedia_costs import Point, Prices, cost_of, full_stage, point_of, serial_seconds
from tests.conftest import ROOT


def point(num_units: float, work_s: float, seconds: float, serial_s: float = 0.0) -> Point:
    return Point(
        size=num_units, num_units=num_units, workers=2, seconds=seconds, cpu_seconds=work_s + 6, work_s=work_s,
        rss_mb=500, read_mb=2 * num_units, written_mb=3 * num_units, stored_mb=num_units, serial_s=serial_s,
    )  # fmt: skip


def test_a_unit_costs_what_grows_with_the_units() -> None:
    # .5 s a unit, .1 s of it by one worker alone; 5 s to start, 6 s of processor time.
    points = [point(n, 0.5 * n, 5 + 0.1 * n + 0.4 * n / 2, 0.1 * n) for n in (10, 40, 160)]
    cost = cost_of(points)
    assert cost.work_s == pytest.approx(0.5)
    assert cost.steps_s == pytest.approx((0.5, 0.5))
    assert cost.flatness == pytest.approx(1.0)
    assert cost.fixed_cpu_s == pytest.approx(6.0)
    assert cost.serial_s == pytest.approx(0.1)
    assert cost.start_s == pytest.approx(5.0)
    assert (cost.read_mb, cost.written_mb, cost.stored_mb) == pytest.approx((2, 3, 1))
    for one in points:
        assert cost.seconds(one.num_units, 2) == pytest.approx(one.seconds)
    assert cost.seconds(1000, 4) == pytest.approx(5 + 100 + 400 / 4)


def test_a_cost_that_grows_is_not_flat() -> None:
    cost = cost_of([point(1, 1, 1), point(4, 4, 3), point(16, 22, 12)])
    assert cost.flatness == pytest.approx(1.5)


def test_the_full_data_is_reckoned_by_the_dearest_step() -> None:
    cost = cost_of([point(1, 4, 1), point(4, 16, 3), point(16, 22, 12)])
    assert cost.steps_s == pytest.approx((4, 0.5))
    prices = Prices(core_hour=0.05, memory_gb_hour=0.01, memory_gb=5)
    assert full_stage(cost, 3600, (2,), prices)["core_hours"] == pytest.approx(4)


def test_one_size_counts_everything_as_the_units() -> None:
    cost = cost_of([point(10, 20, 12)])
    assert (cost.work_s, cost.flatness, cost.fixed_cpu_s) == (2.0, None, 6.0)


def test_sizes_that_do_not_grow_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes must grow"):
        cost_of([point(10, 1, 1), point(10, 2, 1)])


def test_the_full_run_and_its_price() -> None:
    cost = cost_of([point(n, 0.5 * n, 0.25 * n) for n in (10, 160)])
    prices = Prices(core_hour=0.05, memory_gb_hour=0.01, memory_gb=5)
    stage = full_stage(cost, 72_000, (2, 16), prices)
    assert stage["core_hours"] == pytest.approx(10)
    assert stage["hours"] == pytest.approx({"2": 5.0, "16": 0.625})
    assert stage["dollars"] == pytest.approx({"2": 1.0, "16": 1.0})
    assert (stage["read_gb"], stage["written_gb"], stage["stored_gb"]) == pytest.approx(
        (144, 216, 72)
    )


def test_only_named_phases_are_one_workers_alone() -> None:
    phases = [
        {"stage": "stats", "name": "facts", "longest_s": 3.0, "seconds": 3.0},
        {"stage": "stats", "name": "stats", "longest_s": 50.0, "seconds": 90.0},
        {"stage": "stats", "name": "entities", "longest_s": 2.0, "seconds": 2.0},
    ]
    run = {"phases": phases, "seconds": 9.0, "cpu_seconds": 9.0, "rss_mb": 1.0}
    assert serial_seconds(run) == 5.0
    io = {"read_mb": 1.0, "written_mb": 1.0, "stored_mb": 1.0}
    made = point_of(1, 7, 2, [{**run, **io}, {**run, **io, "seconds": 11.0}])
    assert (made.seconds, made.work_s, made.serial_s) == (10.0, 95.0, 5.0)


def test_copies_have_ids_titles_and_half_of_the_links_of_their_own() -> None:
    page = b"  <page>\n<title>A</title>\n<id>5</id>\n<text>[[B]] [[C|see]] [[File:x.png|t]] [[D]]</text></page>\n"
    pages = wikipedia_data.varied([page], [b"New"])
    made = [next(pages) for _ in range(40)]
    assert b"[[B]] [[C|see]] [[File:x.png|t]] [[D]]" in made[0]
    ids = {re.findall(rb"<id>(\d+)</id>", one)[0] for one in made}
    titles = {re.findall(rb"<title>(.*?)</title>", one)[0] for one in made}
    assert len(ids) == len(titles) == 40
    assert all(b"[[File:x.png|t]]" in one for one in made)
    num_new = sum(one.count(b"[[New]]") for one in made[1:])
    assert 39 * 3 * 0.35 < num_new < 39 * 3 * 0.65


@pytest.mark.slow
def test_a_stage_and_the_full_run_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the stage that needs no data kit; `--quick` runs them all."""
    monkeypatch.chdir(ROOT)
    setup = wikipedia.Setup(
        folder=tmp_path, base=wikipedia.QUICK_BASE, sizes=(1, 16), rounds=1, quick=True, workers=1
    )
    setup.per_token["stats"] = 0.1
    for fields in (*wikipedia.counts(setup), *wikipedia.full(setup)):
        harness.emit(fields)
    lines = capsys.readouterr().out.splitlines()
    stats, full = map(json.loads, lines)
    assert (stats["case"], stats["unit"], stats["ok"]) == ("stats", "s/link", True)
    assert stats["ours"] > 0
    assert stats["rss_mb"] > 100
    assert stats["mb"]["written"] > stats["mb"]["stored"] > 0
    assert full["stages"]["stats"]["units"] == pytest.approx(3.6e8)
    assert full["total"]["hours"]["2"] > full["total"]["hours"]["64"] > 0
    rows = [line for line in wikipedia_table.tables(lines) if line.startswith("| stats |")]
    assert len(rows) == 2
