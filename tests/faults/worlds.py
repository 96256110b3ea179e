"""What the matrix breaks: a pipeline's run and a trainer's, small, with what an undisturbed one leaves.

A world is made once. A cell gets a copy of it in which a subject (a stage of the pipeline, a part of a training) is
still to be done, or is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
from safetensors import safe_open

from pipeline.flow import STAGE_NAMES
from tests.faults.programs import NO_FAULT, Done, Fault, Running, Starter
from tests.pipeline import tiny_model
from tests.pipeline.cases import SAMPLE
from tests.trelm_train import world as people
from tests.trelm_train.test_ranks import variables_of_ranks

PIPELINE, TRAINER = "trelm-pipeline", "trelm-train"
# What differs between two runs that nothing disturbed: times, memory, names of versions of an output, places.
MEASURED = re.compile(
    "seconds|created|checksum|speed|fingerprint|inputs|shards|best_seconds|.*_s|.*_mb|(attribution|memory)_share"
)
FINGERPRINT = re.compile(r"data-[0-9a-f]{16}")
# Of a program that was killed, or that holds the folder; the next one takes it.
LOCK = ".lock"
State = dict[str, str]


def state_of(folder: Path) -> State:
    """Everything that a run's folder holds, by path, but for times and names of versions.

    What is not a file counts too: a folder that is left empty is a stray one.
    """
    state: State = {}
    for path in sorted(folder.rglob("*")):
        name = FINGERPRINT.sub("data-*", str(path.relative_to(folder)))
        if "tensorboard" in path.parts:
            # A file for each start.
            continue
        while name in state:
            name += " (again)"
        state[name] = "folder" if path.is_dir() else _content_of(path)
    return state


def _content_of(path: Path) -> str:
    if path.name == "checksums.json" and "checkpoints" in path.parts:
        # It covers the times in the state beside it.
        return "checksums"
    if path.suffix == ".safetensors":
        return _tensors_of(path)
    if path.name.endswith(".safetensors.index.json"):
        # Where the library has put which tensor.
        return "index"
    if path.suffix == ".duckdb":
        return _views_of(path)
    if path.suffix == ".jsonl":
        return json.dumps([_timeless(json.loads(line)) for line in path.read_text().splitlines()])
    if path.suffix == ".json":
        return FINGERPRINT.sub("data-*", json.dumps(_timeless(json.loads(path.read_text()))))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tensors_of(path: Path) -> str:
    """Names and bits of the tensors: the order of the metadata is the library's."""
    with safe_open(path, framework="np") as file:
        return json.dumps(
            {name: hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest() for name in sorted(file.keys())}
        )  # fmt: skip


def _views_of(path: Path) -> str:
    with duckdb.connect(str(path), read_only=True) as connection:
        views = connection.sql("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal")
        return FINGERPRINT.sub("data-*", json.dumps(sorted(views.fetchall())))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _timeless(entry) for key, entry in value.items() if not MEASURED.fullmatch(key)
        }
    if isinstance(value, list):
        return [_timeless(entry) for entry in value if not _is_spill(entry)]
    return value


def _is_spill(entry: Any) -> bool:
    """Whether it names a file that one phase left for the next: its rows may be in any order."""
    return isinstance(entry, dict) and str(entry.get("path", "")).startswith("_spill/")


def differences(found: State, expected: State, but: str = "") -> list[str]:
    """What is missing, what is too much, what is another one; `but` is a file that may be."""
    found, expected = ({k: v for k, v in state.items() if k != but} for state in (found, expected))
    missing = [f"missing: {name}" for name in expected.keys() - found.keys()]
    stray = [f"stray: {name}" for name in found.keys() - expected.keys()]
    names = found.keys() & expected.keys()
    other = [f"other: {name}" for name in names if found[name] != expected[name]]
    return sorted(missing + stray + other)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is broken: a stage of the pipeline, a part of a training, another command."""

    name: str
    program: str
    # Folder, in the cell's, that it writes.
    out: str
    # Files whose changes are its moments.
    path: str
    # The command that does it, and does it again after a fault.
    words: tuple[str, ...]


@dataclass(kw_only=True)
class World:
    """A program's subjects, and what undisturbed runs of them left."""

    starter: Starter
    folder: Path
    subjects: tuple[Subject, ...]
    # Number of processes that work side by side.
    num_processes: int = 1
    # By subject: how many moments it has, and what its folder holds at its end.
    num_moments: dict[str, int] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    # How long it takes.
    wall_s: dict[str, float] = field(default_factory=dict)
    # The same with other inputs.
    changed: World | None = None

    def before(self, subject: Subject) -> Path:
        """A folder in which the subject is still to be done."""
        return self.folder / f"before-{subject.name}"

    def after(self, subject: Subject) -> Path:
        """A folder in which it is done."""
        return self.folder / f"after-{subject.name}"

    def start(self, subject: Subject, cwd: Path, fault: Fault = NO_FAULT) -> list[Running]:
        """Begin to do a subject: one program, or the ranks of a training, of which the first has the fault."""
        if subject.program == PIPELINE or self.num_processes == 1 or subject.name in ALONE:
            return [self.starter.start(subject.program, subject.words, cwd, fault)]
        return [
            self.starter.start(
                subject.program, subject.words, cwd, NO_FAULT if rank else fault, variables
            )
            for rank, variables in enumerate(variables_of_ranks(self.num_processes))
        ]

    def call(self, subject: Subject, cwd: Path, fault: Fault = NO_FAULT) -> Done:
        """Do a subject, and wait for its end; where ranks do it, for the end of all."""
        running = self.start(subject, cwd, fault)
        first, *others = running
        done = first.wait()
        if fault.kind == "kill all":
            for rank in others:
                rank.kill()
        ends = [done, *(rank.wait() for rank in others)]
        self.starter.seconds += sum(end.seconds for end in ends)
        return done


def make_pipeline(starter: Starter, folder: Path, *, is_changed: bool = False) -> World:
    """A run of the pipeline over a part of the sample, stage after stage."""
    subjects = tuple(
        Subject(
            name=name, program=PIPELINE, out="run", path="run/",
            words=(*PIPELINE_WORDS, "--until", name),
        )
        for name in STAGE_NAMES
    )  # fmt: skip
    world = World(starter=starter, folder=folder, subjects=subjects)
    at = folder / "start"
    write_inputs(at / "inputs", is_changed=is_changed)
    tiny_model.make(at / "model")
    for subject in subjects:
        _do_undisturbed(world, subject, at)
        at = world.after(subject)
    return world


def with_workers(world: World, workers: int) -> World:
    """The same world of the pipeline for programs with worker processes: they write the same bits."""
    count = "--workers", str(workers)
    subjects = [replace(one, words=(*one.words, *count)) for one in world.subjects]
    return replace(world, subjects=tuple(subjects), num_processes=workers)


def _do_undisturbed(world: World, subject: Subject, start: Path) -> None:
    """Do a subject without any fault; keep the folder before and after it."""
    world.before(subject).symlink_to(start)
    shutil.copytree(start, world.after(subject), symlinks=True)
    begun_s = time.monotonic()
    done = world.call(subject, world.after(subject), Fault(path=subject.path))
    assert done.code == 0, done.stderr
    world.wall_s[subject.name] = time.monotonic() - begun_s
    renamed = [n for n, moment in enumerate(done.moments, 1) if moment.startswith("os.rename")]
    # A command that is done is not done again: what comes after its last renaming is no moment.
    is_once = subject.name in ALONE
    world.num_moments[subject.name] = renamed[-1] if is_once else len(done.moments)
    world.states[subject.name] = state_of(world.after(subject) / subject.out)


def flags(*settings: str) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


# Small units, so that each stage has several.
PIPELINE_WORDS = (
    "run", "--run", "run",
    *flags(
        'kb.dumps=["inputs/entities.json"]', "kb.unit_mb=0.07",
        'documents.inputs=["inputs/documents.jsonl","inputs/pages.xml"]', "documents.unit_mb=0.004",
        "index.num_shards=2", "index.unit_rows=1000", "link.spacy_model=blank:en", "link.unit_mb=0.003",
        "stats.num_buckets=2", "stats.num_bootstrap=10", "importance.model=model", "importance.num_threads=1",
    ),
)  # fmt: skip
NUM_ENTITIES, NUM_DOCUMENTS = 150, 24


def write_inputs(folder: Path, *, is_changed: bool) -> None:
    """A part of the sample; the changed one has more."""
    folder.mkdir(parents=True)
    more = 10 if is_changed else 0
    lines = (SAMPLE / "entities.json").read_text().splitlines()
    kept = [line.rstrip(",") for line in lines[: NUM_ENTITIES + more]]
    (folder / "entities.json").write_text(",\n".join(kept).replace("[,", "[") + "\n]\n")
    documents = (SAMPLE / "documents.jsonl").read_text().splitlines()
    (folder / "documents.jsonl").write_text("\n".join(documents[: NUM_DOCUMENTS + more]) + "\n")
    pages = (SAMPLE / "pages.xml").read_text()
    shown = pages.replace("capital", "chief town") if is_changed else pages
    (folder / "pages.xml").write_text(shown)
    for path in folder.iterdir():
        # Stamps of inputs decide whether a stage is up to date, and two are never made in one second.
        os.utime(path, (1_700_000_000 + more, 1_700_000_000 + more))


STEPS = 6
TRAINING = (
    "train.batch_tokens=256", "train.max_tokens=48", "train.learning_rate=0.003", f"train.steps={STEPS}",
    "train.threads=1", "train.micro_batches=2", "train.log_every=1", "train.checkpoint_every=2",
    "train.keep_checkpoints=2", "routing.refresh_every=3", "routing.probe_facts=24", "routing.share=0.25",
    "routing.policy=ig", "routing.learning_rate_scale=5", "injection.enabled=true", "memory.enabled=true",
    "cka.enabled=true", "cka.form=projection", "facts.share=0.5", "evaluation.every=4", "evaluation.best=loss",
)  # fmt: skip
RUN_WORDS = (
    "run", "--resume", "auto", "--shards", "shards", "--model", "model", "--out", "out", *flags(*TRAINING)
)  # fmt: skip
TRAINING_PATHS = {
    "start": r"out/(initial|\.?config|\.?run\.json|entities)",
    "steps": r"out/(\.?metrics|\.?routing|\.?plan|\.?evaluations)",
    "checkpoint": "out/checkpoints",
    "finish": r"out/(model|\.?summary)",
}
# Commands that no ranks share.
ALONE = ("export", "init")
EXPORT_WORDS = (
    "export", "--checkpoint", f"out/checkpoints/step-{STEPS:08d}", "--out", "exported"
)  # fmt: skip
INIT_WORDS = (
    "init", "--documents", "documents", "--out", "made", "--layers", "1", "--hidden", "16", "--heads", "2",
    "--vocab-size", "200", "--warmup-steps", "2", "--batch-tokens", "256",
)  # fmt: skip


def make_trainer(
    starter: Starter, folder: Path, documents: Path, *, ranks: int = 1, is_changed: bool = False
) -> World:
    """A training of some steps, the export of a checkpoint, and a model made of documents."""
    training = [
        Subject(name=name, program=TRAINER, out="out", path=path, words=RUN_WORDS)
        for name, path in TRAINING_PATHS.items()
    ]
    export = Subject(
        name="export", program=TRAINER, out="exported", path=r"\.?exported", words=EXPORT_WORDS
    )
    init = Subject(name="init", program=TRAINER, out="made", path=r"\.?made", words=INIT_WORDS)
    world = World(
        starter=starter, folder=folder, subjects=(*training, export, init), num_processes=ranks
    )
    start = folder / "start"
    write_people(start, is_changed=is_changed)
    shutil.copytree(documents, start / "documents")

    trained = folder / "trained"
    shutil.copytree(start, trained)
    for subject in training:
        world.before(subject).symlink_to(start)
        world.after(subject).symlink_to(trained)
    begun_s = time.monotonic()
    done = world.call(training[0], trained, Fault(path="out/"))
    assert done.code == 0, done.stderr
    for subject in training:
        world.wall_s[subject.name] = time.monotonic() - begun_s
        inside = re.compile(f"[^ ]+ {re.escape(str(trained))}/(?:{subject.path})")
        world.num_moments[subject.name] = sum(map(bool, map(inside.match, done.moments)))
        world.states[subject.name] = state_of(trained / "out")
    _do_undisturbed(world, export, trained)
    _do_undisturbed(world, init, start)
    return world


def write_people(folder: Path, *, is_changed: bool) -> None:
    """Shards and a model of the trainer's small world; the changed ones have other sentences."""
    tokenizer = people.make_tokenizer()
    columns = people.example_columns(tokenizer)
    if is_changed:
        columns = people.partly_plain(columns)
    people.write_shards(folder / "shards", tokenizer, columns, people.knowledge_columns(tokenizer))
    people.make_bert(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
