"""The sample in a bucket whose server fails now and then: the same rows as in a local folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import requests

from schemas import buckets
from tests.bucket_servers import connected
from tests.fault_proxy import KINDS, drawn, fault_proxy
from tests.pipeline.cases import program, sample_arguments
from tests.pipeline.test_bucket_runs import rows_in

pytestmark = [
    pytest.mark.slow,
    # Of aiohttp, about what gcsfs gives it.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]
ADDRESSES = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
TABLES = ("aliases", "entities", "properties", "triples", "anchors", "documents", "title_redirects")
SHARE = 0.05


@pytest.mark.parametrize(("scheme", "last"), [("s3", "index"), ("gs", "documents")])
def test_failing_requests_change_no_row(
    scheme: str, last: str, sample_run: Path, tmp_path: Path
) -> None:
    with connected(scheme) as server:
        run = f"{server.root}/run"
        faults = drawn(share=SHARE, seed=5)
        with fault_proxy(server.environment[ADDRESSES[scheme]], faults) as proxy:
            environment = {
                ADDRESSES[scheme]: proxy.address,
                "TRELM_CACHE": str(tmp_path / "copies"),
            }
            arguments = ["--config", sample_arguments(Path("any"))[1], "--run", run]
            done = program("run", *arguments, "--until", last, env={**os.environ, **environment})
        assert done.returncode == 0, done.stderr
        failed, passed = proxy.num_failed, proxy.num_passed.total()
        assert set(failed) <= set(KINDS)
        assert failed.total() > SHARE / 2 * passed
        assert not buckets.exists(f"{run}/.lock")
        assert rows_in(run, TABLES) == rows_in(str(sample_run), TABLES)
        # A manifest whose answer was lost is asked for again, and is ours.
        assert buckets.exists(f"{run}/{last}/manifest.json")


def test_an_upload_that_has_ended_answers_again() -> None:
    """As the service does where a client has lost the answer; else it would seem that there is no bucket."""
    with connected("gs") as server:
        address = server.environment["STORAGE_EMULATOR_HOST"]
        start = f"{address}/upload/storage/v1/b/trelm-test/o?uploadType=resumable&name=a/b.parquet"
        session = requests.post(start, json={"name": "a/b.parquet"}, timeout=10).headers["Location"]
        answers = [
            requests.request(
                method, session, data=b"12345", headers={"Content-Range": "bytes 0-4/5"}, timeout=10
            )
            for method in ("PUT", "PUT", "POST")
        ]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert [answer.json()["name"] for answer in answers] == ["a/b.parquet"] * 3
        assert buckets.read(f"{server.root}/a/b.parquet") == b"12345"
