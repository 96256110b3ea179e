"""The sample in a bucket, on servers of this machine: the same rows as in a local folder, also after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.arrays.mapped_files import local_folder
from pipeline.database.connection import open_run
from pipeline.engine import files, finish
from pipeline.engine.errors import StageError
from pipeline.engine.tables import RunPaths
from tests.bucket_servers import BucketServer, connected, missing
from tests.pausing import Pause
from tests.pipeline.cases import GOLD, Row, in_process, kill_at, program, sample_arguments

pytestmark = [
    pytest.mark.slow,
    # Of aiohttp, about what gcsfs gives it.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]

TABLES = (
    "aliases", "anchors", "cooccurrence", "documents", "entities", "entity_frequency", "fact_support", "facts", "links",
    "properties", "redirects", "rejects", "sentences", "surface_frequency", "tail_summary", "title_redirects", "triples",
)  # fmt: skip
# Units of `index` that are done before it is killed.
NUM_DONE = 9


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BucketServer]:
    with connected(request.param) as running, pytest.MonkeyPatch.context() as patch:
        # Copies of what is mapped lie there.
        patch.setenv("TRELM_CACHE", str(tmp_path_factory.mktemp("copies")))
        yield running


@pytest.fixture(scope="module")
def run(server: BucketServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that was killed in `index` and has gone on until `stats`."""
    address = f"{server.root}/run"
    arguments = ["--config", sample_arguments(Path("any"))[1], "--run", address]
    done = in_process("run", *arguments, "--until", "documents")
    assert done.returncode == 0, done.stderr

    place = "pipeline.engine.units:UnitWriter.finish"
    kill_at(
        Pause.at(place, call=NUM_DONE, folder=tmp_path_factory.mktemp("bucket") / "pause"),
        "index",
        *arguments,
    )
    assert files.exists(f"{address}/.lock"), "the killed program could not remove it"
    assert not files.exists(f"{address}/index/manifest.json")

    done = in_process("run", *arguments, "--until", "stats")
    assert done.returncode == 0, done.stderr
    assert f"index: {NUM_DONE} of " in done.stderr
    return address


def rows_in(run: str, tables: tuple[str, ...]) -> dict[str, list[Row]]:
    """All rows of some tables, sorted."""
    with open_run(RunPaths(root=run)) as connection:
        return {
            table: sorted(connection.sql(f'SELECT * FROM "{table}"').fetchall(), key=repr)
            for table in tables
        }


def test_rows_are_those_of_a_local_run(run: str, sample_run: Path) -> None:
    local = rows_in(str(sample_run), TABLES)
    assert sum(map(bool, local.values())) == len(TABLES) - 1, "all but the rejects"
    assert rows_in(run, TABLES) == local


def test_nothing_is_left_beside_what_manifests_list(run: str) -> None:
    assert not files.exists(f"{run}/.lock")
    names = [entry.path.removeprefix(f"{run}/") for entry in files.list_files(f"{run}/**")]
    assert not [name for name in names if "/_tmp/" in name or name.endswith(".tmp")]
    assert not [name for name in names if "/spill/" in name]


def test_an_up_to_date_run_is_skipped_with_few_requests(run: str, server: BucketServer) -> None:
    arguments = ["--config", sample_arguments(Path("any"))[1], "--run", run]
    server.num_requests.clear()
    done = in_process("run", *arguments, "--until", "stats")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date, skipped") == 6
    changing = {"PUT", "POST", "DELETE", "PATCH"} & set(server.num_requests)
    assert not changing, server.num_requests
    assert server.num_requests.total() < 150


def test_the_commands_that_read_a_run(run: str) -> None:
    done = in_process("sql", "--run", run, "SELECT count(*) AS n FROM links", "--format", "csv")
    assert done.stdout.split() == ['"n"', "1133"], done.stderr
    done = in_process("ask", "rarest", "--run", run)
    assert done.returncode == 0, done.stderr
    done = in_process("evaluate", "--run", run, "--gold", str(GOLD), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout), done.stderr
    done = in_process("report", "--run", run)
    assert done.returncode == 0, done.stderr
    assert files.read_bytes(f"{run}/report.html").startswith(b"<!")


def test_kb_update_copies_from_a_bucket(run: str, server: BucketServer) -> None:
    address = f"{server.root}/updated"
    arguments = ["--config", sample_arguments(Path("any"))[1], "--run", address]
    done = in_process("kb", *arguments, "--update", run)
    assert done.returncode == 0, done.stderr
    tables = ("entities", "aliases", "triples")
    assert rows_in(address, tables) == rows_in(run, tables)


def test_a_damaged_object_is_made_again(run: str) -> None:
    arguments = ["--config", sample_arguments(Path("any"))[1], "--run", run]
    part = files.list_files(f"{run}/kb/data-*/entities/*.parquet")[0].path
    content = files.read_bytes(part)
    files.write_bytes(part, content[:-100])
    done = in_process("kb", *arguments)
    assert done.returncode == 0, done.stderr
    assert "kb: runs again" in done.stderr
    assert files.size_of(part) == len(content)


def test_a_manifest_of_another_program_stays(server: BucketServer) -> None:
    path = f"{server.root}/elsewhere/manifest.json"
    assert files.version_of(path) == ""
    assert files.write_if_unchanged(path, b"1", "")
    version = files.version_of(path)
    assert not files.write_if_unchanged(path, b"2", "")
    files.write_bytes(path, b"3")
    assert not files.write_if_unchanged(path, b"4", version)
    assert files.read_bytes(path) == b"3"
    assert files.write_if_unchanged(path, b"5", files.version_of(path))


@pytest.mark.parametrize("whose", ["ours", "another"])
def test_of_two_programs_one_publishes_a_stage(
    run: str, server: BucketServer, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    address = f"{server.root}/published-{whose}"
    path = f"{address}/kb/manifest.json"
    finished = RunPaths(root=run).finished("kb")
    # A runner may end a stage twice: then the manifest that is there already is our own.
    other = finished if whose == "ours" else replace(finished, fingerprint="0123456789abcdef")
    content = other.to_json().encode()
    monkeypatch.setattr(finish, "check_counters", lambda *_: files.write_bytes(path, content))

    done = in_process("kb", "--config", sample_arguments(Path("any"))[1], "--run", address)
    assert files.read_bytes(path) == content
    if whose == "ours":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert f"{path}: another program has written it while this one was at work" in done.stderr


def test_a_copy_is_made_once_and_never_of_an_older_state(server: BucketServer) -> None:
    folder = f"{server.root}/mapped"
    files.write_bytes(f"{folder}/a", b"1")
    first = local_folder(folder)
    assert local_folder(folder) == first
    files.write_bytes(f"{folder}/b", b"2")
    second = local_folder(folder)
    assert sorted(path.name for path in Path(second).iterdir()) == ["a", "b"]
    assert [path.name for path in Path(first).iterdir()] == ["a"], "somebody may have it mapped"


TRAINERS = b"[train]\nsteps = 1  # Steps of the optimiser.\n"


@pytest.mark.parametrize(
    ("name", "content", "holds"),
    [
        ("run.json", b"{}", "a run of trelm-train"),
        # A trainer that was killed as it laid its run out.
        ("config.toml", TRAINERS, "a run of trelm-train"),
        ("checkpoints/step-00000001/state.json", b"{}", "a run of trelm-train"),
        ("model.safetensors", b"", "a model"),
        ("config.json", b'{"model_type": "bert"}', "a model"),
    ],
    ids=["run", "settings", "checkpoint", "weights", "model"],
)
def test_what_another_program_has_written_is_left_alone(
    server: BucketServer, name: str, content: bytes, holds: str
) -> None:
    address = f"{server.root}/foreign/{name.replace('/', '-')}"
    files.write_bytes(f"{address}/{name}", content)
    done = in_process("kb", "--config", sample_arguments(Path("any"))[1], "--run", address)
    assert done.returncode == 2, done.stderr
    assert f"holds {holds}, which must not be mixed with a run of trelm-pipeline" in done.stderr
    found = [entry.path for entry in files.list_files(f"{address}/**")]
    assert found == [f"{address}/{name}"]
    assert files.read_bytes(found[0]) == content


def test_a_bucket_that_is_not_there_is_named(server: BucketServer) -> None:
    address = f"{server.scheme}://trelm-absent/run"
    done = in_process("kb", "--config", sample_arguments(Path("any"))[1], "--run", address)
    assert done.returncode == 1
    assert f"there is no bucket {server.scheme}://trelm-absent; create it" in done.stderr
    with pytest.raises(StageError, match="no such file"):
        files.size_of(f"{server.root}/absent")


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = missing("s3")
    if reason:
        pytest.skip(reason)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # No server is asked: the client finds none to use.
    environment = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null"}
    environment["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
    done = program("sql", "--run", "s3://trelm-test/run", "SELECT 1", env=environment)
    assert done.returncode == 1
    assert "no valid credentials for s3://trelm-test" in done.stderr
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    assert "Traceback" not in done.stderr
