from __future__ import annotations

import contextlib
import csv
import json
import re
import shutil
import signal
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner

from schemas.durable import partial_of
from schemas.errors import TrelmError
from tests.pausing import PATIENCE_S
from tests.trelm_train import forked
from tests.trelm_train.compare.conftest import TWO_ARMS, WriteExperiment, write_file
from trelm_train.cli import cli
from trelm_train.compare import run_one, timing
from trelm_train.compare.compare import CompareRequest, compare
from trelm_train.compare.execute import make_runs
from trelm_train.compare.experiment import load_experiment
from trelm_train.compare.plan import Cost, Run, plan_run
from trelm_train.compare.run_one import TASK
from trelm_train.compare.state import Comparison, open_comparison
from trelm_train.training.session import RunRequest
from trelm_train.training.signals import InterruptedRun, Stop
from trelm_train.training.train import run as train

pytestmark = pytest.mark.slow
# Attention by sentence has no dropout: refused when a session is built.
ARMS = {**TWO_ARMS, "broken": ["train.attention=varlen"]}


@dataclass(frozen=True)
class Finished:
    request: CompareRequest
    root: Path
    error: str
    # Results that were there after the program had been killed, and when they were written.
    before: dict[Path, int]

    def written(self) -> dict[Path, int]:
        return written(self.root)


def written(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("runs/**/result.json")}


@pytest.fixture(scope="module")
def finished(
    shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """Three arms, one of which fails; the program is killed after its second run, and started again."""
    folder = tmp_path_factory.mktemp("compare")
    path = write_file(folder, shards_path, model_path, ARMS)
    # One arm has two rates, the first of which changes next to nothing.
    name = 'name = "random+10%"\n'
    path.write_text(path.read_text().replace(name, f"{name}rates = [1e-9, 0.01]\n"))
    words = ["compare", "--config", str(path), "--out", str(folder / "out")]
    process = forked.start(
        words, folder / "output", killed_at=("trelm_train.compare.execute", "_scores", 2)
    )
    process.join(PATIENCE_S)
    assert process.exitcode == -signal.SIGKILL, (folder / "output" / "stderr").read_text()

    root = folder / "out" / "tiny"
    before = written(root)
    request = CompareRequest(configs=(path,), out=folder / "out", workers=2)
    with pytest.raises(TrelmError) as caught:
        compare(request)
    return Finished(request, root, str(caught.value), before)


def test_a_killed_comparison_goes_on(finished: Finished) -> None:
    """What was finished is kept, the rest is made: 2 arms x 2 seeds x 2 budgets, two rates, and the untrained model."""
    assert len(finished.before) >= 2
    after = finished.written()
    assert len(after) == 11
    assert finished.before.items() <= after.items()


def test_a_failed_arm_is_named_and_the_others_go_on(finished: Finished) -> None:
    assert "1 arm(s) failed" in finished.error
    assert "arm broken" in finished.error
    assert "train.dropout=0" in finished.error
    for name in ("summary.md", "compare.html"):
        assert "broken failed" in (finished.root / name).read_text()


def test_a_rate_is_chosen_and_every_budget_takes_it(finished: Finished) -> None:
    rates = json.loads((finished.root / "rates.json").read_text())
    tried = rates["tried"]["random+10%"]["1"]
    assert {row["rate"] for row in tried} == {1e-9, 0.01}
    assert [(row["p_at_1"], row["log_p"]) for row in tried] == sorted(
        ((row["p_at_1"], row["log_p"]) for row in tried), reverse=True
    )
    taken = tried[0]["rate"]
    assert rates["taken"] == {
        "mlm": {"0.5": 0.001, "1": 0.001},
        "random+10%": {"0.5": taken, "1": taken},
    }
    rows = csv.DictReader((finished.root / "results.csv").read_text().splitlines())
    final = {
        float(row["rate"]) for row in rows if (row["role"], row["arm"]) == ("final", "random+10%")
    }
    assert final == {taken}


def test_a_result_says_what_it_took(finished: Finished) -> None:
    result = json.loads(
        (finished.root / "runs/mlm/rate-0.001/seed-0/budget-1/result.json").read_text()
    )
    assert result["steps"] == result["training"]["steps"] == 4
    assert result["training"]["processor_s"] > 0
    assert result["flops"] > 0
    # Objects of the world that are one token.
    assert result["measures"]["probes/held"]["num_items"] > 5
    assert result["measures"]["text/general"]["loss"] > 0


def test_models_are_not_kept(finished: Finished) -> None:
    names = {path.name for path in finished.root.glob("runs/mlm/*/*/*/*")}
    assert {"result.json", "answers.parquet", "summary.json", "config.toml"} <= names
    assert not names & {"model", "initial", "checkpoints"}


def test_arms_see_the_same_questions_and_seeds(finished: Finished) -> None:
    rows = list(csv.DictReader((finished.root / "results.csv").read_text().splitlines()))
    final = {(row["arm"], row["seed"], row["budget"]) for row in rows if row["role"] == "final"}
    assert final == {
        (arm, seed, budget) for arm in TWO_ARMS for seed in "01" for budget in ("0.5", "1.0")
    }
    num_items = {
        row["value"]
        for row in rows
        if row["measure"] == "num_items" and row["group"] == "probes/held"
    }
    assert len(num_items) == 1
    for row in rows:
        assert (finished.root / row["file"]).is_file()


def test_every_figure_of_the_page_has_its_run(finished: Finished) -> None:
    html = (finished.root / "compare.html").read_text()
    cells = re.findall(r'<td class="n">(.*?)</td>', html)
    assert len(cells) > 50
    for cell in cells:
        # A budget or a rate is no result.
        is_setting = re.fullmatch(r"[\d.e-]+|–", cell)
        assert is_setting or 'title="from runs/' in cell, cell
    for target in set(re.findall(r'href="([^"#]+)"', html)):
        assert (finished.root / target.replace("%2B", "+").replace("%25", "%")).exists(), target


def test_the_page_loads_nothing(finished: Finished) -> None:
    html = (finished.root / "compare.html").read_text()
    assert "http:" not in html
    assert "https:" not in html
    assert "<script" not in html
    assert "default-src 'none'" in unescape(html)
    assert not re.search(r"\ssrc=|@import|url\(", html)


def test_boxes_that_scroll_can_be_told_apart_and_reached_by_keyboard(finished: Finished) -> None:
    html = (finished.root / "compare.html").read_text()
    names = re.findall(r'role="region" aria-label="([^"]*)"', html)
    assert len(names) == len(set(names)) > 5
    figures = re.findall("<figure[^>]*>", html)
    assert figures
    assert all('tabindex="0"' in figure for figure in figures)


def test_only_what_is_missing_or_of_another_fingerprint_is_made_again(finished: Finished) -> None:
    before = finished.written()
    tampered, missing = sorted(path for path in before if "seed-1" in path.parts)[:2]
    tampered.write_text(tampered.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    missing.unlink()
    with pytest.raises(TrelmError, match="broken"):
        compare(finished.request)
    after = finished.written()
    assert {path for path in before if after[path] != before[path]} == {tampered, missing}
    assert json.loads(tampered.read_text())["fingerprint"][:1] != ""


class StopAfter(Stop):
    """Asks for a stop after a number of readings, as a signal would."""

    def __init__(self, readings: int) -> None:
        self.left = readings

    @property
    def signum(self) -> int:  # type: ignore[override]
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else 0


def comparison_with_a_run(
    write_experiment: WriteExperiment,
    tmp_path: Path,
    *,
    keep_models: bool = False,
    stop: Stop | None = None,
) -> tuple[Comparison, Run]:
    """The comparison of a small experiment, and a run of its first arm that was not made yet."""
    experiment = load_experiment(write_experiment())
    comparison = open_comparison(
        experiment, tmp_path / "out", workers=1, keep_models=keep_models, stop=stop or Stop()
    )
    run = plan_run(experiment, {"mlm": Cost(step_s=1.0)}, experiment.arms[0], 0.001, (0, 1.0))
    return comparison, run


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(
    write_experiment: WriteExperiment, tmp_path: Path
) -> None:
    comparison, run = comparison_with_a_run(write_experiment, tmp_path, keep_models=True)
    task = comparison.task(run)
    assert run.config is not None

    # As a stopped worker leaves it.
    task.folder.mkdir(parents=True)
    (task.folder / TASK).write_text(json.dumps({"fingerprint": task.fingerprint}))
    settings = comparison.experiment.experiment
    request = RunRequest(
        shards=Path(settings.shards),
        model=settings.model,
        out=task.folder,
        config=run.config,
        beside=(TASK,),
    )
    with pytest.raises(InterruptedRun, match="after step 2 of 4"):
        train(request, StopAfter(1))

    make_runs(comparison, [run], "final")
    # Its first part was in another process, so nobody knows the processor's seconds.
    assert comparison.results[run.folder]["training"]["processor_s"] is None
    assert comparison.results[run.folder]["training"]["steps"] == 4
    assert (task.folder / "model").is_dir()


def test_a_folder_that_no_run_has_made_is_left_alone(
    write_experiment: WriteExperiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    comparison, run = comparison_with_a_run(write_experiment, tmp_path)
    folder = comparison.task(run).folder
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with contextlib.suppress(TrelmError):
        make_runs(comparison, [run], "final")
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert "failed: its process ended with 1" in caplog.text


def test_a_run_of_other_settings_is_removed_whole_or_not_at_all(
    write_experiment: WriteExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, run = comparison_with_a_run(write_experiment, tmp_path)
    task = comparison.task(run)
    task.folder.mkdir(parents=True)
    # Killed while the task was written, then a run of other settings, killed while it was removed.
    partial_of(task.folder / TASK).write_text("{")
    run_one._prepare_folder(task)
    (task.folder / TASK).write_text('{"fingerprint": "another"}')
    (task.folder / "metrics.jsonl").write_text("{}")

    def killed(folder: Path, **_: object) -> None:
        if folder.exists():
            (folder / TASK).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_one.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run_one._prepare_folder(task)
    run_one._prepare_folder(task)
    assert [path.name for path in task.folder.iterdir()] == [TASK]
    assert json.loads((task.folder / TASK).read_text())["fingerprint"] == task.fingerprint


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"fingerprint": 1}', "{", "null"]
    + [
        f'{{"fingerprint": "RIGHT", "cost": {cost}}}'
        for cost in ("{}", "[1]", "null", '{"step_s": 1}')
    ],
)
def test_a_torn_timing_is_measured_again(
    write_experiment: WriteExperiment, tmp_path: Path, content: str
) -> None:
    comparison, _ = comparison_with_a_run(write_experiment, tmp_path)
    path = timing._timing_path(comparison, "mlm")
    path.parent.mkdir(parents=True)
    path.write_text(content.replace("RIGHT", timing._timing_fingerprint(comparison, "mlm")))
    assert timing._known_cost(comparison, "mlm") is None


def test_a_run_that_fails_says_why(write_experiment: WriteExperiment, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(ARMS))
    comparison = open_comparison(
        experiment, tmp_path / "out", workers=1, keep_models=False, stop=Stop()
    )
    run = plan_run(
        experiment,
        {name: Cost(step_s=1.0) for name in ARMS},
        experiment.arm("broken"),
        0.001,
        (0, 1.0),
    )
    make_runs(comparison, [run], "final")
    assert not comparison.results
    assert "train.dropout=0" in comparison.failures[run.folder]
    assert "train.dropout=0" in (comparison.root / run.folder / "log.txt").read_text()


def test_a_signal_before_the_first_run_starts_none(
    write_experiment: WriteExperiment, tmp_path: Path
) -> None:
    stop = Stop()
    stop.signum = signal.SIGINT
    comparison, run = comparison_with_a_run(write_experiment, tmp_path, stop=stop)
    with pytest.raises(InterruptedRun, match="stopped with 0 of 1 final runs done") as caught:
        make_runs(comparison, [run], "final")
    assert caught.value.exit_code == 130
    assert not (comparison.root / "runs").exists()


def test_the_plan_names_every_run(finished: Finished, tmp_path: Path) -> None:
    """Steps have been timed already, so nothing is started."""
    shutil.copytree(finished.root / "timing", tmp_path / "out" / "tiny" / "timing")
    words = ["--config", str(finished.request.configs[0]), "--out", str(tmp_path / "out")]
    # The broken arm has no timing; another file leaves it out.
    path = tmp_path / "two.toml"
    path.write_text(
        finished.request.configs[0].read_text().partition('[[arms]]\nname = "broken"')[0]
    )
    words[1] = str(path)
    shown = CliRunner().invoke(cli, ["compare", *words, "--plan"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert len(re.findall(r"^final .* steps", shown.stdout, re.M)) == 8
    assert len(re.findall(r"^tuning .* steps", shown.stdout, re.M)) == 2
    assert "10 runs" in shown.stdout
    assert not (tmp_path / "out" / "tiny" / "runs").exists()


def test_an_experiment_is_needed() -> None:
    shown = CliRunner().invoke(cli, ["compare", "--out", "somewhere"])
    assert shown.exit_code == 2
    assert "--config experiments/controlled.toml" in shown.stderr
