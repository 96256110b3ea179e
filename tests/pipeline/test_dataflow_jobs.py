"""All stages through a stand-in for Dataflow: what each submits, and that what was submitted does the work.

Three levels, by one submission per stage: the graph, the whole job with what is staged, and its execution in a process
that knows nothing but the bucket.
"""

from __future__ import annotations

import os
import re
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apache_beam.internal import pickler
from apache_beam.internal.cloudpickle import cloudpickle
from apache_beam.portability.api import beam_runner_api_pb2

from pipeline.engine import files
from pipeline.flow import STAGE_NAMES
from pipeline.needs import worker_ram_gb
from schemas import buckets
from tests.bucket_servers import BucketServer, connected
from tests.fake_dataflow import FakeDataflow, Job, fake_dataflow
from tests.pipeline import tiny_model
from tests.pipeline.cases import ROOT, SAMPLE, in_process, num_linked
from tests.pipeline.test_bucket_runs import TABLES, rows_in

pytestmark = [
    pytest.mark.slow,
    # Of aiohttp, about what gcsfs gives it, and of Beam's own Dataflow options.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

IMAGE = "registry.example/trelm-pipeline:0.1.0"
INPUTS = "gs://trelm-test/inputs"
# Phases of the stages that have more than one.
PHASES = {
    "kb": ("kb", "repeats"),
    "index": ("merged", "index", "parts", "shards", "files"),
    "stats": ("facts", "stats", "entities", "tables"),
    "documents": ("documents", "repeats"),
    "shards": ("knowledge", "shards", "shuffle"),
}
JOB_TYPE_BATCH = 1
# Of these urns a step runs in a process of Python.
PARDO, MIN_RAM = "beam:transform:pardo:v1", "beam:resources:min_ram_bytes:v1"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A bucket and a service, and how a command reaches them."""

    server: BucketServer
    service: FakeDataflow
    options: tuple[str, ...]

    def run(self, *arguments: str):
        return in_process(*arguments, *self.options)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    from apache_beam.runners.dataflow import dataflow_runner

    with connected("gs") as server, pytest.MonkeyPatch.context() as patch:
        # A model that is given by its name, as from a hub.
        hub = tmp_path_factory.mktemp("hub")
        cached = hub / "models--trelm--tiny"
        tiny_model.make(cached / "snapshots" / "0")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0")
        patch.setenv("HF_HUB_CACHE", str(hub))
        # Beam looks after a job every five seconds.
        quick = types.SimpleNamespace(
            time=time.time, sleep=lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02))
        )
        patch.setattr(dataflow_runner, "time", quick)
        for name in ("entities.json", "documents.jsonl", "pages.xml"):
            buckets.write(f"{INPUTS}/{name}", (SAMPLE / name).read_bytes())
        for table in ("redirect", "page"):
            name = f"wikidatawiki-{table}.sql.gz"
            buckets.write(f"{INPUTS}/{name}", (SAMPLE / name).read_bytes())

        workers = {**os.environ, **server.environment}
        workers["TMPDIR"] = str(tmp_path_factory.mktemp("machine"))
        with fake_dataflow(workers) as service:
            options = (
                "--runner=DataflowRunner", "--project=trelm-proj", "--region=europe-west1", "--no_auth",
                "--temp_location=gs://trelm-test/temp", "--staging_location=gs://trelm-test/staging",
                f"--sdk_container_image={IMAGE}", f"--dataflow_endpoint={service.endpoint}",
                "--machine_type=e2-standard-4", "--max_num_workers=7", "--disk_size_gb=60",
                "--experiments=shuffle_mode=service",
            )  # fmt: skip
            yield Cloud(server=server, service=service, options=options)


def settings_of(run: str) -> list[str]:
    """The sample's settings, with copies in the bucket."""
    redirects = [f"{INPUTS}/wikidatawiki-{table}.sql.gz" for table in ("redirect", "page")]
    changed = {
        "kb.dumps": [f"{INPUTS}/entities.json"],
        "kb.redirects": redirects,
        "documents.inputs": [f"{INPUTS}/documents.jsonl", f"{INPUTS}/pages.xml"],
    }
    words = ["--config", str(SAMPLE / "pipeline.toml"), "--run", run]
    for name, paths in changed.items():
        words += ["--set", f"{name}={str(paths).replace(chr(39), chr(34))}"]
    # Fewer files, and so fewer requests: the rows are the same.
    words += ["--set", "stats.num_buckets=1"]
    return [*words, "--set", "importance.model=trelm/tiny"]


@pytest.fixture(scope="module")
def jobs(cloud: Cloud) -> dict[str, Job]:
    """The jobs of a whole run, by stage."""
    done = cloud.run("run", *settings_of("gs://trelm-test/run"))
    assert done.returncode == 0, done.stderr + "".join(job.message for job in cloud.service.jobs)
    return dict(zip(STAGE_NAMES, cloud.service.jobs, strict=True))


def graph_of(job: Job) -> beam_runner_api_pb2.Pipeline:
    return beam_runner_api_pb2.Pipeline.FromString(buckets.read(job.options["pipelineUrl"]))


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_the_graph_of_a_stage(jobs: dict[str, Job], stage: str) -> None:
    graph = graph_of(jobs[stage])
    transforms = graph.components.transforms
    root = transforms[graph.root_transform_ids[0]]
    phases = PHASES.get(stage, (stage,))
    names = [
        f"{step} {phase}" if len(phases) > 1 or step == "Process" else step
        for phase in phases
        for step in ("Units", "Spread", "Process")
    ]
    assert [transforms[name].unique_name for name in root.subtransforms] == [
        *names,
        "Once",
        "Finish",
    ]
    assert not any(step.spec.urn == "beam:transform:external" for step in transforms.values())
    assert graph.ByteSize() < 1_000_000


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_what_a_stage_submits(jobs: dict[str, Job], stage: str) -> None:
    job = jobs[stage]
    assert re.fullmatch(rf"trelm-{stage}-\d{{8}}-\d{{6}}", job.posted["name"])
    assert job.posted["type"] == JOB_TYPE_BATCH

    pool = job.pool
    assert pool["workerHarnessContainerImage"] == IMAGE
    assert len(pool["sdkHarnessContainerImages"]) == 1, "one kind of worker"
    assert (pool["machineType"], pool["diskSizeGb"]) == ("e2-standard-4", 60)
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert [package["name"] for package in pool["packages"]] == [
        "submission_environment_dependencies.txt"
    ], "our code is in the image, and nothing of this machine is staged"
    experiments = job.posted["environment"]["experiments"]
    assert {"shuffle_mode=service", "use_runner_v2", "use_multiple_sdk_containers"} <= set(
        experiments
    )

    options = job.options
    assert (options["project"], options["region"]) == ("trelm-proj", "europe-west1")
    assert (options["sdk_location"], options["save_main_session"]) == ("container", False)
    assert options["pipelineUrl"].startswith(f"gs://trelm-test/staging/{job.posted['name']}.")
    assert options["resource_hints"] == [f"min_ram={worker_ram_gb(stage)}GB"]
    (environment,) = graph_of(job).components.environments.values()
    assert environment.urn == "beam:env:docker:v1"
    assert int(environment.resource_hints[MIN_RAM]) == worker_ram_gb(stage) * 10**9


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_no_path_of_this_machine_is_submitted(
    jobs: dict[str, Job], stage: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = graph_of(jobs[stage])
    processes = 0
    for step in graph.components.transforms.values():
        if step.spec.urn != PARDO:
            continue
        payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
        if not payload.do_fn.payload:
            continue
        held = cloudpickle.dumps(pickler.loads(payload.do_fn.payload))
        # Beam's own functions name the file that they stand in.
        held = held.replace(f"{sys.prefix}/".encode(), b"")
        processes += b"ProcessUnit" in held
        for folder in (ROOT, tmp_path_factory.getbasetemp(), Path.home()):
            assert f"{folder}/".encode() not in held, step.unique_name
    assert processes == len(PHASES.get(stage, (stage,)))


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_what_was_submitted_has_done_the_work(jobs: dict[str, Job], stage: str) -> None:
    job = jobs[stage]
    assert (job.state, job.message) == ("JOB_STATE_DONE", "")
    assert job.counters["units"] > 0
    assert files.exists(f"gs://trelm-test/run/{stage}/manifest.json")


def test_rows_are_those_of_a_local_run(jobs: dict[str, Job], sample_run: Path) -> None:
    run = "gs://trelm-test/run"
    assert rows_in(run, TABLES) == rows_in(str(sample_run), TABLES)
    # Importance has a row for each link to an item, and examples one for each sentence.
    rows = rows_in(run, ("importance", "examples", "links", "sentences"))
    assert len(rows["importance"]) == num_linked(rows["links"]) > 0
    assert len(rows["examples"]) == len(rows["sentences"]) > 0


def test_a_finished_run_submits_nothing(jobs: dict[str, Job], cloud: Cloud) -> None:
    before = len(cloud.service.jobs)
    done = cloud.run("run", *settings_of("gs://trelm-test/run"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date, skipped") == len(STAGE_NAMES)
    assert len(cloud.service.jobs) == before


def test_the_services_refusal_is_said(jobs: dict[str, Job], cloud: Cloud) -> None:
    cloud.service.refusal = (403, "Dataflow API has not been used in project trelm-proj before")
    done = cloud.run("kb", *settings_of("gs://trelm-test/refused"))
    assert done.returncode == 1
    assert "Google's service refused the job: 403" in done.stderr
    assert "has not been used in project trelm-proj" in done.stderr
    assert "Traceback" not in done.stderr
    assert not files.exists("gs://trelm-test/refused/.lock")


def test_a_place_that_is_not_there_is_said(jobs: dict[str, Job], cloud: Cloud) -> None:
    words = [word for word in cloud.options if not word.startswith(("--temp", "--staging"))]
    done = in_process(
        "kb", *settings_of("gs://trelm-test/nowhere"), *words, "--temp_location=gs://trelm-absent/t"
    )
    assert done.returncode == 1
    assert "there is no bucket gs://trelm-absent; create it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_fails_says_what_its_worker_said(jobs: dict[str, Job], cloud: Cloud) -> None:
    buckets.write(f"{INPUTS}/broken.json", b'{"id": "Q1"\n' * 50)
    words = settings_of("gs://trelm-test/failed")
    done = cloud.run("kb", *words, "--set", f'kb.dumps=["{INPUTS}/broken.json"]')
    assert done.returncode == 1
    assert "Error: kb: " in done.stderr
    assert "inputs were rejected, over the limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert not files.exists("gs://trelm-test/failed/kb/manifest.json")


def test_a_template_is_described_and_not_started(jobs: dict[str, Job], cloud: Cloud) -> None:
    before = len(cloud.service.jobs)
    place = "gs://trelm-test/templates/kb"
    done = cloud.run("kb", *settings_of("gs://trelm-test/later"), f"--template_location={place}")
    assert done.returncode == 0, done.stderr
    assert f"kb: the job's description is in {place}" in done.stderr
    assert len(cloud.service.jobs) == before
    assert b'"workerPools"' in buckets.read(place)
    assert not files.exists("gs://trelm-test/later/kb/manifest.json")
    assert not files.exists("gs://trelm-test/later/.lock")


def test_a_job_that_nobody_waits_for_is_found_by_the_next_command(
    jobs: dict[str, Job], cloud: Cloud
) -> None:
    words = settings_of("gs://trelm-test/unwatched")
    done = cloud.run("kb", *words, "--no_wait_until_finish")
    assert done.returncode == 0, done.stderr
    assert re.search(r"kb: job job-\d+ submitted", done.stderr)
    done = cloud.run("kb", *words)
    assert "kb: up to date, skipped" in done.stderr


def test_an_interrupted_launcher_says_how_its_job_is_stopped(
    jobs: dict[str, Job], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DataflowPipelineResult, "wait_until_finish", interrupted)
    done = cloud.run("stats", *settings_of("gs://trelm-test/run"), "--redo")
    assert done.returncode == 130
    stop = (
        r"gcloud dataflow jobs cancel job-\d+ --project=trelm-proj --region=europe-west1 stops it"
    )
    assert re.search(stop, done.stderr)


def test_a_stage_that_waits_for_another_is_left_to_the_next_call(
    jobs: dict[str, Job], cloud: Cloud
) -> None:
    words = settings_of("gs://trelm-test/unwatched")
    place = "--template_location=gs://trelm-test/templates/titles"
    done = cloud.run("documents", *words, place)
    assert done.returncode == 0, done.stderr
    assert "documents: comes after titles; call again when its job has ended" in done.stderr
    done = cloud.run("run", *words, "--no_wait_until_finish")
    assert done.returncode == 2
    assert "give a single stage" in done.stderr
