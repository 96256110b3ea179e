"""Wrong set-ups of clusters: each is refused before anything is planned, written or sent, with what mends it."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.engine.cluster import check_options
from tests.pipeline.cases import SAMPLE, in_process, program

USAGE = 2
# A set-up that is right; a case changes one thing.
RIGHT = {
    "--runner": "DataflowRunner",
    "--run": "gs://bucket/run",
    "--project": "trelm-proj",
    "--region": "europe-west1",
    "--temp_location": "gs://bucket/temp",
    "--sdk_container_image": "registry.example/trelm-pipeline:1",
}
FLINK = {
    "--runner": "FlinkRunner",
    "--run": "runs/a",
    "--flink_master": "flink:8081",
    "--environment_type": "EXTERNAL",
    "--environment_config": "localhost:50000",
}
PORTABLE = {
    "--runner": "PortableRunner",
    "--run": "runs/a",
    "--environment_type": "EXTERNAL",
    "--environment_config": "localhost:50000",
}


@dataclass(frozen=True)
class Wrong:
    """What is wrong, the options that make it so (None leaves one out), and what is said."""

    name: str
    changed: dict[str, str | None]
    said: tuple[str, ...]
    command: str = "kb"
    base: str = "dataflow"


# What a model's and a spaCy pipeline's folder is called, below the working folder.
MODEL = "./model"
WRONG = (
    Wrong("no project", {"--project": None}, ("no project", "give --project=ID")),
    Wrong("project's number", {"--project": "123456"}, ("a project's number", "gcloud projects list")),
    Wrong("project's title", {"--project": "My Project"}, ("is no project's id", "give --project=ID")),
    Wrong("no region", {"--region": None}, ("no region", "--region=europe-west1")),
    Wrong("no temporary place", {"--temp_location": None}, ("--temp_location=gs://BUCKET/temp",)),
    Wrong("temporary place is local", {"--temp_location": "runs/temp"}, ("--temp_location=runs/temp", "give --temp_location=gs://")),
    Wrong("temporary place is no folder", {"--temp_location": "gs://bucket"}, ("no folder of a bucket",)),
    Wrong("bucket's name", {"--temp_location": "gs://My_Bucket/temp"}, ("gs://My_Bucket/temp", "in a-z, 0-9")),
    Wrong("staging place on S3", {"--staging_location": "s3://bucket/temp"}, ("--staging_location=s3://bucket/temp", "of Google's")),
    Wrong("no image", {"--sdk_container_image": None},
          ("no image", "trelm-pipeline image --registry REGISTRY", "--sdk_container_image=REGISTRY/trelm-pipeline:")),
    Wrong("Beam's own image", {"--sdk_container_image": "apache/beam_python3.11_sdk:2.77.0"},
          ("Beam's own image, which lacks this program", "trelm-pipeline image")),
    Wrong("image of the Flex template", {"--sdk_container_image": "registry.example/a/trelm-flex:1"},
          ("starts a launcher and no worker", "--sdk_container_image=registry.example/a/trelm-pipeline:1 ")),
    Wrong("trainer's image", {"--sdk_container_image": "trelm-train@sha256:0a"},
          ("is the trainer's image, which lacks Beam", "--sdk_container_image=trelm-pipeline ")),
    Wrong("job's name", {"--job_name": "Link_2026"}, ("--job_name=Link_2026", "give --job_name=link-2026")),
    Wrong("more workers than allowed", {"--num_workers": "8", "--max_num_workers": "4"}, ("give --max_num_workers=8",)),
    Wrong("local processes", {"--workers": "4"}, ("--workers 4 counts processes of this machine", "--max_num_workers=N")),
    Wrong("mistyped option", {"--sdk_contianer_image": "x"}, ("did you mean --sdk_container_image?",)),
    Wrong("mistyped runner", {"--runner": "DataflowRuner"}, ("'DataflowRuner'", "check the name")),
    Wrong("unfit runner", {"--runner": "DaskRunner"}, ("writes only a part", "docs/runners.md")),
    Wrong("local run", {"--run": "runs/a"}, ("--run lies on it", "--run gs://bucket/a")),
    Wrong("local dump", {"--dump": "dumps/all.json.gz"},
          ("kb.dumps", "gcloud storage cp dumps/all.json.gz gs://bucket/inputs/all.json.gz",
           """--set 'kb.dumps=["gs://bucket/inputs/all.json.gz"]'""")),
    Wrong("two of a name", {"--set": 'kb.dumps=["a/d.json", "b/d.json", "gs://bucket/e.json"]'},
          ("cp a/d.json gs://bucket/inputs/1/d.json\n", "cp b/d.json gs://bucket/inputs/2/d.json\n",
           '["gs://bucket/inputs/1/d.json", "gs://bucket/inputs/2/d.json", "gs://bucket/e.json"]')),
    Wrong("one path in two places", {"--set": 'kb.dumps=["/a/b/x.json", "a/b/x.json"]'},
          ("cp /a/b/x.json gs://bucket/inputs/1/x.json\n", "cp a/b/x.json gs://bucket/inputs/2/x.json\n",
           '["gs://bucket/inputs/1/x.json", "gs://bucket/inputs/2/x.json"]')),
    Wrong("two patterns", {"--set": 'kb.dumps=["/a/x-*.json.gz", "/b/x-*.json.gz"]'},
          ("cp '/a/x-*.json.gz' gs://bucket/inputs/1/\n", "cp '/b/x-*.json.gz' gs://bucket/inputs/2/\n",
           '["gs://bucket/inputs/1/x-*.json.gz", "gs://bucket/inputs/2/x-*.json.gz"]')),
    Wrong("pattern beside a file", {"--set": 'kb.dumps=["a/*.json", "b/x.json"]'},
          ("cp 'a/*.json' gs://bucket/inputs/1/\n", '["gs://bucket/inputs/1/*.json", "gs://bucket/inputs/2/x.json"]')),
    Wrong("pattern of folders", {"--dump": "/data/part/*/dump.json.gz"},
          ("gcloud storage rsync --recursive /data/part gs://bucket/inputs/1\n", '["gs://bucket/inputs/1/*/dump.json.gz"]')),
    Wrong("pattern of all below", {"--dump": "**.json"},
          ("gcloud storage rsync --recursive . gs://bucket/inputs/1\n", '["gs://bucket/inputs/1/**.json"]')),
    Wrong("pattern of the root", {"--dump": "/*/dump.json"}, ("move what /*/dump.json names below a folder of its own",)),
    Wrong("local redirects", {"--dump": "gs://bucket/all.json", "--redirects": "page.sql.gz"},
          ("kb.redirects", "gcloud storage cp page.sql.gz gs://bucket/inputs/page.sql.gz")),
    Wrong("local older run", {"--update": "runs/old"}, ("kb.update", "--set kb.update=gs://bucket/inputs/old")),
    Wrong("local corpus", {"--input": "corpus/*.jsonl"}, ("documents.inputs", "gcloud storage cp 'corpus/*.jsonl' gs://bucket/inputs/\n", "inputs=[\"gs://bucket/inputs/*.jsonl\"]"), "documents"),
    Wrong("local gold", {"--gold-spans": "gold.jsonl"}, ("--set link.gold_spans=gs://bucket/inputs/gold.jsonl",), "link"),
    Wrong("local weights", {"--weights": "w.json"}, ("--set link.weights=gs://bucket/inputs/w.json",), "link"),
    Wrong("local re-ranker", {"--rerank-model": MODEL},
          ("gcloud storage rsync --recursive ./model gs://bucket/inputs/model", "--set link.rerank_model=gs://bucket/inputs/model"), "link"),
    Wrong("local spaCy pipeline", {"--spacy-model": MODEL},
          ("link.spacy_model", "python -m spacy package ./model packages --build wheel"), "link"),
    Wrong("local model", {"--model": MODEL}, ("importance.model", "--set importance.model=gs://bucket/inputs/model"), "importance"),
    Wrong("local tokenizer", {"--model": MODEL}, ("shards.model",), "shards"),
    Wrong("local templates", {"--set": "shards.statement_templates=t.jsonl"}, ("shards.statement_templates=gs://bucket/inputs/t.jsonl",), "shards"),
    Wrong("all stages, local inputs", {"--set": 'documents.inputs=["c.jsonl"]', "--run": "runs/a"},
          ("--run, documents.inputs lie on it", "--set 'documents.inputs=[\"gs://bucket/inputs/c.jsonl\"]'"), "run"),
    Wrong("no job server", {}, ("no job server", "--job_endpoint=HOST:8099"), base="portable"),
    Wrong("job server's address", {"--job_endpoint": "http://flink"}, ("is no HOST:PORT", "--job_endpoint=flink:8099"), base="portable"),
    Wrong("job server does not answer", {"--job_endpoint": "localhost:{closed}"}, ("no job server answers there", "start it first"), base="portable"),
    Wrong("Beam's image on a cluster", {"--environment_type": None, "--environment_config": None},
          ("lacks this program", "--environment_type=EXTERNAL --environment_config=localhost:50000"), base="flink"),
    Wrong("Beam's image, named", {"--environment_type": "DOCKER", "--environment_config": "apache/beam_python3.11_sdk:2.77.0"},
          ("lacks this program", "--environment_type=DOCKER --environment_config=REGISTRY/trelm-pipeline:"), base="flink"),
    Wrong("trainer's image on a cluster", {"--environment_type": "DOCKER", "--environment_config": "localhost:5000/trelm-train:1"},
          ("which lacks Beam", "--environment_config=localhost:5000/trelm-pipeline:1 "), base="flink"),
    Wrong("no worker pool", {"--environment_config": None}, ("no worker pool", "worker_pool_main --service_port=50000"), base="flink"),
    Wrong("worker pool's address", {"--environment_config": "localhost"}, ("--environment_config=localhost:50000",), base="flink"),
    Wrong("worker pool's address in JSON", {"--environment_config": '{"url": "localhost"}'},
          ("--environment_config=localhost: is no HOST:PORT; give --environment_config=localhost:50000",), base="flink"),
    Wrong("no worker pool in JSON", {"--environment_config": '{"uri": "localhost:50000"}'},
          ("names no worker pool", """--environment_config='{"url": "localhost:50000"}'"""), base="flink"),
    Wrong("no command of a process", {"--environment_type": "PROCESS", "--environment_config": "/boot"},
          ("""--environment_config='{"command": "/opt/apache/beam/boot"}'""",), base="flink"),
    Wrong("command without a path", {"--environment_type": "PROCESS", "--environment_config": '{"command": "boot"}'},
          ("'boot' is no absolute path",), base="flink"),
    Wrong("kind of workers", {"--environment_type": "KUBERNETES"}, ("give EXTERNAL, PROCESS, DOCKER or LOOPBACK",), base="flink"),
    Wrong("path that counts from here", {"--dump": "all.json"},
          ("start in a folder of their own", "--run {here}/runs/a", """--set 'kb.dumps=["{here}/all.json"]'"""), base="flink"),
    Wrong("job server's program", {"--flink_job_server_jar": "none.jar"}, ("--flink_job_server_jar=none.jar: no such file",), base="flink"),
)  # fmt: skip


def arguments_of(wrong: Wrong) -> list[str]:
    base = {"dataflow": RIGHT, "flink": FLINK, "portable": PORTABLE}[wrong.base]
    options = {**base, **wrong.changed}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [wrong.command, *(option.replace("{closed}", str(closed)) for option in given)]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_set_up_is_refused_with_what_mends_it(
    wrong: Wrong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    done = in_process(*arguments_of(wrong))
    assert done.returncode == USAGE, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    for part in wrong.said:
        assert part.replace("{here}", str(tmp_path)) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is written"


@pytest.mark.parametrize(
    "image", ["r.example/trelm-pipeline:1", "trelm-train/own:1", "my-trelm-flex"]
)
def test_an_image_that_only_sounds_like_another_is_taken(image: str) -> None:
    options = {"environment_type": "DOCKER", "environment_config": image}
    check_options("FlinkRunner", {"flink_master": "flink:8081", **options})


@pytest.mark.parametrize(
    "config",
    [
        '{"url": "localhost:50000"}',
        ' {"url": "http://pool:50000", "params": {"a": "b"}} ',
        "pool:1",
    ],
)
def test_the_forms_of_a_pools_address_that_beam_takes(config: str) -> None:
    """Here a set-up is right, so nothing but its options is looked at."""
    options = {"environment_type": "EXTERNAL", "environment_config": config}
    check_options("FlinkRunner", {"flink_master": "flink:8081", **options})


def test_without_the_extra_the_install_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.dataflow_v1beta3", None)
    done = in_process("kb", *(f"{name}={value}" for name, value in RIGHT.items()))
    assert done.returncode == USAGE
    assert "pip install 'trelm[pipeline,gcp]'" in done.stderr


@pytest.mark.slow
def test_a_job_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    """A broken jar, or no Java: here a Java that ends at once."""
    (tmp_path / "server.jar").write_bytes(b"")
    done = program(
        "kb", "--dump", str(SAMPLE / "entities.json"), "--run", str(tmp_path / "run"), "--runner=FlinkRunner",
        f"--flink_job_server_jar={tmp_path / 'server.jar'}", "--job_server_java_launcher=false",
    )  # fmt: skip
    assert done.returncode == 1
    # A thread of Beam's that listens to the program may fail before or after.
    assert "\nError: the runner's own program did not start (Service failed" in f"\n{done.stderr}"
