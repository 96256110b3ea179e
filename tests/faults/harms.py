"""What goes wrong: each fault breaks a cell, and returns how the next call of the program ended."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.flow import command_of
from tests.faults.programs import NO_FAULT, Done, Fault, Running
from tests.faults.worlds import (
    PIPELINE,
    PIPELINE_WORDS,
    State,
    Subject,
    World,
    differences,
    state_of,
)

TEN_YEARS_S = 10 * 365 * 86_400.0
# Names of files that are not finished.
UNFINISHED = (".part", ".tmp", ".partial")


@dataclass(kw_only=True)
class Cell:
    """A subject and a fault, in a folder of their own."""

    world: World
    subject: Subject
    folder: Path
    rng: random.Random
    # What the subject's folder shall hold in the end; another one where the input is another one.
    expected: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expected = self.world.states[self.subject.name]

    @property
    def out(self) -> Path:
        return self.folder / self.subject.out

    @property
    def is_stage(self) -> bool:
        return self.subject.program == PIPELINE

    def lay(self, *, done: bool) -> None:
        """Copy the world: the subject is done, or it comes next."""
        source = self.world.after(self.subject) if done else self.world.before(self.subject)
        shutil.copytree(source.resolve(), self.folder, symlinks=True)

    def call(self, fault: Fault = NO_FAULT) -> Done:
        return self.world.call(self.subject, self.folder, fault)

    def say(self, *words: str) -> Done:
        """Call the subject's program with other words."""
        return self.world.starter.call(self.subject.program, words, self.folder)

    def fault(self, kind: str, first: float = 0.0, last: float = 1.0) -> Fault:
        """A fault at a moment between two shares of all."""
        num = self.world.num_moments[self.subject.name]
        low = 1 + int(first * num)
        return Fault(
            kind=kind,
            at=self.rng.randint(low, max(low, int(last * num))),
            path=self.subject.path,
        )

    @contextmanager
    def stopped(self, fault: Fault, *, may_fail: bool = False) -> Iterator[Running]:
        """The program at work, which stands still at a moment; it has ended after the block."""
        running = self.world.start(self.subject, self.folder, fault)
        try:
            assert running[0].reach(), "the program ended before its moment"
            yield running[0]
        finally:
            running[0].release()
            for one in running:
                done = one.wait()
                assert_ours(done)
                assert may_fail or done.code == 0, done.stderr

    def differences(self, but: str = "") -> list[str]:
        """What is not as it would be without the fault, stray files beside the folder among it."""
        stray = [f"unfinished: {path}" for path in unfinished(self.folder)]
        return stray + differences(state_of(self.out), self.expected, but)


def unfinished(folder: Path) -> list[Path]:
    """Files with names that stand for what is not finished."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and any(part.endswith(UNFINISHED) or part == "_tmp" for part in path.parts)
    )


def killed(cell: Cell) -> Done:
    """All its processes end in the middle of their work."""
    cell.lay(done=False)
    done = cell.call(cell.fault("kill all"))
    assert done.was_killed, done.stderr
    return cell.call()


def power_cut(cell: Cell) -> Done:
    """The machine goes off: what was not brought to the disk is torn."""
    cell.lay(done=False)
    assert cell.call(cell.fault("kill all")).was_killed
    for path in unfinished(cell.folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if (cell.out / ".lock").exists():
        (cell.out / ".lock").write_bytes(b"")
    return cell.call()


def disk_full(cell: Cell) -> Done:
    """From a moment on no file can be made."""
    cell.lay(done=False)
    done = cell.call(cell.fault("full", last=0.8))
    assert not unfinished(cell.folder), "what could not be finished takes no room"
    return done


def file_full(cell: Cell) -> Done:
    """There is no room for the largest file: it ends in the middle of a write."""
    cell.lay(done=False)
    before = {path.relative_to(cell.folder) for path in cell.folder.rglob("*")}
    after = cell.world.after(cell.subject).resolve()
    sizes = [
        path.stat().st_size
        for path in (after / cell.subject.out).rglob("*")
        if path.is_file() and path.relative_to(after) not in before
    ]
    done = cell.call(Fault(path="$", max_file_bytes=int(max(sizes) * 0.9)))
    assert not unfinished(cell.folder), "what could not be finished takes no room"
    return done


def part_of(cell: Cell) -> Path:
    """A file that the subject has written: one of its stage's manifest, or one of its own."""
    if cell.is_stage:
        folder = cell.out / cell.subject.name
        manifest = json.loads((folder / "manifest.json").read_text())
        entries = [entry for table in manifest["tables"].values() for entry in table["files"]]
        paths = [folder / entry["path"] for entry in [*entries, *manifest["artefacts"]]]
    else:
        patterns = {
            "start": "initial/*.*",
            "steps": "metrics.jsonl",
            "checkpoint": "checkpoints/step-00000006/**/*.safetensors",
            "finish": "model/**/*.*",
        }
        # Of checkpoints the newest: the older ones are not read.
        paths = sorted(cell.out.glob(patterns[cell.subject.name]))
    assert paths
    return cell.rng.choice([path for path in paths if path.is_file()])


def part_missing(cell: Cell) -> Done:
    """A file of what is done has gone."""
    cell.lay(done=True)
    part_of(cell).unlink()
    return cell.call()


def part_cut(cell: Cell) -> Done:
    """A file of what is done is too short."""
    cell.lay(done=True)
    path = part_of(cell)
    path.write_bytes(path.read_bytes()[: cell.rng.randrange(path.stat().st_size)])
    return cell.call()


def part_flipped(cell: Cell) -> Done:
    """A bit of what is done is another one."""
    cell.lay(done=True)
    path = part_of(cell)
    content = bytearray(path.read_bytes())
    content[cell.rng.randrange(len(content))] ^= 1 << cell.rng.randrange(8)
    path.write_bytes(bytes(content))
    return cell.say(*cell.subject.words, "--verify") if cell.is_stage else cell.call()


def unit_damaged(cell: Cell) -> Done:
    """A killed stage left a part that was changed, and a report that is torn."""
    cell.lay(done=False)
    assert cell.call(cell.fault("kill all", first=0.6, last=0.8)).was_killed
    folder = next((cell.out / cell.subject.name).glob("data-*"))
    reports = sorted((folder / "_units").glob("*.json"))
    assert reports, "at least one unit was done"
    parts = json.loads(reports[0].read_text())["parts"]
    for entry in list(parts.values())[:1]:
        path = folder / entry["path"]
        path.write_bytes(path.read_bytes()[:-1])
    reports[-1].write_text(reports[-1].read_text()[:-20])
    return cell.call()


def torn_manifest(cell: Cell) -> Done:
    """The file that says what there is ends in the middle."""
    cell.lay(done=True)
    newest = cell.folder / "out" / "checkpoints" / "step-00000006"
    path = {
        "start": cell.out / "run.json",
        "steps": cell.out / "metrics.jsonl",
        "checkpoint": newest / "state.json",
        "finish": cell.out / "summary.json",
        "export": newest / "checksums.json",
        "init": cell.folder / "documents" / "manifest.json",
    }.get(cell.subject.name, cell.out / cell.subject.name / "manifest.json")
    path.write_text(path.read_text()[: -path.stat().st_size // 2])
    if cell.subject.name in ("export", "init"):
        shutil.rmtree(cell.out)
    return cell.call()


def input_lost(cell: Cell) -> Done:
    """A file that the subject reads has gone; its own command alone is called."""
    cell.lay(done=False)
    if not cell.is_stage:
        folder = {"export": "out/checkpoints/step-00000006/tensors", "init": "documents"}
        pattern = {"export": "*.safetensors", "init": "**/documents/*.parquet"}.get(
            cell.subject.name, "**/*.parquet"
        )
        next((cell.folder / folder.get(cell.subject.name, "shards")).glob(pattern)).unlink()
        return cell.call()
    for manifest_path in sorted(cell.out.glob("*/manifest.json")):
        manifest = json.loads(manifest_path.read_text())
        entries = [entry for table in manifest["tables"].values() for entry in table["files"]]
        for entry in [*entries, *manifest["artefacts"]]:
            (manifest_path.parent / entry["path"]).unlink()
    return cell.say(command_of(cell.subject.name), *PIPELINE_WORDS[1:])


def second_writer(cell: Cell) -> Done:
    """Another program writes there."""
    cell.lay(done=False)
    with cell.stopped(cell.fault("stop", first=0.2, last=0.8)):
        before = state_of(cell.out)
        done = cell.call()
        assert state_of(cell.out) == before, "who is refused changes nothing"
    return done


def reader(cell: Cell) -> Done:
    """Somebody reads what is being written: it is the old output, the new one, or an error."""
    cell.lay(done=cell.is_stage)
    questions = QUESTIONS.get(cell.subject.name, ())
    if cell.is_stage:
        # Another time of change: the stage and those before it have to be done again, with the same rows.
        for path in (cell.folder / "inputs").iterdir():
            os.utime(path, (1_600_000_000, 1_600_000_000))
    answers = [cell.say(*words) for words in questions] if cell.is_stage else []
    assert all(answer.code == 0 for answer in answers)
    expected = [answer.stdout for answer in answers]
    fault = cell.fault("stop")
    if cell.is_stage:
        fault = Fault(kind="stop", at=fault.at % 40 + 1, path=f"run/{cell.subject.name}/")
    with cell.stopped(fault):
        for number, words in enumerate(questions):
            answer = cell.say(*words)
            assert_ours(answer)
            if cell.is_stage and answer.code == 0:
                assert answer.stdout == expected[number], "a part of the rows was read"
    return cell.call()


def assert_ours(done: Done) -> None:
    """Right, or an error of our own."""
    assert done.code in (0, 1, 2), (done.code, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.code == 0) != ("Error: " in done.stderr), done.stderr


def _rows(table: str) -> tuple[str, ...]:
    return ("sql", "--run", "run", "--format", "json", f"FROM {table} ORDER BY ALL")


_EXPORT = ("export", "--checkpoint", "out/checkpoints/step-00000006", "--out", "copy")
_BANK = ("inspect", "path", "--run", "out", "--json")
QUESTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "kb": (_rows("entities"), _rows("triples")),
    "titles": (_rows("title_redirects"),),
    "documents": (_rows("documents"), _rows("anchors")),
    "link": (_rows("links"),),
    "stats": (_rows("entity_frequency"),),
    "importance": (_rows("importance"),),
    "shards": (_rows("knowledge"),),
    "steps": (_BANK,),
    "checkpoint": (_EXPORT,),
    "finish": (("evaluate", "mlm", "--model", "out/model", "--shards", "shards", "--json"),),
}


def clock_jump(cell: Cell) -> Done:
    """A killed program goes on after the clock was set back by ten years."""
    cell.lay(done=False)
    assert cell.call(cell.fault("kill all", first=0.3)).was_killed
    return cell.call(Fault(path="$", clock_back_s=TEN_YEARS_S))


def _change_input(cell: Cell) -> None:
    """Put the other input in the place of this one."""
    assert cell.world.changed is not None
    source = cell.world.changed.folder / "start"
    for name in ("inputs",) if cell.is_stage else ("shards",):
        shutil.rmtree(cell.folder / name)
        shutil.copytree(source / name, cell.folder / name)


def input_changed(cell: Cell) -> Done:
    """Between a kill and the next call the input becomes another one."""
    cell.lay(done=False)
    first = 0.0 if cell.is_stage or cell.subject.name == "start" else 0.5
    assert cell.call(cell.fault("kill all", first=first)).was_killed
    _change_input(cell)
    if cell.is_stage or cell.subject.name == "start":
        assert cell.world.changed is not None
        cell.expected = cell.world.changed.states[cell.subject.name]
    return cell.call()


def input_changed_inside(cell: Cell) -> Done:
    """While the program reads it, the input becomes another one; then the program is called again."""
    cell.lay(done=False)
    with cell.stopped(cell.fault("stop", last=0.5), may_fail=True):
        _change_input(cell)
    # A training notices at its first step, before there is anything to go on from.
    if cell.is_stage or cell.subject.name == "start":
        assert cell.world.changed is not None
        cell.expected = cell.world.changed.states[cell.subject.name]
    return cell.call()


def restore(cell: Cell, *names: str) -> None:
    """Bring files back from the world, as somebody would from a copy."""
    for name in names:
        source, target = cell.world.after(cell.subject).resolve() / name, cell.folder / name
        if target.is_dir():
            shutil.rmtree(target)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
