"""kill -9 at random places, again and again, then a run to the end: the same rows, and nothing half written is left.

A place is a call of the program, before or after it, so the tests do not depend on how fast anything is. TRELM_KILLS is
the number of kills (default 2); `--log-cli-level=INFO` shows where each one hit.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.tables import RunPaths
from tests.pausing import PATIENCE_S, Pause, wait_until
from tests.pipeline.cases import ROOT, kill_at, program, rows_of

pytestmark = pytest.mark.slow

NUM_KILLS = int(os.environ.get("TRELM_KILLS", "2"))
NUM_ENTITIES = 3_000
UNIT_BYTES = 600
# Where a unit can be killed: its rows are written, a part has its name, the report is written.
PLACES = (
    ("pipeline.engine.units:UnitWriter.finish", False),
    ("pipeline.engine.files:rename", True),
    ("pipeline.engine.files:write_stream", False),
    ("pipeline.engine.units:UnitWriter.finish", True),
)
TABLES = ("entities", "aliases", "properties", "triples", "statements", "rejects")
logger = logging.getLogger("trelm.tests")


def entity(number: int) -> bytes:
    """A line with a row in every table; one in 250 is a reject."""
    if number % 250 == 0:
        return b'{"id": %d},\n' % number
    target = {
        "type": "wikibase-entityid",
        "value": {"id": f"Q{number % 97 + 1}", "entity-type": "item"},
    }
    text = {"type": "string", "value": f"string {number * 7919}"}
    snaks = {
        "P31": {"snaktype": "value", "datavalue": target},
        "P1": {"snaktype": "value", "datavalue": text},
    }
    return json.dumps(
        {
            "type": "item",
            "id": f"{'P' if number % 50 == 1 else 'Q'}{number}",
            "labels": {"en": {"language": "en", "value": f"label {number}"}},
            "claims": {pid: [{"mainsnak": snak, "rank": "normal"}] for pid, snak in snaks.items()},
        }
    ).encode() + b",\n"  # fmt: skip


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 units of gz members."""
    lines = [entity(number) for number in range(NUM_ENTITIES)]
    path = tmp_path_factory.mktemp("kills") / "dump.json.gz"
    members = [
        gzip.compress(b"".join(lines[at : at + 30]), mtime=0) for at in range(0, len(lines), 30)
    ]
    path.write_bytes(
        gzip.compress(b"[\n", mtime=0) + b"".join(members) + gzip.compress(b"]\n", mtime=0)
    )
    return path


def arguments(run: Path, dump: Path, workers: int) -> list[str]:
    """Of a run of `kb` in small units."""
    settings = ["kb.statements=true", f"kb.unit_mb={UNIT_BYTES / 2**20}"]
    flags = [word for setting in settings for word in ("--set", setting)]
    return ["kb", "--run", str(run), "--dump", str(dump), "--workers", str(workers), *flags]


@pytest.fixture(scope="module")
def undisturbed(dump: Path) -> Path:
    """The run that nothing stopped."""
    run = dump.parent / "undisturbed"
    done = program(*arguments(run, dump, 1))
    assert done.returncode == 0, done.stderr
    return run


def num_done(run: Path) -> int:
    """Units that are finished."""
    return len(list(run.glob("kb/data-*/_units/*.json")))


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("workers", "kills"), [(1, NUM_KILLS), (2, max(NUM_KILLS // 2, 1))])
def test_same_rows_after_kills(
    tmp_path: Path, dump: Path, undisturbed: Path, workers: int, kills: int
) -> None:
    run, random_ = tmp_path / "run", random.Random(workers)
    words = arguments(run, dump, workers)
    of = num_done(undisturbed)
    assert of > 90
    done: list[int] = []
    for number in range(kills):
        target, after = random_.choice(PLACES)
        call = random_.randrange(5, 40)
        folder = tmp_path / f"pause-{number}"
        pause = Pause.at(target, call=call, folder=folder, after=after)
        kill_at(pause, *words)
        done.append(num_done(run))
        assert not (run / "kb" / "manifest.json").exists(), "a stage that was killed has no output"
    logger.info("%d workers: killed at %s of %d units", workers, done, of)
    assert done == sorted(done)
    assert done[-1] < of
    finished = program(*words)
    assert finished.returncode == 0, finished.stderr
    assert f"{done[-1]} of {of} units were done before" in finished.stderr
    for table in TABLES:
        rows = rows_of(run, table)
        assert rows, table
        assert rows == rows_of(undisturbed, table), table
    manifest = RunPaths(root=str(run)).require("kb")
    assert manifest.counters == RunPaths(root=str(undisturbed)).require("kb").counters
    listed = {part.path for table in manifest.tables.values() for part in table.files}
    units = {
        path for path in files_below(run / "kb") if "/_units/" in path and path.endswith(".json")
    }
    assert files_below(run / "kb") == listed | units | {"manifest.json"}, (
        "no temporary file is left"
    )
    assert len(units) == of
    # The time of units that earlier calls did counts too.
    seconds = [json.loads((run / "kb" / path).read_text())["seconds"] for path in units]
    assert manifest.seconds == pytest.approx(sum(seconds), abs=0.01)
    # A short unit may round to 0; hundreds of them do not.
    assert manifest.seconds > 0


def is_gone(group: int) -> bool:
    """Whether a process group has ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_worker_outlives_the_program(
    tmp_path: Path, dump: Path, undisturbed: Path, number: signal.Signals, code: int
) -> None:
    """The signal goes to the program alone, as from a scheduler; its two workers must end with it."""
    run = tmp_path / "run"
    pause = Pause.at(PLACES[-1][0], call=20, folder=tmp_path / "pause")
    running = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *arguments(run, dump, 2)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=pause.environment(),
        # A job that a shell starts in the background ignores SIGINT, and hands that on to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        pause.wait(running)
        running.send_signal(number)
        assert running.wait(PATIENCE_S) == code
        wait_until(lambda: is_gone(running.pid))
        done = num_done(run)
        assert 0 < done < num_done(undisturbed)
        assert not (run / "kb" / "manifest.json").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
