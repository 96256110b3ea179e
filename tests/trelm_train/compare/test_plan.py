from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.errors import ConfigError
from tests.manifests import change_manifest, list_again
from tests.trelm_train.compare.conftest import PLAIN, TWO_ARMS, WriteExperiment
from trelm_train.compare.execute import rank_rates
from trelm_train.compare.experiment import load_experiment
from trelm_train.compare.measure import _Timed, measure_cost, phases_of, scaled
from trelm_train.compare.plan import (
    Cost,
    Inputs,
    final_runs,
    inputs_of,
    nearest,
    ordered,
    tuning_runs,
    untrained_run,
)
from trelm_train.compare.published import published_tables
from trelm_train.config import load_config
from trelm_train.data.shards import sha256_of

BASE = Cost(step_s=1.0, step_flops=10.0)
REFUSED = pytest.raises(ConfigError, match="both ask about")


@pytest.mark.parametrize(
    ("cost", "seconds", "steps"),
    [
        (Cost(step_s=1.0), 10.0, 10),
        (Cost(step_s=3.0), 10.0, 3),  # what does not fit is not begun
        (Cost(step_s=100.0), 10.0, 1),  # one step at least
        (Cost(step_s=0.5, refresh_s=2.0), 10.0, 16),  # chosen once
        (Cost(step_s=1.0, refresh_s=1.0, refresh_every=4), 10.0, 8),  # twice in 8 steps
        (
            Cost(step_s=1.0, refresh_s=2.0, refresh_every=4),
            11.0,
            7,
        ),  # an eighth would fit, a third choice not
    ],
)
def test_steps_that_fit(cost: Cost, seconds: float, steps: int) -> None:
    assert cost.steps_within(seconds) == steps
    assert steps == 1 or cost.seconds(steps) <= seconds < cost.seconds(steps + 1)


def test_flops_count_refreshes() -> None:
    cost = Cost(step_s=1, refresh_s=1, refresh_every=4, step_flops=10, refresh_flops=100)
    assert cost.flops(9) == 9 * 10 + 3 * 100


def test_a_cost_is_told_in_the_baselines_seconds() -> None:
    """The machine was half as fast when this arm was timed, and the baseline beside it too."""
    measured = {
        "step_s": 3.0,
        "refresh_s": 6.0,
        "refresh_every": 2,
        "step_flops": 1.0,
        "refresh_flops": 0.0,
    }
    cost = scaled({**measured, "ratio": 1.5}, baseline_step_s=1.0)
    assert (cost.step_s, cost.refresh_s, cost.refresh_every) == (1.5, 3.0, 2)


def test_runs_of_an_experiment(write_experiment: WriteExperiment) -> None:
    path = write_experiment(
        steps=100, rates=[0.001, 0.002], tuning_budgets=[0.4, 1], tuning_seeds=[7], budgets=[0.2, 1]
    )
    experiment = load_experiment(path)
    costs = {"mlm": BASE, "random+10%": Cost(step_s=0.5, refresh_s=1.0)}
    arm = experiment.arms[1]

    tuning = tuning_runs(experiment, costs, arm)
    assert [(run.budget, run.rate, run.seed, run.steps) for run in tuning] == [
        (0.4, 0.001, 7, 78), (0.4, 0.002, 7, 78), (1, 0.001, 7, 198), (1, 0.002, 7, 198),
    ]  # fmt: skip
    final = final_runs(experiment, costs, arm, {0.2: 0.001, 1: 0.002})
    assert [(run.budget, run.rate, run.seed, run.steps) for run in final] == [
        (1, 0.002, 0, 198), (1, 0.002, 1, 198), (0.2, 0.001, 0, 38), (0.2, 0.001, 1, 38),
    ]  # fmt: skip
    assert final[0].folder == "runs/random+10%/rate-0.002/seed-0/budget-1"
    assert final[0].config is not None
    assert (final[0].config.train.steps, final[0].config.train.seed) == (198, 0)
    assert final[0].config.train.threads == 1
    assert not final[0].config.train.validate
    baseline = final_runs(experiment, costs, experiment.arms[0], {0.2: 0.001, 1: 0.001})
    assert [run.steps for run in baseline] == [100, 100, 20, 20]


def test_one_rate_needs_no_choice(write_experiment: WriteExperiment) -> None:
    experiment = load_experiment(write_experiment())
    assert tuning_runs(experiment, {"mlm": BASE}, experiment.arms[0]) == []


def test_the_nearest_tuning_budget() -> None:
    assert [nearest(budget, (0.3, 1.0)) for budget in (0.2, 0.4, 0.6, 1)] == [0.3, 0.3, 1.0, 1.0]


def test_rates_are_chosen_by_validation_probes_and_ties_by_log_probability(
    write_experiment: WriteExperiment,
) -> None:
    experiment = load_experiment(write_experiment(rates=[0.1, 0.2, 0.3, 0.4]))
    runs = tuning_runs(experiment, {"mlm": BASE}, experiment.arms[0])
    scores = {0.1: (0.2, -3.0), 0.2: (0.5, -2.0), 0.3: (0.5, -1.0)}
    results = {
        run.folder: {
            "measures": {
                "probes/chosen-by": {"p_at_1": scores[run.rate][0], "log_p": scores[run.rate][1]},
                # The test probes would choose otherwise.
                "probes/held": {"p_at_1": 1 - scores[run.rate][0], "log_p": 0.0},
            }
        }
        for run in runs
        if run.rate in scores  # the run with .4 failed
    }
    assert [rate for rate, _ in rank_rates(experiment, results, runs)] == [0.3, 0.2, 0.1]


def test_a_fingerprint_is_of_all_that_is_learned(
    write_experiment: WriteExperiment, inputs: Inputs
) -> None:
    experiment = load_experiment(write_experiment())
    config = experiment.config(experiment.arms[0])
    whole = inputs.fingerprint(config)
    assert inputs.fingerprint(experiment.config(experiment.arms[0])) == whole
    for other in (
        replace(inputs, shards="t"),
        replace(inputs, model="n"),
        replace(inputs, questions="r"),
    ):
        assert other.fingerprint(config) != whole
    assert inputs.fingerprint(experiment.config(experiment.arms[0], rate=0.5)) != whole
    # How often it is saved changes nothing.
    saved = replace(config, train=replace(config.train, checkpoint_every=7))
    assert inputs.fingerprint(saved) == whole


def test_an_arm_may_train_on_other_shards(
    write_experiment: WriteExperiment, shards_path: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(shards_path, tmp_path / "other"))
    part = next(other.rglob("examples-*.parquet"))
    pq.write_table(pq.read_table(part), part, compression="none")
    list_again(other)
    path = write_experiment()
    before = inputs_of(load_experiment(path))
    text = path.read_text().replace(
        'name = "random+10%"', f'name = "random+10%"\nshards = "{other}"'
    )
    path.write_text(text)
    experiment = load_experiment(path)
    inputs = inputs_of(experiment)

    assert experiment.shards_of("mlm") == str(shards_path)
    assert experiment.shards_of("random+10%") == str(other)
    # Runs of the other arms need not be made again.
    config = experiment.config(experiment.arms[0])
    assert inputs.fingerprint(config, "mlm") == before.fingerprint(config, "mlm")
    assert inputs.fingerprint(config, "random+10%") != before.fingerprint(config, "random+10%")


def test_shards_of_another_tokenizer_are_refused(
    write_experiment: WriteExperiment, shards_path: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(shards_path, tmp_path / "other"))
    (tokenizer,) = other.rglob("tokenizer.json")
    tokenizer.write_text(tokenizer.read_text() + "\n")
    list_again(other)
    digest = sha256_of(tokenizer)
    change_manifest(other, lambda values: values["extra"].update(tokenizer_sha256=digest))
    path = write_experiment()
    path.write_text(path.read_text().replace('name = "mlm"', f'name = "mlm"\nshards = "{other}"'))
    with pytest.raises(ConfigError, match="arm 'mlm'.*another tokenizer"):
        inputs_of(load_experiment(path))


def test_published_tables_have_as_many_cells_as_columns(write_experiment: WriteExperiment) -> None:
    tables = published_tables()
    assert {"talk-lama", "talk-typing", "talk-relation", "talk-acceleration"} <= tables.keys()
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    lama = tables["talk-lama"]
    best = dict(zip(lama.columns, lama.rows[0], strict=True))
    assert (best["probes"], best["TRELM"], best["TRELM-BERT"]) == ("T-REx", "33.0", "36.8")
    with pytest.raises(ConfigError, match="'talk' is no table; there are talk-lama"):
        load_experiment(write_experiment(published="talk"))


def test_inputs_notice_a_changed_probe(write_experiment: WriteExperiment) -> None:
    experiment = load_experiment(write_experiment())
    before = inputs_of(experiment)
    assert inputs_of(experiment) == before
    probe = Path(experiment.probes[0].folder) / "P1.jsonl"
    probe.write_text(probe.read_text() + '{"sub_label": "x", "obj_label": "y"}\n')
    assert inputs_of(experiment) != before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"baseline": "bert"}, "no arm"),
        ({"name": "a/b"}, "must be letters"),
        ({"budgets": [0.5]}, "must hold 1"),
        ({"budgets": [0.5, 1.5]}, "not above 1"),
        ({"seeds": [0, 100]}, "share"),
        ({"seeds": []}, "is empty"),
        # Two runs at once in one folder.
        ({"seeds": [1, 1]}, "has a value twice"),
        ({"budgets": [0.5, 1, 1.0]}, "has a value twice"),
        ({"rates": [0.001, 0.0010000001]}, "has a value twice"),
        ({"steps": 0}, "1 or more"),
        ({"set": ["train.steps=5"]}, "decided by the comparison"),
        ({"shard": "x"}, "did you mean 'shards'"),
    ],
)
def test_a_wrong_file_is_refused(
    write_experiment: WriteExperiment, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(write_experiment(**changed))


def test_an_arm_has_a_folder_of_its_own(write_experiment: WriteExperiment) -> None:
    path = write_experiment({"mlm": PLAIN, "untrained": PLAIN})
    with pytest.raises(ConfigError, match="'untrained' is taken"):
        load_experiment(path)


def test_a_wrong_setting_names_its_arm(write_experiment: WriteExperiment) -> None:
    path = write_experiment({"mlm": PLAIN, "broken": ["routing.polcy=ig"]})
    with pytest.raises(ConfigError, match=r"arm 'broken'.*did you mean 'policy'"):
        load_experiment(path)


def test_a_setting_of_the_file_can_be_changed(write_experiment: WriteExperiment) -> None:
    experiment = load_experiment(write_experiment(), ["experiment.seeds=[5]"])
    assert experiment.experiment.seeds == (5,)


def test_rates_need_validation_probes(write_experiment: WriteExperiment) -> None:
    path = write_experiment(rates=[0.1, 0.2])
    path.write_text(path.read_text().replace('role = "validation"', 'role = "test"'))
    with pytest.raises(ConfigError, match="must not be chosen by what it is tested on"):
        load_experiment(path)


def test_the_model_that_uhn_asks_is_known_by_its_files(
    write_experiment: WriteExperiment, model_path: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "names"
    asked.mkdir()
    for path in model_path.iterdir():
        if path.is_file():
            (asked / path.name).write_bytes(path.read_bytes())
    experiment = load_experiment(write_experiment(), [f"probes.held.uhn={asked}"])
    seen = [inputs_of(experiment)]
    # The names are cut by its tokenizer.
    for name in ("config.json", "tokenizer.json"):
        file = asked / name
        file.write_text(file.read_text() + " ")
        assert inputs_of(experiment) not in seen
        seen.append(inputs_of(experiment))


def test_the_untrained_model_is_asked_first(write_experiment: WriteExperiment) -> None:
    """What cannot be asked is known before any training."""
    costs = {name: Cost(step_s=1.0) for name in TWO_ARMS}
    experiment = load_experiment(write_experiment())
    runs = final_runs(experiment, costs, experiment.arms[0], {0.5: 1e-3, 1: 1e-3})
    seconds = [run.seconds for run in ordered([*runs, untrained_run()])]
    assert seconds[0] == untrained_run().seconds < min(seconds[1:])
    assert seconds[1:] == sorted(seconds[1:], reverse=True)


@pytest.mark.parametrize(
    ("part", "other", "expected"),
    [
        ([0, 1], [0, 1], REFUSED),  # all subjects of one folder choose the rate and test it
        ([0, 0.4], [0.3, 1], REFUSED),
        ([0, 0.3], [0.3, 1], nullcontext()),
    ],
)
def test_a_rate_is_not_chosen_by_what_it_is_tested_on(
    write_experiment: WriteExperiment,
    part: list[float],
    other: list[float],
    expected: AbstractContextManager[object],
) -> None:
    path = write_experiment(rates=[0.1, 0.2])
    text = path.read_text().replace("/chosen-by", "/held")
    text = text.replace('name = "held"', f'name = "held"\nsubjects = {part}')
    path.write_text(text.replace('name = "chosen-by"', f'name = "chosen-by"\nsubjects = {other}'))
    with expected:
        load_experiment(path)


def test_rows_without_a_subject_do_not_choose_and_test_either(
    write_experiment: WriteExperiment, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "ConceptNet"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(
        '{"masked_sentences": ["Kings are [MASK] ."], "obj_label": "old"}\n{"obj_label": "old"}\n'
    )
    path = write_experiment(rates=[0.1, 0.2])
    path.write_text(re.sub(r'folder = ".*"', f'folder = "{folder.parent}"', path.read_text()))
    with REFUSED:
        load_experiment(path)


def test_steps_with_and_without_injection_are_timed_by_their_shares() -> None:
    """Timed alone, the steps after its end would give the arm more steps than its share."""
    config = load_config(None, ["injection.enabled=true", "injection.until=0.25"])
    (early, with_injection), (late, without) = phases_of(config)
    assert (early, with_injection.injection.until) == (0.25, 1.0)
    assert (late, without.injection.until) == (0.75, 0.0)
    for sets in (["injection.until=0.25"], ["injection.enabled=true"]):
        whole = load_config(None, sets)
        assert phases_of(whole) == [(1.0, whole)]


@pytest.mark.slow
def test_the_cost_of_a_run_with_two_parts(
    write_experiment: WriteExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [*PLAIN, "injection.enabled=true", "injection.policy=all", "injection.until=0.25"]
    experiment = load_experiment(write_experiment({"mlm": PLAIN, "early": sets}))
    seconds = {(False, 1.0): 1.0, (True, 1.0): 5.0, (True, 0.0): 1.0}

    def steps(timed: _Timed, _count: int) -> float:
        injection = timed.session.components.config.injection
        return seconds[injection.enabled, injection.until]

    monkeypatch.setattr(_Timed, "steps", steps)
    cost = measure_cost(experiment, "early", tmp_path / "sessions")
    assert cost["step_s"] == cost["ratio"] == 0.25 * 5 + 0.75 * 1
