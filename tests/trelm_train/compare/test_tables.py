"""Figures and page of a comparison whose results are written by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.manifest import MANIFEST_NAME, Manifest
from tests.trelm_train.compare.conftest import WriteExperiment
from trelm_train.compare.compare import write_pages
from trelm_train.compare.experiment import load_experiment
from trelm_train.compare.plan import Cost, Run, plan_run, untrained_run
from trelm_train.compare.questions import Answers
from trelm_train.compare.run_one import ANSWERS
from trelm_train.compare.state import Comparison, open_comparison
from trelm_train.compare.summary import markdown
from trelm_train.compare.tables import MeasureTable, Tables, make_tables
from trelm_train.training.signals import Stop

# Tenths of right answers by arm, budget and seed: the second arm has the baseline's end at half of the time.
RIGHT = {
    ("mlm", 0.5): (2, 4),
    ("mlm", 1): (6, 4),
    ("random+10%", 0.5): (5, 5),
    ("random+10%", 1): (9, 7),
}
COSTS = {"mlm": Cost(step_s=1.0, step_flops=100.0), "random+10%": Cost(step_s=0.5, step_flops=30.0)}


def put(comparison: Comparison, run: Run, num_right: int, loss: float) -> None:
    """Write a result with so many tenths of right answers, of 40 items."""
    answers = Answers(
        relation=["P1"] * 40,
        subject=[f"Q{number // 2}" for number in range(40)],
        object=["x"] * 40,
        rank=[1] * (4 * num_right) + [7] * (40 - 4 * num_right),
        log_p=[-1.0] * 40,
    )
    folder = comparison.root / run.folder
    folder.mkdir(parents=True)
    pq.write_table(answers.table("held"), folder / ANSWERS)
    training: dict[str, Any] = {
        "training_s": run.steps * 2.0,
        "processor_s": None,
        "loss_last": 1.0,
    }
    comparison.results[run.folder] = {
        "role": run.role, "arm": run.arm, "rate": run.rate, "seed": run.seed, "budget": run.budget,
        "steps": run.steps, "planned_s": run.seconds, "flops": run.flops, "measuring_s": 1.0,
        "training": training if run.config else {},
        "measures": {"probes/held": answers.measures(), "text/general": {"loss": loss}},
    }  # fmt: skip


@pytest.fixture
def comparison(write_experiment: WriteExperiment, tmp_path: Path) -> Comparison:
    experiment = load_experiment(write_experiment(steps=10, reference="random+10%"))
    comparison = open_comparison(
        experiment, tmp_path / "out", workers=1, keep_models=False, stop=Stop()
    )
    put(comparison, untrained_run(), 1, 3.0)
    for arm in experiment.arms:
        comparison.rates[arm.name] = {0.5: 0.001, 1: 0.001}
        for budget in (0.5, 1):
            for seed in (0, 1):
                run = plan_run(experiment, COSTS, arm, 0.001, (seed, budget))
                put(comparison, run, RIGHT[arm.name, budget][seed], 3.0 + 0.5 * budget)
    return comparison


@pytest.fixture
def tables(comparison: Comparison) -> Tables:
    return make_tables(comparison)


@pytest.fixture
def quality(tables: Tables) -> MeasureTable:
    assert [item.measure.title for item in tables.measures] == [
        "P@1, held",
        "Masked-LM loss, general",
    ]
    return tables.measures[0]


def test_means_and_paired_differences(quality: MeasureTable) -> None:
    assert quality.untrained == pytest.approx(0.1)
    means = {key: figure.estimate.mean for key, figure in quality.curves.items()}
    assert means == {key: pytest.approx(sum(counts) / 20) for key, counts in RIGHT.items()}
    gain = quality.to_baseline["random+10%", 1].estimate
    assert gain.mean == pytest.approx(0.3)
    assert gain.sd == pytest.approx(0)  # +.3 with either seed
    assert ("mlm", 1) not in quality.to_baseline
    assert quality.to_reference["mlm", 1].estimate.mean == pytest.approx(-0.3)


def test_the_time_to_quality_and_what_it_took(quality: MeasureTable) -> None:
    time = quality.times["random+10%"]
    assert time.crossing.budget == 0.5
    assert time.crossing.is_bound
    # 10 steps of half a second are half of the budget.
    assert time.used == {"training_s": 20.0, "processor_s": None, "steps": 10.0, "flops": 300.0}
    assert time.shares == {"training_s": 1.0, "processor_s": None, "steps": 1.0, "flops": 0.3}
    assert quality.times["mlm"].crossing.budget == 1.0
    assert all(folder.startswith("runs/") for folder in time.folders)


def test_a_general_text_shows_forgetting_alone(tables: Tables) -> None:
    general = tables.measures[1]
    assert general.untrained == 3.0
    assert not general.times
    assert "forgotten" in general.note
    assert general.curves["mlm", 1].estimate.mean == pytest.approx(3.5)


def test_no_time_to_what_the_untrained_model_has(comparison: Comparison) -> None:
    comparison.results["runs/untrained"]["measures"]["probes/held"]["p_at_1"] = 0.5
    quality = make_tables(comparison).measures[0]
    assert "untrained model is as good" in quality.note
    assert not quality.times


def test_no_time_to_what_chance_alone_reaches(comparison: Comparison) -> None:
    """Of two arms that learn nothing, one is above the other in half of all comparisons."""
    comparison.results["runs/untrained"]["measures"]["probes/held"]["p_at_1"] = 0.45
    quality = make_tables(comparison).measures[0]
    full = quality.curves["mlm", 1].estimate
    assert full.low < 0.45 < full.mean
    assert "may have learned nothing" in quality.note
    assert not quality.times


def test_a_measure_without_any_value_says_so(comparison: Comparison) -> None:
    settings = replace(comparison.experiment.experiment, validation_sentences=8)
    comparison.experiment = replace(comparison.experiment, experiment=settings)
    loss = make_tables(comparison).measures[1]
    assert loss.measure.group == "validation"
    assert loss.note.startswith("Not measured")
    html = write_pages(comparison).read_text()
    assert "Not measured" in html
    # A sentence in place of tables without a figure.
    assert f"{loss.measure.title}: mean" not in html
    (section,) = re.findall(
        f"## {loss.measure.title}\n(.*?)\n## ", markdown(make_tables(comparison)), re.DOTALL
    )
    assert section.strip() == loss.note


def test_a_seed_that_is_missing_is_left_out_of_the_pairs(comparison: Comparison) -> None:
    del comparison.results["runs/mlm/rate-0.001/seed-1/budget-1"]
    quality = make_tables(comparison).measures[0]
    gain = quality.to_baseline["random+10%", 1].estimate
    assert (gain.num_seeds, gain.mean, gain.sd) == (1, pytest.approx(0.3), None)


def test_the_offline_cost_of_importance(comparison: Comparison) -> None:
    assert "not known: no stage" in make_tables(comparison).importance

    manifest = Path(comparison.experiment.experiment.shards).parent / "importance" / MANIFEST_NAME
    manifest.parent.mkdir()
    described = Manifest(
        stage="importance", fingerprint="f", code_version="1", tables={}, seconds=12.4
    )
    manifest.write_text(described.to_json())
    assert make_tables(comparison).importance.startswith("12 s, by the manifest")
    # A run of an older version has none.
    manifest.write_text(replace(described, seconds=0.0).to_json())
    assert "has no seconds" in make_tables(comparison).importance


def test_the_summary_reads_well(tables: Tables) -> None:
    text = markdown(tables)
    assert "| random+10% | 50.0 ± 0.0 | 80.0 ± 14.1 |" in text
    assert re.search(
        r"\| random\+10% \| ≤ 0.50 \| ≤ 0.50 … [^|]+ \| 20.0 \| – \| 10 \| 300 \|", text
    )
    assert "Untrained model: 10.0." in text


def test_a_published_table_stands_below_the_results(comparison: Comparison) -> None:
    settings = replace(comparison.experiment.experiment, published="talk-typing")
    comparison.experiment = replace(comparison.experiment, experiment=settings)
    text = markdown(make_tables(comparison))
    assert "## Published: Open Entity, micro F1 in per cent" in text
    assert "| 73.6 | 75.4 | 75.6 |" in text
    assert "no bar for the runs above" in text
    html = write_pages(comparison).read_text()
    assert 'id="published"' in html
    assert "78.0 ± 1.2" in html


def test_the_page_escapes_every_text(comparison: Comparison) -> None:
    comparison.failed_arms["evil"] = "<script>alert('1')</script> & more"
    html = write_pages(comparison).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; more" in html


def test_the_page_names_the_runs_behind_a_mean(comparison: Comparison) -> None:
    html = write_pages(comparison).read_text()
    folder = "runs/random+10%/rate-0.001/seed-{}/budget-1/result.json"
    assert f'title="from {folder.format(0)}, {folder.format(1)}">80.0 ± 14.1</a>' in html
    assert 'href="runs/random%2B10%25/rate-0.001/seed-0/budget-1/result.json"' in html
    # Light and dark.
    assert "color-scheme: light dark" in html


def test_a_rate_is_taken_at_the_budgets_that_chose_it(comparison: Comparison) -> None:
    settings = replace(comparison.experiment.experiment, tuning_budgets=(0.5, 1.0))
    comparison.experiment = replace(comparison.experiment, experiment=settings)
    comparison.rates["mlm"] = {0.5: 0.001, 1: 0.002}
    for rate in (0.001, 0.002):
        for budget in (0.5, 1):
            run = plan_run(
                comparison.experiment, COSTS, comparison.experiment.arm("mlm"), rate, (100, budget)
            )
            put(comparison, run, 5, 3.0)
            measures = comparison.results[run.folder]["measures"]
            measures["probes/chosen-by"] = measures["probes/held"]

    html = write_pages(comparison).read_text()
    rows = re.findall(r"<tr>(?:(?!</tr>).)*</tr>", html.partition('id="rates"')[2], re.DOTALL)
    taken = [re.findall(r">([\d.]+)</td>", row)[:3] for row in rows if ">taken<" in row]
    # Budget, seed, rate.
    assert taken == [["0.5", "100", "0.001"], ["1", "100", "0.002"]]
