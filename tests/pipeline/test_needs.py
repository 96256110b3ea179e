"""What a run will roughly need of disk and memory, said and compared before its first stage."""

from __future__ import annotations

import bz2
import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import flow, needs
from pipeline.config import RunConfig, load_config
from pipeline.engine.beam_runner import RunnerSettings
from pipeline.needs import SHARES, Needs, check_needs, needs_of, suited_workers
from schemas.errors import ConfigError
from tests.pipeline import tiny_model
from tests.pipeline.cases import in_process, sample_arguments

HERE = RunnerSettings()


def config_of(tmp_path: Path, *sets: str) -> RunConfig:
    """Dumps of 1,000 bytes and 100 bytes as gz, a corpus of 500 bytes and 100 bytes as bz2."""
    (tmp_path / "d.json").write_bytes(b"x" * 1000)
    (tmp_path / "d.json.gz").write_bytes(b"x" * 100)
    (tmp_path / "c.txt").write_bytes(b"x" * 500)
    (tmp_path / "c.xml.bz2").write_bytes(b"x" * 100)
    dumps, texts = (
        [str(tmp_path / name) for name in names]
        for names in (("d.json", "d.json.gz"), ("c.txt", "c.xml.bz2"))
    )
    return load_config(
        "", (f"kb.dumps={dumps}", f"documents.inputs={texts}", f"run={tmp_path / 'run'}", *sets)
    )


def test_every_stage_has_its_share() -> None:
    assert tuple(SHARES) == flow.STAGE_NAMES


def test_disk_follows_what_the_files_decode_to(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert needs_of(config, ["kb"], HERE).disk == pytest.approx(
        SHARES["kb"].of_dumps * (1000 + 800)
    )
    assert needs_of(config, ["link"], HERE).disk == pytest.approx(
        SHARES["link"].of_corpus * (500 + 360)
    )
    both = needs_of(config, ["kb", "link"], HERE)
    assert both.disk == sum(needs_of(config, [name], HERE).disk for name in ("kb", "link"))
    assert both.stages == ("kb", "link")


@pytest.mark.parametrize(("kind", "module"), [("gz", gzip), ("bz2", bz2)])
def test_what_the_kinds_of_compression_save(tmp_path: Path, kind: str, module) -> None:
    """The figures are of the order of the sample's own."""
    from tests.pipeline.cases import SAMPLE

    dump = (SAMPLE / "entities.json").read_bytes()
    of_dump, _ = needs.DECODED[kind]
    assert len(dump) / len(module.compress(dump)) == pytest.approx(of_dump, rel=0.5)


def test_memory_is_that_of_the_largest_stage_and_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, "stats.memory_gb=5")
    assert needs_of(config, ["kb", "link"], HERE).memory == SHARES["link"].memory_gb * 1e9
    assert needs_of(config, ["link", "stats"], HERE).memory == pytest.approx(5.4e9)
    two, all_cores = RunnerSettings(workers=2), RunnerSettings(workers=0)
    assert needs_of(config, ["link"], two).memory == 2 * SHARES["link"].memory_gb * 1e9
    monkeypatch.setattr(needs, "usable_cores", lambda: 7)
    assert needs_of(config, ["link"], all_cores).memory == pytest.approx(
        7 * SHARES["link"].memory_gb * 1e9
    )
    model = tiny_model.make(tmp_path / "model")
    with_model = config_of(tmp_path, f"importance.model={model}")
    weights = (model / "model.safetensors").stat().st_size
    assert needs_of(with_model, ["importance"], HERE).memory == pytest.approx(
        needs_of(config, ["importance"], HERE).memory + 2 * weights
    )


def test_little_work_gets_one_worker(tmp_path: Path) -> None:
    """Only where the number is left to the program, on this machine."""
    config = config_of(tmp_path)
    open_number = RunnerSettings(workers=0)
    for stage in flow.STAGE_NAMES:
        assert suited_workers(stage, config, open_number).workers == 1
    for settings in (RunnerSettings(workers=3), RunnerSettings(workers=0, runner="DataflowRunner")):
        assert suited_workers("link", config, settings) == settings

    # A sparse file: 40 MB of text, 2.4 GB of JSON.
    with (tmp_path / "c.txt").open("r+b") as file:
        file.truncate(40_000_000)
    needing = {
        stage
        for stage in flow.STAGE_NAMES
        if suited_workers(stage, config, open_number).workers == 0
    }
    assert needing == {"documents", "link", "importance", "shards"}
    with (tmp_path / "d.json").open("r+b") as file:
        file.truncate(2_400_000_000)
    assert suited_workers("kb", config, open_number).workers == 0
    assert suited_workers("index", config, open_number).workers == 1


ENOUGH = Needs(stages=("kb", "link"), disk=3e9, free_disk=4e9, memory=2e9, free_memory=5e8 * 8)


@pytest.mark.parametrize(
    ("changed", "error", "warning"),
    [
        ({}, "", ""),
        ({"free_disk": 2e9}, "", "the disk may become full"),
        ({"free_disk": 1e9}, "3.0 GB of disk .1.0 GB are free.*another --run folder", ""),
        ({"free_memory": 1.5e9}, "", "the memory may not suffice; lower --workers"),
        ({"free_memory": 5e8}, "2.0 GB of memory .500 MB are free.*lower --workers", ""),
    ],
)  # fmt: skip
def test_too_little_is_said_and_far_too_little_refused(
    caplog: pytest.LogCaptureFixture, changed: dict[str, float], error: str, warning: str
) -> None:
    caplog.set_level("INFO", "trelm")
    if error:
        with pytest.raises(ConfigError, match=error + ".*check_needs=false"):
            check_needs(replace(ENOUGH, **changed), "r")
    else:
        check_needs(replace(ENOUGH, **changed), "r")
    assert "kb, link: need roughly 3.0 GB of disk" in caplog.text
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [warning in text for text in warnings] == ([True] if warning else [])


@pytest.mark.parametrize("flags", [(), ("--plan",)])
def test_a_run_says_it_and_refuses_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    run = tmp_path / "a" / "run"
    arguments = sample_arguments(
        run, "--until", "titles", "--set", "importance.model=bert-base-uncased", *flags
    )
    monkeypatch.setattr(needs, "free_memory", lambda: 1e6)
    done = in_process("run", *arguments)
    assert (done.returncode, run.parent.exists()) == (2, False)
    assert "kb, titles: need roughly" in done.stderr
    assert "1 MB are free); lower --workers" in done.stderr

    monkeypatch.setattr(needs, "free_memory", lambda: 1e12)
    monkeypatch.setattr(needs, "free_disk", lambda _: 0)
    done = in_process("run", *arguments)
    assert (done.returncode, run.parent.exists()) == (2, False)
    assert "0 MB are free" in done.stderr
    done = in_process("run", *arguments, "--set", "check_needs=false")
    assert done.returncode == 0, done.stderr
    assert "kb, titles: need roughly" in done.stderr
    assert run.exists() == (not flags)


def test_what_is_up_to_date_needs_nothing(
    sample_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(sample_run, tmp_path / "run"))
    monkeypatch.setattr(needs, "free_disk", lambda _: 0)
    done = in_process("run", *sample_arguments(run, "--until", "stats"))
    assert done.returncode == 0, done.stderr
    assert "need roughly" not in done.stderr
    done = in_process(
        "run", *sample_arguments(run, "--until", "stats", "--set", "stats.num_buckets=3")
    )
    assert done.returncode == 2
    assert "stats: need roughly" in done.stderr
