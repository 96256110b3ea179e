"""A command that is refused leaves nothing: no folder, no file, nothing temporary, nothing changed."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from pipeline.cli import cli as pipeline_cli
from schemas.command_line import Program, call
from schemas.run_lock import LOCK_NAME
from schemas.settings import to_toml
from tests.broken_models import break_model
from tests.pipeline import tiny_model
from tests.pipeline.cases import GOLD, SAMPLE
from trelm_train.cli import cli as trainer_cli
from trelm_train.config import Config

PIPELINE, TRAINER = "trelm-pipeline", "trelm-train"
GROUPS: dict[str, click.Group] = {PIPELINE: pipeline_cli, TRAINER: trainer_cli}


@dataclass(frozen=True)
class World:
    """What the refused commands are given."""

    # A run of the pipeline up to `stats`, and one whose folder another program holds.
    run: Path
    held: Path
    # A new folder that another program holds.
    written: Path
    # A run of the trainer, and one that was killed as it was laid out.
    trained: Path
    begun: Path
    gold: Path
    # A folder that is not there, nor those above it.
    new: Path
    model: Path
    broken: Path


@pytest.fixture(scope="module")
def made(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("made")
    run = Path(shutil.copytree(sample_run, folder / "run"))
    held = Path(shutil.copytree(sample_run, folder / "held"))
    model = tiny_model.make(folder / "model")
    broken = break_model(model, folder / "broken", "hidden_size")
    written = folder / "written"
    written.mkdir()
    trained, begun = folder / "trained", folder / "begun"
    for path in (trained, begun):
        path.mkdir()
        (path / "config.toml").write_text(to_toml(Config()))
    (trained / "run.json").write_text("{}")
    return World(
        trained=trained,
        begun=begun,
        gold=Path(shutil.copy(GOLD, folder / "gold.jsonl")),
        run=run,
        held=held,
        written=written,
        new=folder / "a" / "b" / "new",
        model=model,
        broken=broken,
    )


def hold_from_elsewhere(folder: Path) -> None:
    """Another machine writes there: its file was touched just now."""
    owner = {"program": "trelm-pipeline", "pid": 7, "host": f"not-{socket.gethostname()}"}
    (folder / LOCK_NAME).write_text(json.dumps(owner))


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below one, with its length and time of change."""
    found = {path: path.lstat() for path in sorted(folder.rglob("*"))}
    return {
        str(path): (stat.st_size, 0 if path.is_dir() else stat.st_mtime_ns)
        for path, stat in found.items()
    }


def file_of(run: Path, pattern: str) -> Path:
    """The path that a pattern stands for; the file need not be there."""
    folder, name = pattern.rsplit("/", 1) if "/" in pattern else (".", pattern)
    return next(run.glob(folder)) / name if folder != "." else run / name


Arguments = Callable[[World], list[object]]
DUMP, SENTENCES = SAMPLE / "entities.json", SAMPLE / "documents.jsonl"
CONFIG = ["--config", SAMPLE / "pipeline.toml"]
UNKNOWN = "link.no_such_key=1"
# Command, what is wrong, arguments, part of the message.
CASES: list[tuple[str, str, str, Arguments, str]] = [
    *[
        (PIPELINE, command, what, lambda world, more=more: ["--run", world.new, *more], part)
        for command in ("kb", "documents", "index", "link", "stats", "importance", "shards", "run")
        for what, more, part in [
            ("unknown setting", ["--set", UNKNOWN], "no_such_key"),
            ("unknown flag", ["--runer=x"], "--runer"),
            ("unknown runner", ["--runner", "NoRunner", *CONFIG], "NoRunner"),
            ("bad value", ["--set", "max_reject_rate=-1"], "max_reject_rate"),
            ("no settings", ["--config", "none.toml"], "none.toml"),
        ]
    ],
    (PIPELINE, "kb", "no input", lambda world: ["--run", world.new, "--dump", "none.json"], "no such file"),
    (PIPELINE, "kb", "no dump", lambda world: ["--run", world.new, "--dump", SAMPLE / "pages.xml"], "not a Wikidata"),
    (PIPELINE, "documents", "no input", lambda world: ["--run", world.new, "--input", "none"], "no such file"),
    (PIPELINE, "documents", "csv", lambda world: ["--run", world.new, "--input", world.model / "table.csv"], "CSV"),
    (PIPELINE, "documents", "no titles", lambda world: ["--run", world.new, "--input", SAMPLE / "pages.xml"], "kb"),
    *[
        (PIPELINE, command, "too early", lambda world: ["--run", world.new], "has not finished here")
        for command in ("index", "link", "stats")
    ],
    *[
        (PIPELINE, command, "held", lambda world, more=more: ["--run", world.held, *CONFIG, *more], "writes there")
        for command, more in [
            ("kb", ["--redo"]), ("documents", ["--redo"]), ("index", ["--redo"]), ("link", ["--redo"]), ("stats", ["--redo"]),
            ("run", ["--set", "stats.num_buckets=3", "--until", "stats"]),
        ]
    ],
    *[
        (PIPELINE, command, f"in {what}", lambda world, folder=folder: ["--run", getattr(world, folder), *CONFIG], what)
        for command in ("kb", "documents", "run")
        for folder, what in [("trained", "a run of trelm-train"), ("begun", "a run of trelm-train"), ("model", "a model")]
    ],
    (PIPELINE, "index", "held, added", lambda world: ["--run", world.held, "--add", GOLD], "writes there"),
    (PIPELINE, "index", "held, removed", lambda world: ["--run", world.held, "--remove", "U1"], "writes there"),
    (PIPELINE, "synth", "held", lambda world: ["--run", world.run, "--out", world.written], "writes there"),
    (PIPELINE, "link train-reranker", "held", lambda world: ["--run", world.run, "--model", world.model, "--out", world.written], "writes there"),
    *[
        (PIPELINE, command, "broken model", lambda world, more=more: ["--run", world.run, *more, world.broken], "copy both")
        for command, more in [
            ("importance", ["--model"]), ("shards", ["--model"]), ("link", ["--set", "link.weights=by-hand", "--rerank-model"]),
            ("link train-reranker", ["--out", "out", "--model"]),
        ]
    ],
    (PIPELINE, "run", "broken model", lambda world: ["--run", world.new, *CONFIG, "--set", f"importance.model={world.broken}"], "copy both"),
    (PIPELINE, "run", "no stage", lambda world: ["--run", world.new, "--until", "nothing"], "no such stage"),
    (PIPELINE, "run", "plan without input", lambda world: ["--run", world.new, "--plan", "--set", 'kb.dumps=["none"]'], "no such file"),
    (PIPELINE, "index", "no entities", lambda world: ["--run", world.run, "--add", "none.jsonl"], "none.jsonl"),
    (PIPELINE, "index", "no such entity", lambda world: ["--run", world.run, "--remove", "U7"], "U7"),
    (PIPELINE, "index", "no run", lambda world: ["--run", world.new, "--add", GOLD], ""),
    (PIPELINE, "synth", "no run", lambda world: ["--run", world.new, "--out", world.new / "out"], "kb"),
    (PIPELINE, "synth", "folder in use", lambda world: ["--run", world.run, "--out", world.model], "model"),
    (PIPELINE, "synth", "no templates", lambda world: ["--run", world.run, "--out", world.new, "--templates", "none"], "none"),
    (PIPELINE, "sql", "no run", lambda world: ["--run", world.new, "SELECT 1"], "holds no finished stage"),
    (PIPELINE, "sql", "wrong query", lambda world: ["--run", world.run, "--out", "new.csv", "SELECT nothing"], "nothing"),
    (PIPELINE, "sql", "no folder", lambda world: ["--run", world.run, "--out", "none/new.csv", "SELECT 1"], "no folder"),
    *[
        (PIPELINE, command, f"over {name}", lambda world, more=more, name=name: ["--run", world.run, "--out", file_of(world.run, name), *more], "give another file")
        for command, more in [("sql", ["SELECT 1"]), ("report", [])]
        for name in ("config.toml", "run.duckdb", "stats/manifest.json", "stats/data-*/rejects/new.csv", "stats/data-*/_units/00000.json")
    ],
    (PIPELINE, "ask", "over its settings", lambda world: ["rarest", "--run", world.run, "--out", world.run / "config.toml"], "a run of trelm-pipeline"),
    (PIPELINE, "sql", "over a model", lambda world: ["--run", world.run, "--out", world.model / "config.json", "SELECT 1"], "a file of a model"),
    (PIPELINE, "sql", "over the trainer's settings", lambda world: ["--run", world.run, "--out", world.trained / "config.toml", "SELECT 1"], "a run of trelm-train"),
    (PIPELINE, "evaluate", "over its gold", lambda world: ["--run", world.run, "--gold", world.gold, "--errors", world.gold], "is an input"),
    (PIPELINE, "report", "over its gold", lambda world: ["--run", world.run, "--gold", world.gold, "--out", world.gold], "is an input"),
    (PIPELINE, "link train", "over its gold", lambda world: ["--run", world.run, "--gold", world.gold, "--out", world.gold], "is an input"),
    (PIPELINE, "image", "no registry", lambda world: ["--registry", "https://host/", "--source", Path.cwd()], "is no name of a registry"),
    (PIPELINE, "image", "no checkout", lambda world: ["--registry", "host/folder", "--source", world.new], "has no Dockerfile"),
    (PIPELINE, "ask", "no run", lambda world: ["rarest", "--run", world.new], "holds no finished stage"),
    (PIPELINE, "ask", "no item", lambda world: ["entity", "Q999999", "--run", world.run, "--out", "new"], "Q999999"),
    (PIPELINE, "evaluate", "no run", lambda world: ["--run", world.new, "--gold", GOLD], "has not finished here"),
    (PIPELINE, "evaluate", "no gold", lambda world: ["--run", world.run, "--gold", "none", "--errors", "new"], "none"),
    (PIPELINE, "report", "no run", lambda world: ["--run", world.new], ""),
    (PIPELINE, "report", "no gold", lambda world: ["--run", world.run, "--gold", "none", "--out", "new.html"], "none"),
    (PIPELINE, "link train", "no run", lambda world: ["--run", world.new, "--gold", GOLD, "--out", "new.json"], "has not finished"),
    (PIPELINE, "link train", "no gold", lambda world: ["--run", world.run, "--gold", "none", "--out", "new.json"], "none"),
    (PIPELINE, "link train-reranker", "no run", lambda world: ["--run", world.new, "--model", world.model, "--out", "new"], "has not finished"),
    (PIPELINE, "link score", "no run", lambda world: ["--run", world.new, "--gold", GOLD], "has not finished"),
    (PIPELINE, "link score", "no gold", lambda world: ["--run", world.run, "--gold", "none"], "none"),
    *[
        (TRAINER, "run", what, lambda world, more=more: ["--out", world.new, *more(world)], part)
        for what, more, part in [
            ("unknown setting", lambda world: ["--shards", world.run, "--model", world.model, "--set", "train.stps=1"], "stps"),
            ("bad value", lambda world: ["--shards", world.run, "--model", world.model, "--set", "train.steps=-1"], "steps"),
            ("no settings", lambda world: ["--shards", world.run, "--model", world.model, "--config", "none.toml"], "none.toml"),
            ("no shards", lambda world: ["--shards", world.run, "--model", world.model], "shards"),
            ("no model", lambda world: ["--shards", world.run / "stats", "--model", "./none"], ""),
        ]
    ],
    (TRAINER, "run", "folder in use", lambda world: ["--shards", world.run, "--model", world.model, "--out", world.model], "no run of trelm-train"),
    (TRAINER, "run", "in the pipeline's run", lambda world: ["--shards", world.run, "--model", world.model, "--out", world.run], "a run of trelm-pipeline"),
    (TRAINER, "init", "in the pipeline's run", lambda world: ["--documents", world.run / "documents", "--out", world.run], "a run of trelm-pipeline"),
    (TRAINER, "run", "held", lambda world: ["--shards", world.run, "--model", world.model, "--out", world.held], "writes there"),
    (TRAINER, "resume", "no run", lambda world: ["--out", world.new], "no run there"),
    (TRAINER, "init", "no documents", lambda world: ["--documents", world.new, "--out", world.new / "m"], "documents"),
    (TRAINER, "init", "bad shape", lambda world: ["--documents", world.run / "documents", "--out", world.new, "--hidden", "7"], "--hidden"),
    (TRAINER, "init", "folder in use", lambda world: ["--documents", world.run / "documents", "--out", world.model], "holds a model"),
    (TRAINER, "export", "no checkpoint", lambda world: ["--checkpoint", world.run, "--out", world.new], ""),
    (TRAINER, "evaluate mlm", "over a model", lambda world: ["--model", world.model, "--shards", world.run, "--items", world.model / "config.json"], "a file of a model"),
    (TRAINER, "evaluate mlm", "over its shards", lambda world: ["--model", world.model, "--shards", world.run / "stats", "--items", file_of(world.run, "stats/data-*/_units/00000.json")], "give another file"),
    (TRAINER, "evaluate lama", "over its relations", lambda world: ["--model", world.model, "--probes", world.run, "--relations", world.gold, "--items", world.gold], "is an input"),
    (TRAINER, "evaluate mlm", "no shards", lambda world: ["--model", world.model, "--shards", world.run, "--items", "new.parquet"], "shards"),
    (TRAINER, "evaluate lama", "broken model", lambda world: ["--model", world.broken, "--probes", world.run, "--relations", SENTENCES, "--items", "new.parquet"], "copy both"),
    (TRAINER, "evaluate lama", "no probes", lambda world: ["--model", world.model, "--probes", world.new], "no such folder"),
    (TRAINER, "evaluate lama", "no model for UHN", lambda world: ["--model", world.model, "--probes", world.run, "--uhn", "./none"], "no such folder"),
    (TRAINER, "evaluate common-vocab", "over a model", lambda world: ["--model", world.model, "--out", world.model / "config.json"], "a file of a model"),
    (TRAINER, "evaluate mlm", "nothing to measure on", lambda world: ["--model", world.model], "--shards, --text or both"),
    (TRAINER, "evaluate mlm", "no text", lambda world: ["--model", world.model, "--text", world.new], "does not exist"),
    (TRAINER, "evaluate mlm", "broken start", lambda world: ["--model", world.broken, "--text", world.gold, "--against", world.broken], "copy both"),
    (TRAINER, "evaluate paraphrases", "no probes", lambda world: ["--model", world.model, "--probes", world.new, "--patterns", world.run], "no such folder"),
    (TRAINER, "evaluate paraphrases", "over its probes", lambda world: ["--model", world.model, "--probes", world.gold.parent, "--patterns", world.run, "--items", world.gold], "is an input"),
    (TRAINER, "evaluate paraphrases", "broken model", lambda world: ["--model", world.broken, "--probes", world.run, "--patterns", world.run, "--items", "new.parquet"], "copy both"),
    (TRAINER, "evaluate bear", "no probe", lambda world: ["--model", world.model, "--probes", world.run, "--items", "new.parquet"], "metadata_relations.json"),
    (TRAINER, "evaluate bear", "over its probe", lambda world: ["--model", world.model, "--probes", world.gold.parent, "--items", world.gold], "is an input"),
    (TRAINER, "evaluate typing", "no rows", lambda world: ["--model", world.model, "--data", world.gold, "--out", world.new], "the row has no 'sent'"),
    (TRAINER, "evaluate typing", "folder in use", lambda world: ["--model", world.model, "--data", world.gold, "--out", world.model], "a model"),
    (TRAINER, "evaluate typing", "in the pipeline's run", lambda world: ["--model", world.model, "--data", world.gold, "--out", world.run], "a run of trelm-pipeline"),
    (TRAINER, "evaluate relation", "no rows", lambda world: ["--model", world.model, "--train", world.gold, "--test", world.gold, "--out", world.new], "the row has no 'token'"),
    (TRAINER, "evaluate relation", "no file", lambda world: ["--model", world.model, "--data", "none", "--out", world.new], "none"),
    (TRAINER, "evaluate relation", "no test", lambda world: ["--model", world.model, "--train", world.gold, "--out", world.new], "give --data FILE"),
    (TRAINER, "compare", "no experiment", lambda world: ["--config", "none.toml", "--out", world.new], "none.toml"),
    (TRAINER, "compare", "no experiment to plan", lambda world: ["--config", "none.toml", "--out", world.new, "--plan"], "none.toml"),
    (TRAINER, "inspect plan", "no shards", lambda world: ["--shards", world.run, "--model", world.model, "--out", world.new], "shards"),
    (TRAINER, "inspect bank", "no run", lambda world: ["--run", world.new, "--entity", "Q1"], "no memory bank"),
    (TRAINER, "inspect path", "no run", lambda world: ["--run", world.new], ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "command", "what", "arguments", "part"),
    [pytest.param(*case, id=f"{case[0]} {case[1]}: {case[2]}") for case in CASES],
)
def test_a_refused_command_leaves_nothing(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    program: str, command: str, what: str, arguments: Arguments, part: str,
) -> None:  # fmt: skip
    hold_from_elsewhere(made.held)
    hold_from_elsewhere(made.written)
    (made.model / "table.csv").write_text("id,text\n1,a\n")
    given = [*command.split(), *map(str, arguments(made))]
    # A relative path of an argument is one of the sample, or one that must not appear.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(SAMPLE.parent)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    before = content(made.run.parent), content(tmp_path)

    group = GROUPS[program]
    code = call(
        lambda: group.main(given, prog_name=program, standalone_mode=False),
        Program(extra="x", after_stop=""),
    )
    message = capsys.readouterr().err
    assert code in (1, 2), message
    assert part in message
    assert "Traceback" not in message
    assert (content(made.run.parent), content(tmp_path)) == before


def commands(group: click.Group, prefix: str = "") -> set[str]:
    """The full names of all commands that do something."""
    names: set[str] = set()
    for name, command in group.commands.items():
        nested = isinstance(command, click.Group)
        names |= commands(command, f"{prefix}{name} ") if nested else {f"{prefix}{name}"}
    return names


def test_every_command_has_a_case() -> None:
    for program, group in GROUPS.items():
        assert {case[1] for case in CASES if case[0] == program} == commands(group)
