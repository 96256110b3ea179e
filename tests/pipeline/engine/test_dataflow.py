"""The Dataflow job of `link`, built without a network: steps, image, what is staged, coders."""

from __future__ import annotations

import shutil
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners import DataflowRunner

from pipeline.config import load_config
from pipeline.engine.beam_runner import RunnerSettings, beam_options, refuse_local_paths
from pipeline.engine.stage import build_graph, prepare
from pipeline.engine.tables import RunPaths
from pipeline.run_stage import plan_stage
from schemas.errors import ConfigError
from tests.pipeline.cases import SAMPLE, program

IMAGE = "registry.example/trelm-pipeline:0.1.0"
FLAGS = (
    "--job_name=trelm-link", "--project=trelm-proj", "--region=europe-west1", "--no_auth", "--dry_run=True",
    "--staging_location=gs://trelm-test/staging", "--temp_location=gs://trelm-test/temp",
    "--sdk_location=container", f"--sdk_container_image={IMAGE}",
)  # fmt: skip


def graph_of(stage: str, run: Path):
    config = load_config(str(SAMPLE / "pipeline.toml"), (f"run={run}",))
    plan = plan_stage(stage, config)
    prepared = prepare(plan, RunPaths(root=str(run)))
    settings = RunnerSettings(runner="DataflowRunner", beam_flags=FLAGS)
    pipeline = beam.Pipeline(runner=DataflowRunner(), options=beam_options(settings))
    build_graph(pipeline, prepared)
    pipeline.run()
    return pipeline.runner.proto_pipeline


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # Beam's own Dataflow options
@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        ("index", [step for phase in ("merged", "index", "parts", "shards", "files")
                   for step in (f"Units {phase}", f"Spread {phase}", f"Process {phase}", f"Done {phase}")][:-1]
                  + ["All reports", "Reports", "Finish"]),
        ("link", ["Units", "Spread", "Process link", "Reports", "Finish"]),
        ("stats", [step for phase in ("facts", "stats", "entities", "tables")
                   for step in (f"Units {phase}", f"Spread {phase}", f"Process {phase}", f"Done {phase}")][:-1]
                  + ["All reports", "Reports", "Finish"]),
    ],
)  # fmt: skip
def test_job_graph(sample_run: Path, tmp_path: Path, stage: str, steps: list[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(sample_run, run)
    graph = graph_of(stage, run)
    transforms = graph.components.transforms.values()
    root = graph.components.transforms[graph.root_transform_ids[0]]
    assert [graph.components.transforms[name].unique_name for name in root.subtransforms] == steps
    assert {environment.urn for environment in graph.components.environments.values()} == {
        "beam:env:docker:v1"
    }
    assert IMAGE.encode() in next(iter(graph.components.environments.values())).payload
    assert not any(transform.spec.urn == "beam:transform:external" for transform in transforms)
    assert graph.ByteSize() < 10_000_000


@pytest.mark.slow
def test_command_builds_the_job_and_submits_nothing(sample_run: Path) -> None:
    done = program("link", "--run", str(sample_run), "--redo", "--runner=DataflowRunner", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "dry run: " in done.stderr
    assert "nothing submitted" in done.stderr
    assert (sample_run / "link" / "manifest.json").exists()


def test_local_paths_are_refused_on_dataflow() -> None:
    with pytest.raises(ConfigError, match="local path"):
        refuse_local_paths(RunnerSettings(runner="DataflowRunner"), ["/tmp/run"])
    refuse_local_paths(RunnerSettings(runner="DataflowRunner"), ["gs://bucket/run"])
    refuse_local_paths(RunnerSettings(runner="DirectRunner"), ["/tmp/run"])


@pytest.mark.parametrize(
    "name", ["DirectRunner", "direct", "", "directrunner", "SwitchingDirectRunner"]
)
def test_direct_runner_is_the_in_process_one(name: str) -> None:
    options = beam_options(RunnerSettings(runner=name)).get_all_options()
    assert options["runner"] == "FnApiRunner"
    assert not options["save_main_session"]


def test_workers_are_processes() -> None:
    options = beam_options(RunnerSettings(workers=3)).get_all_options()
    assert (options["direct_running_mode"], options["direct_num_workers"]) == (
        "multi_processing",
        3,
    )
