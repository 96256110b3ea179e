"""Models, gold and trained weights in a bucket: the commands do what they do with local folders."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.arrays.mapped_files import load_array, local_folder
from pipeline.database.connection import open_run
from pipeline.engine import files
from pipeline.engine.bucket_flags import VARIABLES, honour_flags_of_worker
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from pipeline.link.reranker import SETTINGS_FILE
from pipeline.link.training import reranker
from schemas.bucket_copies import send_folder
from schemas.buckets import below
from tests.bucket_servers import BucketServer, connected
from tests.pipeline import tiny_model
from tests.pipeline.cases import GOLD, in_process, program, sample_arguments
from trelm_train.data.shards import open_shards
from trelm_train.evaluate.corpus_statistics import statistics_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]
BLANK = ("--set", "link.spacy_model=blank:en")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    with connected("s3") as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRELM_CACHE", str(tmp_path_factory.mktemp("copies")))
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model_address(server: BucketServer, model: Path) -> str:
    send_folder(model, f"{server.root}/models/tiny")
    return f"{server.root}/models/tiny"


@pytest.fixture(scope="module")
def run(server: BucketServer, sample_run: Path) -> str:
    """The linked sample, copied into the bucket."""
    send_folder(sample_run, f"{server.root}/run")
    return f"{server.root}/run"


def printed(*arguments: object) -> dict[str, Any]:
    done = in_process(*map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_importance_and_shards_by_a_model_in_a_bucket(
    server: BucketServer,
    run: str,
    sample_run: Path,
    model: Path,
    model_address: str,
    tmp_path: Path,
) -> None:
    local = tmp_path / "run"
    shutil.copytree(sample_run, local)
    rows = {}
    for folder, name in ((str(local), str(model)), (run, model_address)):
        settings = ("--set", f"importance.model={name}", "--set", "shards.max_tokens=24")
        arguments = ("--config", sample_arguments(Path("any"))[1], "--run", folder, *settings)
        done = in_process("run", *arguments)
        assert done.returncode == 0, done.stderr
        with open_run(RunPaths(root=folder)) as connection:
            rows[folder] = [
                sorted(connection.sql(f"SELECT * FROM {table}").fetchall(), key=repr)
                for table in ("importance", "examples", "knowledge")
            ]
    assert all(rows[run])
    assert rows[run] == rows[str(local)]
    # What the trainer needs lies there whole.
    assert open_shards(f"{run}/shards").longest == open_shards(local / "shards").longest

    done = in_process("run", *arguments)
    assert done.stderr.count("up to date, skipped") == 8, done.stderr
    changed = json.loads(files.read_bytes(f"{model_address}/config.json")) | {"note": "changed"}
    files.write_bytes(f"{model_address}/config.json", json.dumps(changed).encode())
    done = in_process("run", *arguments)
    assert done.stderr.count("up to date, skipped") == 6, "another model is another input"
    files.write_bytes(f"{model_address}/config.json", (model / "config.json").read_bytes())


def test_no_model_in_a_bucket_is_told_before_any_work(server: BucketServer, run: str) -> None:
    address = f"{server.root}/absent"
    arguments = ("--config", sample_arguments(Path("any"))[1], "--run", run)
    done = in_process("importance", *arguments, "--model", address)
    assert done.returncode == 2
    assert f"{address}: no config.json in this folder" in done.stderr


def test_link_train_with_run_gold_and_weights_in_a_bucket(
    server: BucketServer, run: str, sample_run: Path, tmp_path: Path
) -> None:
    gold, weights = f"{server.root}/gold/sample.jsonl", f"{server.root}/weights.json"
    files.write_bytes(gold, GOLD.read_bytes())
    words = ("link", "train", "--folds", 2, *BLANK)
    here = printed(*words, "--run", sample_run, "--gold", GOLD, "--out", tmp_path / "w.json")
    there = printed(*words, "--run", run, "--gold", gold, "--out", weights)
    assert there == here
    model = json.loads(files.read_bytes(weights))
    assert model["weights"] == json.loads((tmp_path / "w.json").read_bytes())["weights"]

    score = ("link", "score", *BLANK)
    by_weights = ("--set", f"link.weights={weights}", "--out", f"{server.root}/scores")
    (tmp_path / "gold").mkdir()
    shutil.copy(GOLD, tmp_path / "gold" / "sample.jsonl")
    local = ("--gold", tmp_path / "gold", "--set", f"link.weights={tmp_path / 'w.json'}")
    here = printed(*score, "--run", sample_run, *local)
    there = printed(*score, "--run", run, "--gold", f"{server.root}/gold", *by_weights)
    assert there["files"] == here["files"]
    assert list(there["files"]) == ["sample"]
    assert files.exists(f"{server.root}/scores/scores.md")
    done = in_process("link", "score", "--run", run, "--gold", f"{server.root}/none")
    assert done.returncode == 1
    assert "none: the folder has no file that ends in .jsonl" in done.stderr


def test_a_reranker_is_trained_from_and_into_a_bucket(
    server: BucketServer,
    run: str,
    sample_run: Path,
    model: Path,
    model_address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reranker, "MIN_EXAMPLES", 1)
    out = f"{server.root}/reranker"
    words = ("link", "train-reranker", "--max-links", 20, *BLANK)
    arguments = ("--run", sample_run, "--model", model, "--out", tmp_path / "reranker")
    here = printed(*words, *arguments)
    there = printed(*words, "--run", run, "--model", model_address, "--out", out)
    assert there == here
    names = {entry.path.removeprefix(f"{out}/") for entry in below(out, deep=True)}
    written = [path for path in (tmp_path / "reranker").rglob("*") if path.is_file()]
    assert names == {str(path.relative_to(tmp_path / "reranker")) for path in written}
    assert json.loads(files.read_bytes(f"{out}/{SETTINGS_FILE}"))["is_trained"]

    done = in_process(*map(str, words), "--run", run, "--model", model_address, "--out", out)
    assert done.returncode == 2
    assert f"{out}: is there already" in done.stderr
    gold = ("--gold", GOLD, *BLANK)
    here = printed(
        "link", "score", "--run", sample_run, *gold,
        "--set", f"link.rerank_model={tmp_path / 'reranker'}",
    )  # fmt: skip
    there = printed("link", "score", "--run", run, *gold, "--set", f"link.rerank_model={out}")
    assert there["files"] == here["files"]


def test_beams_flags_for_s3_serve_the_whole_command(
    server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    flags = [
        f"--s3_endpoint_url={server.environment['AWS_ENDPOINT_URL']}", "--s3_access_key_id=any",
        "--s3_secret_access_key=any", "--s3_region_name=us-east-1",
    ]  # fmt: skip
    config = ("--config", sample_arguments(Path("any"))[1])
    address = f"{server.root}/by-flags"
    done = program("kb", *config, "--run", address, "--workers", "2", *flags)
    assert done.returncode == 0, done.stderr
    refused = program("kb", *config, "--run", address, *flags, "--s3_disable_ssl")
    assert refused.returncode == 2
    assert "--s3_disable_ssl is not honoured; give an address" in refused.stderr
    monkeypatch.undo()
    assert json.loads(files.read_bytes(f"{address}/kb/manifest.json"))["stage"] == "kb"


def test_a_worker_elsewhere_takes_the_flags_of_its_pipeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in VARIABLES.values():
        # Whatever is put in its place goes with the test.
        monkeypatch.setenv(variable, "before")
    flags = [f"--{name}=of-{name}" for name in VARIABLES]
    monkeypatch.setattr(FileSystems, "_pipeline_options", PipelineOptions(flags))
    honour_flags_of_worker()
    assert {name: os.environ[variable] for name, variable in VARIABLES.items()} == {
        name: f"of-{name}" for name in VARIABLES
    }


def test_a_damaged_index_is_named_before_it_is_mapped(
    server: BucketServer, sample_run: Path
) -> None:
    index = RunPaths(root=str(sample_run)).artefact("index", "entities")
    address = f"{server.root}/damaged/entities"
    send_folder(Path(index), address)
    largest = max(below(address, deep=False), key=lambda entry: entry.num_bytes)
    content = bytearray(files.read_bytes(largest.path))
    content[-1] ^= 1
    files.write_bytes(largest.path, bytes(content))
    with pytest.raises(StageError, match=rf"{address}: is damaged \({largest.path} was changed"):
        local_folder(address)
    # Mapped from the copy of the whole one.
    whole = f"{server.root}/whole/entities"
    send_folder(Path(index), whole)
    copy = load_array(str(next(Path(local_folder(whole)).glob("*.npy"))))
    assert isinstance(copy, np.memmap)


def test_a_worker_without_room_for_the_index_says_what_it_needs(run: str, tmp_path: Path) -> None:
    arguments = ("--config", sample_arguments(Path("any"))[1], "--run", run, "--redo")
    room = {"TRELM_CACHE": str(tmp_path), "TRELM_CACHE_GB": "0.0001"}
    done = program("link", *arguments, env=room)
    assert done.returncode == 1
    assert "/index/" in done.stderr
    assert f"all copies in {tmp_path} may have 0.1 MB together" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_statistics_of_a_run_in_a_bucket(run: str, sample_run: Path) -> None:
    here, there = statistics_of(sample_run, None), statistics_of(run, None)
    qids = set(range(1, 1000))
    assert there.frequencies(qids) == here.frequencies(qids)
    assert any(one.num_mentions for one in (here.frequencies(qids) or {}).values())
    copy = (there.entity_frequency or [])[0].parents[1]
    tables = {path.parent.name for path in copy.rglob("*.parquet")}
    assert tables == {"entity_frequency", "fact_support"}, "pairs are many, and not needed"
