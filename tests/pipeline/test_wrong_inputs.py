"""Wrong inputs: each gives one clear message (what, where, what to do), the right exit code, and
nothing half written.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.engine.errors import StageError
from pipeline.engine.files import HashingSink
from schemas import DOCUMENTS
from tests.manifests import list_again
from tests.pausing import Pause
from tests.pipeline.cases import ROOT, SAMPLE, in_process, kill_at, program

USAGE, FAILED = 2, 1
DUMP = SAMPLE / "entities.json"


def kb(run: Path, dump: Path, *more: str):
    return in_process("kb", "--run", str(run), "--dump", str(dump), *more)


def expect(done, code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


def test_missing_file(tmp_path: Path) -> None:
    expect(
        kb(tmp_path / "r", tmp_path / "none.json"),
        FAILED,
        "none.json",
        "no such file",
        "check the path",
    )


def test_truncated_gz(tmp_path: Path) -> None:
    whole = gzip.compress(DUMP.read_bytes())
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    expect(kb(tmp_path / "r", tmp_path / "cut.json.gz"), FAILED, "cut.json.gz", "truncated")
    assert not (tmp_path / "r" / "kb" / "manifest.json").exists()
    assert not list((tmp_path / "r").rglob("*.parquet"))


def test_dump_that_is_html(tmp_path: Path) -> None:
    (tmp_path / "latest.json").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    expect(kb(tmp_path / "r", tmp_path / "latest.json"), FAILED, "latest.json", "HTML")


def test_unknown_configuration_key(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[link]\nspacy_modle = "x"\n')
    done = in_process("link", "--run", str(tmp_path / "r"), "--config", str(tmp_path / "c.toml"))
    expect(done, USAGE, "c.toml", "'spacy_modle'", "did you mean 'spacy_model'")


def test_unknown_flag(tmp_path: Path) -> None:
    """Beam alone would warn, and run the job locally."""
    done = in_process(
        "kb", "--run", str(tmp_path / "r"), "--dump", str(DUMP), "--runer=DataflowRunner"
    )
    expect(done, USAGE, "'--runer'", "did you mean --runner")
    assert not (tmp_path / "r").exists()


def test_unknown_spacy_pipeline(sample_run: Path) -> None:
    done = in_process("link", "--run", str(sample_run), "--spacy-model", "en_core_web_xx")
    expect(done, FAILED, "'en_core_web_xx' is not installed", "blank:en")


def test_model_that_is_no_masked_language_model(sample_run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(
        json.dumps({"architectures": ["GPT2LMHeadModel"]})
    )
    done = in_process("importance", "--run", str(sample_run), "--model", str(tmp_path / "model"))
    expect(done, FAILED, "GPT2LMHeadModel", "no masked language model")
    expect(
        in_process("importance", "--run", str(sample_run), "--model", "./nowhere"),
        FAILED,
        "no such model folder",
    )


def test_empty_corpus(sample_run: Path, tmp_path: Path) -> None:
    shutil.copytree(sample_run / "kb", tmp_path / "r" / "kb")
    (tmp_path / "empty.jsonl").write_text("")
    done = in_process(
        "documents", "--run", str(tmp_path / "r"), "--input", str(tmp_path / "empty.jsonl")
    )
    expect(done, FAILED, "empty")
    assert not (tmp_path / "r" / "documents" / "manifest.json").exists()


def test_read_only_output(tmp_path: Path) -> None:
    """The run's folder would lie inside a file: not even root can write there."""
    (tmp_path / "file").write_text("")
    expect(
        kb(tmp_path / "file" / "run", DUMP),
        FAILED,
        "cannot be written",
        "choose another --run folder",
    )


LONG = "n" * 300


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (LONG, "a name in it is too long"),
        ("file", "file is no folder"),
        ("file/a/b", "file is no folder"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["run", "--plan", "--config", str(SAMPLE / "pipeline.toml")],
        ["run", "--until", "kb", "--config", str(SAMPLE / "pipeline.toml")],
        ["kb", "--dump", str(DUMP)],
        ["stats"],
        ["sql", "SELECT 1"],
        ["report"],
    ],
    ids=" ".join,
)
def test_what_can_be_no_folder_of_a_run(
    tmp_path: Path, place: str, problem: str, command: list[str]
) -> None:
    """A bare "File name too long" named neither the option nor what to do."""
    (tmp_path / "file").write_text("")
    done = in_process(command[0], "--run", str(tmp_path / place), *command[1:])
    expect(done, FAILED, place, problem, "choose another --run folder")
    assert "Errno" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("key", ["documents.inputs", "kb.dumps", "kb.redirects"])
def test_empty_paths(tmp_path: Path, key: str) -> None:
    """An unset variable of the shell leaves one."""
    section, name = key.split(".")
    command = "documents" if section == "documents" else "kb"
    done = in_process(command, "--run", str(tmp_path / "r"), "--set", f'{key}=[""]')
    expect(done, USAGE, section, f"{name} holds an empty path", "leave it out")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_full_disk(tmp_path: Path) -> None:
    """A part file that cannot grow: /dev/full answers as a full disk does."""
    (tmp_path / "part.parquet").symlink_to("/dev/full")
    sink = HashingSink(str(tmp_path / "part.parquet"))
    with pytest.raises(StageError, match="No space left on device.*free space"):
        sink.write(b"x" * 10_000_000)
    sink.abandon()
    assert not (tmp_path / "part.parquet").is_symlink()


@pytest.mark.slow
def test_output_that_cannot_grow(tmp_path: Path) -> None:
    """The whole stage where files may have 2 kB: the message names the file, and no part is left."""
    resource = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    command = f"from pipeline.cli import main; main(['kb', '--run', {str(tmp_path / 'r')!r}, '--dump', {str(DUMP)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", resource + limit + command],
        check=False,
        text=True,
        capture_output=True,
        cwd=ROOT,
    )
    expect(done, FAILED, "cannot be written", "File too large", "free space")
    assert not list((tmp_path / "r").rglob("*.parquet"))


def test_wrong_table(sample_run: Path, tmp_path: Path) -> None:
    """A links file where documents should be."""
    run = tmp_path / "r"
    shutil.copytree(sample_run, run)
    target = next((run / "documents").glob("data-*/documents/*.parquet"))
    shutil.copy(next((run / "link").glob("data-*/links/*.parquet")), target)
    list_again(run / "documents")
    done = in_process("link", "--run", str(run), "--redo")
    expect(done, FAILED, "holds table 'links', but 'documents' was expected", target.name)


def test_older_version_of_a_table(sample_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(sample_run, run)
    target = next((run / "documents").glob("data-*/documents/*.parquet"))
    rows = pq.read_table(target)
    pq.write_table(
        rows.replace_schema_metadata({**DOCUMENTS.schema.metadata, b"trelm.version": b"99"}), target
    )
    list_again(run / "documents")
    expect(
        in_process("link", "--run", str(run), "--redo"),
        FAILED,
        "has version 99",
        "run the stage that writes it again",
    )


def test_stage_before_its_time(tmp_path: Path) -> None:
    done = in_process("link", "--run", str(tmp_path))
    expect(
        done, FAILED, "stage 'documents' has not finished here", "trelm-pipeline documents --run"
    )


def test_no_run_folder() -> None:
    expect(in_process("stats"), USAGE, "give --run FOLDER")


def test_a_wrong_query(sample_run: Path) -> None:
    expect(
        in_process("sql", "--run", str(sample_run), "SELECT nothing FROM nowhere"),
        FAILED,
        "nowhere",
    )
    expect(
        in_process("sql", "--run", str(sample_run), "--format", "xml", "SELECT 1"),
        USAGE,
        "one of table, csv",
    )


def test_gold_that_does_not_fit(sample_run: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text('{"doc_id": "nowhere", "text": "a", "mentions": []}\n')
    expect(
        in_process("evaluate", "--run", str(sample_run), "--gold", str(gold)),
        FAILED,
        "not in the run",
    )
    gold.write_text(
        '{"doc_id": "1", "text": "ab", "mentions": [{"start": 1, "end": 9, "qid": "Q1"}]}\n'
    )
    expect(
        in_process("evaluate", "--run", str(sample_run), "--gold", str(gold)),
        FAILED,
        "gold.jsonl:1",
        "outside the text",
    )
    twice = {
        "doc_id": "1",
        "text": "ab",
        "mentions": [{"start": 0, "end": 1, "qid": "Q1"}, {"start": 0, "end": 1, "qid": "Q2"}],
    }
    gold.write_text(json.dumps(twice) + "\n")
    expect(
        in_process("evaluate", "--run", str(sample_run), "--gold", str(gold)),
        FAILED,
        "0–1 has two items, Q1 and Q2",
    )
    gold.write_text('{"doc_id": "1", "text": 5, "mentions": []}\n')
    expect(
        in_process("evaluate", "--run", str(sample_run), "--gold", str(gold)),
        FAILED,
        "text is not a string",
    )
    gold.write_text("{}\n")
    expect(
        in_process("evaluate", "--run", str(sample_run), "--gold", str(gold)),
        FAILED,
        "not a gold document",
    )


@pytest.mark.slow
def test_too_many_rejects_fail_the_stage(tmp_path: Path) -> None:
    lines = DUMP.read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.json").write_bytes(b"".join(lines[:20]) + b'{"id": "Q1", broken\n' * 5)
    expect(kb(tmp_path / "r", tmp_path / "bad.json"), FAILED, "were rejected", "max_reject_rate")
    kept = kb(tmp_path / "r", tmp_path / "bad.json", "--set", "max_reject_rate=0.5")
    assert kept.returncode == 0, kept.stderr
    listed = in_process(
        "sql", "--run", str(tmp_path / "r"), "--format", "json", "SELECT stage, reason FROM rejects"
    )
    assert len(listed.stdout.splitlines()) == 5


def test_output_made_from_another_input_is_refused(sample_run: Path, tmp_path: Path) -> None:
    """Offsets of links would point into other texts."""
    run = tmp_path / "r"
    shutil.copytree(sample_run, run)
    lines = (SAMPLE / "documents.jsonl").read_text().replace("France", "the French Republic")
    (tmp_path / "documents.jsonl").write_text(lines)
    assert (
        in_process(
            "documents", "--run", str(run), "--input", str(tmp_path / "documents.jsonl")
        ).returncode
        == 0
    )
    expect(
        in_process("stats", "--run", str(run)),
        FAILED,
        "'link' was made from another output of 'documents'",
    )


@pytest.mark.slow
def test_killed_redo_leaves_no_stage_that_seems_finished(sample_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(sample_run, run)
    arguments = ["--run", str(run), "--config", str(SAMPLE / "pipeline.toml")]
    # The manifest goes first: the pause comes right after it has gone, before the data have.
    pause = Pause.at("pipeline.engine.files:remove", call=1, folder=tmp_path / "pause")
    kill_at(pause, "link", *arguments, "--redo")
    assert not (run / "link" / "manifest.json").exists()
    done = program("run", *arguments, "--until", "stats")
    assert done.returncode == 0, done.stderr
    assert "link: up to date" not in done.stderr


# Beam's own pattern of a path with brackets.
@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@pytest.mark.parametrize("name", ["corpus [1].jsonl", "what?.jsonl", "it's.jsonl"])
def test_names_are_taken_literally(sample_run: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(sample_run / "kb", tmp_path / "r" / "kb")
    (tmp_path / name).write_text('{"id": 1, "text": "Paris"}\n')
    done = in_process("documents", "--run", str(tmp_path / "r"), "--input", str(tmp_path / name))
    assert done.returncode == 0, done.stderr
    expect(
        in_process("kb", "--run", str(tmp_path / "r[1]"), "--dump", str(DUMP)),
        USAGE,
        "may not have any of",
    )


@pytest.mark.parametrize(
    "setting",
    ["index.num_shards=-1", "stats.num_buckets=-1", "kb.unit_mb=-1", "kb.unit_mb=nan", "importance.device=foo",
     "importance.max_tokens=1", "link.unit_mb=nan", "shards.max_triples=-1", "index.max_candidates=0"],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path: Path, setting: str) -> None:
    expect(
        in_process("run", "--run", str(tmp_path / "r"), "--set", setting),
        USAGE,
        setting.partition("=")[0].split(".")[1],
    )
    assert not (tmp_path / "r").exists()


def test_folders(tmp_path: Path, sample_run: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    expect(kb(tmp_path / "r", tmp_path / "in"), FAILED, "a folder without files")
    expect(in_process("sql", "--run", str(tmp_path), "SELECT 1"), FAILED, "holds no finished stage")
    expect(in_process("kb", "--run", str(tmp_path / "r"), "--workers", "-1"), USAGE, "--workers -1")


@pytest.mark.slow
def test_skip_corrupt_loses_one_member_and_says_so(tmp_path: Path) -> None:
    lines = DUMP.read_bytes().splitlines(keepends=True)
    first, second = gzip.compress(b"".join(lines[:200])), gzip.compress(b"".join(lines[200:]))
    (tmp_path / "c.json.gz").write_bytes(
        first[: len(first) // 2] + first[len(first) // 2 + 50 :] + second
    )
    expect(kb(tmp_path / "r", tmp_path / "c.json.gz"), FAILED, "c.json.gz", "byte 0", "corrupt")
    done = kb(
        tmp_path / "r", tmp_path / "c.json.gz", "--skip-corrupt", "--set", "max_reject_rate=0.1"
    )
    assert done.returncode == 0, done.stderr
    listed = in_process(
        "sql", "--run", str(tmp_path / "r"), "--format", "json", "SELECT reason FROM rejects"
    )
    assert listed.stdout == '{"reason": "corrupt block or member"}\n'


def test_only_folders_of_our_own_are_removed(tmp_path: Path) -> None:
    """What a user keeps beside a stage's versions stays, its input too."""
    run = tmp_path / "r"
    raw = run / "documents" / "data-raw" / "corpus.jsonl"
    raw.parent.mkdir(parents=True)
    raw.write_text('{"id": 1, "text": "Paris"}\n')
    # Called after a hash of the user's own.
    hashed = run / "documents" / "data-0123456789abcdef" / "corpus.jsonl"
    hashed.parent.mkdir()
    hashed.write_text("mine")
    assert kb(run, DUMP).returncode == 0
    for unit_mb in ("1", "2"):
        arguments = (
            "--run",
            str(run),
            "--input",
            str(raw),
            "--set",
            f"documents.unit_mb={unit_mb}",
        )
        done = in_process("documents", *arguments, "--redo")
        assert done.returncode == 0, done.stderr
    again = in_process(
        "documents",
        "--run",
        str(run),
        "--input",
        str(raw),
        "--input",
        str(DUMP.parent / "documents.jsonl"),
    )
    assert again.returncode == 0, again.stderr
    assert raw.read_text() == '{"id": 1, "text": "Paris"}\n'
    assert len(list((run / "documents").glob("data-????????????????"))) == 2
    assert hashed.read_text() == "mine"


def test_settings_of_a_person_are_not_written_over(tmp_path: Path) -> None:
    run = tmp_path / "r"
    run.mkdir()
    own = f'run = "{run}"\n\n[kb]\ndumps = ["{DUMP}"] # the sample\n'
    (run / "config.toml").write_text(own)
    done = in_process("kb", "--config", str(run / "config.toml"), "--run", str(run))
    expect(done, USAGE, "config.toml: was not written by trelm-pipeline", "move it")
    assert (run / "config.toml").read_text() == own
    assert [path.name for path in run.iterdir()] == ["config.toml"]

    # The settings of the last command may be given again.
    (run / "config.toml").rename(tmp_path / "own.toml")
    assert in_process("kb", "--config", str(tmp_path / "own.toml")).returncode == 0
    again = in_process("kb", "--config", str(run / "config.toml"))
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--runner", "Foo"), "--runner 'Foo': Unexpected pipeline runner"),
        (("--set", "kb.unit_mb=1e308"), "unit_mb is 1e+308, but must be 1e+12 or less"),
        (("--set", "kb.unit_mb=1e999"), "unit_mb is inf"),
        (("--set", "max_reject_rate=-1"), "max_reject_rate is -1.0, but must be from 0 to 1"),
        (("--set", "max_reject_rate=nan"), "max_reject_rate is nan"),
    ],
)
def test_impossible_settings(tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    dump = str(SAMPLE / "entities.json")
    done = in_process("kb", "--run", str(tmp_path / "run"), "--dump", dump, *arguments)
    expect(done, USAGE, part)
    assert not (tmp_path / "run").exists(), "what is refused leaves nothing"
