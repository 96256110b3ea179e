"""The trainer with shards, model and run in a bucket, on servers of this machine: what it does locally, also after a kill."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from schemas import buckets
from schemas.bucket_copies import local_folder, local_model, send_folder
from schemas.buckets import BucketError
from schemas.errors import ConfigError
from schemas.run_lock import LockedError
from tests.bucket_servers import BucketServer, connected
from tests.pausing import PATIENCE_S
from tests.trelm_train import forked, world
from tests.trelm_train.compare.conftest import TWO_ARMS, write_file
from tests.trelm_train.conftest import SMALL, small_config
from tests.trelm_train.test_init import write_documents
from tests.trelm_train.test_ranks import assert_ended, start, variables_of_ranks
from trelm_train.checkpoints import bucket_run
from trelm_train.checkpoints.bucket_run import BucketRun
from trelm_train.checkpoints.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from trelm_train.cli import cli
from trelm_train.compare.experiment import load_experiment
from trelm_train.compare.plan import inputs_of
from trelm_train.training import train
from trelm_train.training.session import RunRequest
from trelm_train.training.step import train_step
from trelm_train.training.train import resume, run, run_or_resume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]
STEPS = 4
SETS = (
    f"train.steps={STEPS}", "train.checkpoint_every=1", "train.log_every=1", "train.loggers=[]", "train.validate=false",
    "train.keep_checkpoints=2", "train.micro_batches=3",
)  # fmt: skip


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BucketServer]:
    with connected(request.param) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRELM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield running


@pytest.fixture(scope="module")
def shards(server: BucketServer, shards_path: Path) -> str:
    address = f"{server.root}/run/shards"
    send_folder(shards_path, address)
    return address


@pytest.fixture(scope="module")
def model(server: BucketServer, model_path: Path) -> str:
    address = f"{server.root}/models/small"
    send_folder(model_path, address)
    return address


def request_for(shards: Path | str, model: Path | str, out: Path | str, *sets: str) -> RunRequest:
    return RunRequest(shards=shards, model=str(model), out=out, config=small_config(*SETS, *sets))


@pytest.fixture(scope="module")
def local(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bucket-runs") / "local"
    run(request_for(shards_path, model_path, out))
    return out


def names_in(address: str) -> list[str]:
    return [entry.path.removeprefix(f"{address}/") for entry in buckets.below(address, deep=True)]


def lines_of(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in line.items() if name != "speed"} for line in lines]


def last_checkpoint(address: str) -> Checkpoint:
    step = BucketRun(address, Path("any")).latest_step()
    return load_checkpoint(local_folder(f"{address}/checkpoints/step-{step:08d}"))


def assert_same(address: str, local: Path) -> None:
    """The run in the bucket has the losses, the weights and the model of the local one."""
    metrics = buckets.read(f"{address}/metrics.jsonl").decode()
    assert lines_of(metrics) == lines_of((local / "metrics.jsonl").read_text())
    left = last_checkpoint(address)
    right = load_checkpoint(latest_checkpoint(local / "checkpoints") or local)
    assert left.state["step"] == STEPS
    for group, named in right.tensors.items():
        for name, value in named.items():
            assert torch.equal(value, left.tensors[group][name]), f"{group}/{name}"
    weights = buckets.read(f"{address}/model/model.safetensors")
    assert weights == (local / "model" / "model.safetensors").read_bytes()


def test_a_run_in_a_bucket_is_that_of_a_local_folder(
    server: BucketServer, shards: str, model: str, local: Path
) -> None:
    address = f"{server.root}/runs/whole"
    server.num_requests.clear()
    summary = run(request_for(shards, model, address))
    assert server.num_requests.total() < 150, server.num_requests
    assert_same(address, local)

    assert summary["model"] == f"{address}/model"
    names = names_in(address)
    kept = {name.split("/")[1] for name in names if name.startswith("checkpoints/step-")}
    assert kept == {f"step-{step:08d}" for step in (STEPS - 1, STEPS)}
    assert ".lock" not in names
    assert json.loads(buckets.read(f"{address}/summary.json"))["steps"] == STEPS
    with pytest.raises(ConfigError, match=f"{address}: holds a run already"):
        run(request_for(shards, model, address))


def test_what_is_no_run_is_left_alone(server: BucketServer, shards: str, model: str) -> None:
    address = f"{server.root}/notes"
    buckets.write(f"{address}/diary.txt", b"mine")
    with pytest.raises(ConfigError, match=r"holds diary\.txt, which is no run"):
        run(request_for(shards, model, address))
    with pytest.raises(ConfigError, match=f"{address}: no run there; start one"):
        resume(address)
    assert names_in(address) == ["diary.txt"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.toml", b"[mine]\nkey = 1\n", r"a config\.toml of your own, which is no run"),
        # A run of the pipeline that was killed in its first stage.
        ("config.toml", b"[kb]\nwiki = 'a'  # The wiki.\n", r"\(a run of trelm-pipeline\)"),
        ("model.safetensors", b"", r"model\.safetensors \(a model\)"),
    ],
    ids=["own settings", "pipeline", "model"],
)
def test_what_a_local_run_refuses_is_refused(
    *, server: BucketServer, shards: str, model: str, name: str, content: bytes, said: str
) -> None:
    address = f"{server.root}/refused/{hashlib.sha256(content).hexdigest()[:8]}"
    buckets.write(f"{address}/{name}", content)
    with pytest.raises(ConfigError, match=f"{address}: holds .*{said}"):
        run(request_for(shards, model, address))
    assert names_in(address) == [name]
    assert buckets.read(f"{address}/{name}") == content


def test_what_lies_in_the_place_of_the_initial_model_goes(
    server: BucketServer, tmp_path: Path
) -> None:
    """A killed run may have left weights of another form, which would be loaded with the new ones."""
    address, folder = f"{server.root}/runs/stale", tmp_path / "stale"
    (folder / "initial").mkdir(parents=True)
    new = {"run.json": b"{}", "initial/config.json": b"{}", "initial/model.safetensors": b"new"}
    for name, content in new.items():
        (folder / name).write_bytes(content)
    for name in ("model.safetensors", "model.safetensors.index.json", "1_Pooling/config.json"):
        buckets.write(f"{address}/initial/{name}", b"old")
    bucket = BucketRun(address, folder)
    bucket.check_new(["initial"], "config.toml")
    bucket.publish_start()
    bucket.close()
    assert {name: buckets.read(f"{address}/{name}") for name in names_in(address)} == new


UPLOADS, TRAIN = "schemas.buckets", "trelm_train.training.train"
KILLS = (  # each goes on where the one before was killed
    (UPLOADS, "upload", 4),  # while the initial model is sent
    (UPLOADS, "upload", 20),  # some objects of a checkpoint are there
    (UPLOADS, "remove_objects", 2),  # an old checkpoint is removed by half
)


def test_killed_while_it_sends(
    server: BucketServer, shards: str, model: str, local: Path, tmp_path: Path
) -> None:
    address = f"{server.root}/runs/killed"
    words = [*words_of_run(shards, model, address), "--resume", "auto"]
    steps = []
    for place in KILLS:
        process = forked.start(words, tmp_path / "output", server.environment, killed_at=place)
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "output" / "stderr").read_text()
        steps.append(BucketRun(address, tmp_path).latest_step())
        if steps[-1] >= 0:
            last_checkpoint(address)
    assert steps[0] == -1
    assert steps == sorted(steps)
    assert 0 < steps[-1] < STEPS
    run_or_resume(request_for(shards, model, address))
    assert_same(address, local)
    kept = {name.split("/")[1] for name in names_in(address) if "/step-" in name}
    assert len(kept) == 2, "what was sent or removed by half is gone"


def words_of_run(shards: str, model: str, out: str, *sets: str) -> list[str]:
    words = ["run", "--shards", shards, "--model", model, "--out", out]
    return words + [part for one in (*SMALL, *SETS, *sets) for part in ("--set", one)]


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_another_number_of_ranks_goes_on(
    *,
    server: BucketServer,
    shards: str,
    model: str,
    local: Path,
    tmp_path: Path,
    before: int,
    after: int,
) -> None:
    """Ranks that share no folder but the bucket; the second start has another number of them."""
    if server.scheme == "gs":
        pytest.skip("what differs between the storages is tested above")
    address = f"{server.root}/runs/ranks-{before}-{after}"
    words = words_of_run(shards, model, address)
    # A cache for each start: another machine.
    first = {**server.environment, "TRELM_CACHE": str(tmp_path / "first")}
    killed = [
        forked.start(words, tmp_path / f"rank-{rank}", {**first, **variables}, place)
        for rank, variables in enumerate(variables_of_ranks(before))
        for place in [(TRAIN, "train_step", 3) if rank == before - 1 else None]
    ]
    for process in killed:
        process.join(PATIENCE_S)
    assert all(process.exitcode for process in killed)
    # The others notice it, and send what is under way before they end.
    assert BucketRun(address, tmp_path).latest_step() == 2
    copies = [path for path in (tmp_path / "first").iterdir() if (path / "manifest.json").exists()]
    assert len(copies) == 1, "the ranks of a machine share one copy of the shards"

    second = {**server.environment, "TRELM_CACHE": str(tmp_path / "second")}
    words = ["resume", "--out", address]
    assert_ended(start(after, words, tmp_path / "after", second), 0, tmp_path / "after")
    metrics = lines_of(buckets.read(f"{address}/metrics.jsonl").decode())
    expected = lines_of((local / "metrics.jsonl").read_text())
    for line, wanted in zip(metrics, expected, strict=True):
        for name in ("step", "tokens", "targets", "facts", "injected"):
            assert line[name] == wanted[name]
        assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-5 * 3 ** line["step"])


def invoke(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def finished(server: BucketServer, local: Path) -> str:
    """The local run, copied into the bucket."""
    address = f"{server.root}/runs/finished"
    send_folder(local, address)
    return address


def test_commands_that_read_a_run(
    finished: str, shards: str, shards_path: Path, local: Path, tmp_path: Path
) -> None:
    def measured(run: object, shards: object, items: object) -> dict[str, Any]:
        words = ("--model", f"{run}/model", "--shards", shards, "--items", items, "--json")
        return json.loads(invoke("evaluate", "mlm", *words))

    here = measured(local, shards_path, tmp_path / "items.parquet")
    assert measured(finished, shards, f"{finished}-items/mlm.parquet") == here
    names = ["p_gold", "rank", "obj_qid"]
    there = pq.read_table(pa.BufferReader(buckets.read(f"{finished}-items/mlm.parquet")))
    assert there.select(names) == pq.read_table(tmp_path / "items.parquet").select(names)

    entity = invoke("inspect", "bank", "--run", local, "--entity", "Zenda", "--json")
    assert invoke("inspect", "bank", "--run", finished, "--entity", "Zenda", "--json") == entity
    path = invoke("inspect", "path", "--run", local, "--json")
    assert invoke("inspect", "path", "--run", finished, "--json") == path


def test_export_from_and_into_a_bucket(finished: str, local: Path, tmp_path: Path) -> None:
    step = f"checkpoints/step-{STEPS:08d}"
    invoke("export", "--checkpoint", local / step, "--out", tmp_path / "model")
    said = invoke("export", "--checkpoint", f"{finished}/{step}", "--out", f"{finished}-export")
    assert said == f"{finished}-export: model of step {STEPS}\n"
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert sorted(names_in(f"{finished}-export")) == sorted(
        str(path.relative_to(tmp_path / "model")) for path in files
    )
    weights = buckets.read(f"{finished}-export/model.safetensors")
    assert weights == (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        invoke("export", "--checkpoint", f"{finished}/{step}", "--out", f"{finished}-export")


def test_probes_in_a_bucket(
    server: BucketServer, finished: str, local: Path, tmp_path: Path
) -> None:
    (tmp_path / "P1.jsonl").write_text('{"sub_label": "Zenda", "obj_label": "king"}\n')
    (tmp_path / "relations.jsonl").write_text('{"relation": "P1", "template": "[X] has a [Y] ."}\n')
    address = f"{server.root}/probes"
    send_folder(tmp_path, address)

    def scores(run: object, probes: object) -> dict[str, Any]:
        words = ("--model", f"{run}/model", "--probes", probes)
        relations = ("--relations", f"{probes}/relations.jsonl")
        return json.loads(invoke("evaluate", "lama", *words, *relations, "--json"))

    assert scores(finished, address) == scores(local, tmp_path)


def test_a_damaged_model_is_refused_before_it_is_used(finished: str, shards: str) -> None:
    content = buckets.read(f"{finished}/model/model.safetensors")
    send = f"{finished}-damaged/model"
    for name in names_in(f"{finished}/model"):
        buckets.write(f"{send}/{name}", buckets.read(f"{finished}/model/{name}"))
    buckets.write(f"{send}/model.safetensors", content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BucketError, match=rf"{send}: is damaged .*{send}/model\.safetensors"):
        local_model(send)
    with pytest.raises(ConfigError, match=r"no config\.json in this folder"):
        local_model(f"{finished}/absent")


def test_an_upload_that_fails_is_tried_again(
    server: BucketServer, shards: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{server.root}/runs/flaky"
    monkeypatch.setattr(bucket_run, "PAUSES_S", (0.0,))
    upload, failures = buckets.upload, []

    def flaky(source: Path, path: str) -> None:
        # The second checkpoint never comes through, the third one at the second attempt.
        is_third = "step-00000003" in path and len(failures) < 3
        if "step-00000002" in path or is_third:
            failures.append(path)
            raise BucketError(f"{path}: cannot be written (503)")
        upload(source, path)

    monkeypatch.setattr("schemas.buckets.upload", flaky)
    run(request_for(shards, model, address))
    assert len(failures) >= 3
    kept = {name.split("/")[1] for name in names_in(address) if "/step-" in name}
    assert kept == {"step-00000003", "step-00000004"}

    monkeypatch.setattr(
        "schemas.buckets.upload", lambda source, path: flaky(source, f"{path} step-00000002")
    )
    with pytest.raises(BucketError, match="503"):
        run(request_for(shards, model, f"{server.root}/runs/never"))
    assert "run.json" not in names_in(f"{server.root}/runs/never"), "it has not begun"


def test_init_from_and_into_a_bucket(server: BucketServer, tmp_path: Path) -> None:
    texts = [template.format(h=fact[0], t=fact[2]) for template, fact in world.sentences()]
    documents, address = write_documents(tmp_path / "documents", texts), f"{server.root}/init"
    send_folder(documents, f"{address}/documents")
    shape = ("--vocab-size", 300, "--layers", 1, "--hidden", 16, "--warmup-steps", 0)
    invoke("init", "--documents", documents, "--out", tmp_path / "model", *shape)
    out = f"{address}/model"
    assert invoke("init", "--documents", f"{address}/documents", "--out", out, *shape)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert set(names_in(out)) == {str(path.relative_to(tmp_path / "model")) for path in files}
    vocabulary = buckets.read(f"{out}/tokenizer.json")
    assert vocabulary == (tmp_path / "model" / "tokenizer.json").read_bytes()
    with pytest.raises(ConfigError, match="holds something already"):
        invoke("init", "--documents", f"{address}/documents", "--out", out, *shape)


def test_the_plan_of_a_run_in_a_bucket(shards: str, model: str, server: BucketServer) -> None:
    words = ("--shards", shards, "--model", model, "--out", f"{server.root}/planned")
    plan = json.loads(invoke("inspect", "plan", *words, "--json"))
    assert plan["available_disk_mb"] > plan["disk_mb"] > 0
    assert not buckets.exists(f"{server.root}/planned")


def test_compare_takes_shards_and_model_from_a_bucket(
    shards: str, model: str, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    local = load_experiment(write_file(tmp_path, shards_path, model_path, TWO_ARMS))
    settings = replace(local.experiment, shards=shards, model=model)
    assert inputs_of(replace(local, experiment=settings)) == inputs_of(local)


def test_the_copies_lie_where_they_are_asked_for(
    finished: str, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the option sets goes with the test.
    monkeypatch.setenv("TRELM_CACHE", str(tmp_path / "elsewhere"))
    words = ("--model", f"{finished}/model", "--shards", shards, "--cache", tmp_path / "here")
    invoke("evaluate", "mlm", *words, "--sentences", 2)
    assert sum(path.is_dir() for path in (tmp_path / "here").iterdir()) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_that_was_taken_over_sends_nothing_more(
    server: BucketServer, shards: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{server.root}/runs/taken"
    steps = []

    def step(*arguments: Any) -> Any:
        steps.append(arguments)
        if len(steps) == 3:
            # As after a network that was away for longer than the lock lasts.
            buckets.write(f"{address}/.lock", b'{"program": "trelm-train", "host": "elsewhere"}')
        return train_step(*arguments)

    monkeypatch.setattr(train, "train_step", step)
    with pytest.raises(LockedError, match="on elsewhere.* writes there"):
        run(request_for(shards, model, address))
    assert BucketRun(address, Path("any")).latest_step() in (1, 2)
    assert "summary.json" not in names_in(address)
    assert json.loads(buckets.read(f"{address}/.lock"))["host"] == "elsewhere"
