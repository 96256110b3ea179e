"""Progress: its words, the two ways it travels, one reader that moves, metrics on any runner."""

from __future__ import annotations

import gzip
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest

from pipeline.config import KbConfig, RunConfig
from pipeline.engine import progress
from pipeline.engine.beam_runner import RunnerSettings, beam_options
from pipeline.engine.graph import build_graph
from pipeline.engine.progress import MetricsPoller, ProgressReceiver, ProgressSender, counts_in
from pipeline.engine.progress_text import Workload, duration, final_line, note, progress_line
from pipeline.engine.stage import prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.tasks import ByteRange, Unit
from pipeline.engine.units import UnitWriter
from pipeline.kb.stage import KbWorker, plan
from pipeline.run_stage import run_stage
from tests.conftest import SAMPLE
from tests.pausing import wait_until

DUMP = Workload(stage="kb", total=36_000_000_000, num_units=1_120, measure="bytes", noun="entities")


@pytest.mark.parametrize(
    ("work", "counts", "elapsed_s", "wanted"),
    [
        (DUMP, {}, 3.0, "kb: 0 %, 0.0 of 36.0 GB, 0 of 1,120 units, 0.0 entities/s, 0 rejects, starting"),
        (
            DUMP, {"done": 12_300_000_000, "units": 380, "records": 40_000_000, "rejects": 2}, 3_600.0,
            "kb: 34 %, 12.3 of 36.0 GB, 380 of 1,120 units, 11,111 entities/s, 2 rejects, about 1 h 56 min left",
        ),
        (  # a retried unit counts twice: never over the whole
            DUMP, {"done": 37_000_000_000, "units": 1_121, "records": 1, "rejects": 1}, 10.0,
            "kb: 100 %, 36.0 of 36.0 GB, 1,120 of 1,120 units, 0.1 entities/s, 1 reject, about 0 s left",
        ),
        (
            Workload(stage="link", total=9_000, num_units=3, noun="documents"), {"done": 1_500, "records": 1_500}, 40.0,
            "link: 17 %, 1,500 of 9,000 rows, 0 of 3 units, 38 documents/s, 0 rejects, about 3 min left",
        ),
        (  # text files and byte ranges in one corpus have no common measure
            Workload(stage="documents", total=4, num_units=2, measure="", noun="documents"), {"done": 1}, 1.0,
            "documents: 25 %, 0 of 2 units, 0.0 documents/s, 0 rejects, about 3 s left",
        ),
        (
            Workload(stage="kb", total=900, num_units=1, measure="bytes"), {"done": 450}, 1.0,
            "kb: 50 %, 450 of 900 bytes, 0 of 1 units, 0.0 rows/s, 0 rejects, about 1 s left",
        ),
        (
            Workload(stage="kb", total=0, num_units=0), {}, 1.0,
            "kb: 0 %, 0 of 0 rows, 0 of 0 units, 0.0 rows/s, 0 rejects, starting",
        ),
    ],
)  # fmt: skip
def test_line(work: Workload, counts: dict[str, int], elapsed_s: float, wanted: str) -> None:
    assert progress_line(work, counts, elapsed_s) == wanted
    assert note(work, counts, elapsed_s) in wanted, "a bar and a line say the same"


def test_last_line() -> None:
    counts = {"done": 36_000_000_000, "records": 118_000_000, "rejects": 1_002}
    wanted = "kb: 36.0 GB, 118,000,000 entities in 2 h 05 min (15,733 entities/s), 1,002 rejects"
    assert final_line(DUMP, counts, 7_500.0) == wanted
    assert final_line(Workload(stage="link", total=3, num_units=1), {"records": 3}, 2.0) == (
        "link: 3 rows in 2 s (1.5 rows/s), 0 rejects"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5_300, "88 min"), (5_400, "1 h 30 min"), (7_170, "2 h 00 min"),
     (200_000, "2 d 8 h")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_datagrams_arrive_as_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.05)
    work = Workload(stage="kb", total=100, num_units=2, measure="bytes", noun="entities")
    with caplog.at_level(logging.INFO, "trelm"), ProgressReceiver(work) as receiver:
        for _ in range(2):
            sender = ProgressSender(receiver.address)
            sender.send(done=20, records=3, rejects=0)
            sender.send(units=1, records=1, rejects=1)
        wait_until(lambda: any("40 of 100 bytes, 2 of 2 units" in line for line in caplog.messages))
    assert any("2 rejects" in line for line in caplog.messages)


class FakeResult:
    """A job elsewhere: a number of answers, then an error, then answers again; keeps an answer, as
    Beam's own does.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._metrics: FakeResult | None = None

    def metrics(self) -> FakeResult:
        if self._metrics is None:
            self._metrics = self._ask()
        return self._metrics

    def _ask(self) -> FakeResult:
        self.asked += 1
        if self.asked == 3:
            raise ConnectionError("the service is busy")
        return self

    def query(self, wanted: Any) -> dict[str, list[Any]]:
        assert wanted.namespaces == {"trelm"}
        counted = {
            "done": 10 * self.asked,
            "units": self.asked,
            "records": 5 * self.asked,
            "rejects": 0,
        }
        return {
            "counters": [
                SimpleNamespace(
                    key=SimpleNamespace(metric=SimpleNamespace(name=name), step=step), result=count
                )
                for name, count in counted.items()
                for step in ("Process kb", "Prepare kb")
            ]
        }


def test_poller_logs_what_the_runner_counts(caplog: pytest.LogCaptureFixture) -> None:
    work = Workload(stage="kb", total=900, num_units=100, measure="bytes", noun="entities")
    result = FakeResult()
    with (
        caplog.at_level(logging.INFO, "trelm"),
        MetricsPoller(result, work, every_s=0.01) as poller,
    ):
        wait_until(lambda: result.asked >= 6)
    assert caplog.messages[0].startswith("kb: 2 %, 20 of 900 bytes, 2 of 100 units"), (
        "summed over steps"
    )
    assert caplog.messages[1].startswith("kb: 4 %, 40 of 900 bytes")
    assert caplog.messages[2].startswith("kb: 9 %, 80 of 900 bytes"), (
        "one question without an answer ends nothing"
    )
    assert not poller._thread.is_alive(), "it stops with the job"


def test_poller_does_not_wait_for_its_turn() -> None:
    """If it did, the time limit of every test would end this one."""
    with MetricsPoller(FakeResult(), DUMP, every_s=600) as poller:
        pass
    assert not poller._thread.is_alive()


def test_metrics_of_a_run(tmp_path: Path) -> None:
    """The runner reports what the workers count: the same as the manifest says."""
    dump = tmp_path / "d.json"
    dump.write_bytes((SAMPLE / "entities.json").read_bytes() + b'{"id": 7}\n')
    paths = RunPaths(root=str(tmp_path / "run"))
    prepared = prepare(plan(KbConfig(dumps=(str(dump),), unit_mb=0.02), paths), paths)
    assert len(prepared.pending) > 3
    pipeline = beam.Pipeline(options=beam_options(RunnerSettings()))
    build_graph(pipeline, prepared)
    result = pipeline.run()
    result.wait_until_finish()
    counters = paths.require("kb").counters
    assert counters["rejects"] == 1
    assert counts_in(result) == Counter(
        done=dump.stat().st_size,
        records=counters["rows_in"],
        rejects=1,
        units=len(prepared.pending),
    )


def test_last_line_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = RunConfig(
        run=str(tmp_path / "run"), kb=KbConfig(dumps=(str(SAMPLE / "entities.json"),))
    )
    with caplog.at_level(logging.INFO, "trelm"):
        assert run_stage("kb", config, RunnerSettings())
    records = RunPaths(root=config.run).require("kb").counters["rows_in"]
    size = (SAMPLE / "entities.json").stat().st_size / 1000
    assert any(
        line.startswith(f"kb: {size:.1f} kB, {records} entities in ") for line in caplog.messages
    )


class ToldWriter(UnitWriter):
    """Remembers what it tells of its progress."""

    def __init__(self, unit: Unit) -> None:
        super().__init__("", "kb", unit)
        self.reported: list[tuple[int, int]] = []

    def advance(self, amount: int) -> None:
        super().advance(amount)
        self.reported.append((amount, self.counters["rows_in"]))

    def write(self, *_: object) -> None:
        """Rows do not matter here."""


def test_one_reader_moves_on(tmp_path: Path) -> None:
    """A gz of one member: bytes and entities go up all along, and come to the end."""
    lines = [
        b'{"id":"Q%d","junk":"%s"}\n' % (number, b"%d" % number**200) for number in range(12_000)
    ]
    path = tmp_path / "one.json.gz"
    path.write_bytes(gzip.compress(b"".join(lines), 1))
    unit = Unit(index=0, of=1, task=ByteRange(path=str(path), start=0, end=path.stat().st_size))
    out = ToldWriter(unit)
    KbWorker(config=KbConfig(), page_dumps={}).process(unit, out)
    amounts, records = zip(*out.reported, strict=True)
    assert sum(amounts) == unit.size
    assert min(amounts) > 0
    assert max(amounts) < unit.size / 4
    assert list(records) == sorted(records)
    assert records[0] < 3000, "the first step comes early"
