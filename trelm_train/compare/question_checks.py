"""Check the questions of an experiment before any work: every file is there, and can be read.

Goes in: an experiment. Comes out: nothing, or an error that names the section, the file and the row.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ConfigError
from trelm_train.evaluate.lama_files import read_jsonl
from trelm_train.evaluate.lama_rows import drawn_by
from trelm_train.evaluate.paraphrase_files import read_patterns, relation_files
from trelm_train.finetune.task_files import read_relation_splits, read_typing_splits

if TYPE_CHECKING:
    from trelm_train.compare.experiment import Experiment, ParaphraseSet, ProbeSet, TaskSet


def _check_probes(experiment: Experiment) -> None:
    """Refuse missing files, and parts that are none."""
    for probes in experiment.probes:
        ends = probes.subjects
        if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
            raise ConfigError(
                f"probes {probes.name!r}: subjects = {list(ends)} must be two ends, such as [0, 0.3]"
            )
        for path in (probes.folder, probes.relations):
            if path and not Path(path).exists():
                raise ConfigError(f"probes {probes.name!r}: {path} is not there; correct the path")
        try:
            _ = probes.files
        except ConfigError as error:
            raise ConfigError(f"probes {probes.name!r}: {error}") from error
        if probes.common_vocab and not Path(probes.common_vocab).is_file():
            raise ConfigError(f"probes {probes.name!r}: {probes.common_vocab} is not there")


def _shared_subject(one: ProbeSet, other: ProbeSet) -> str:
    """Return a subject that two sets of probes both ask about; empty where there is none.

    Subjects are told apart by their ids, and by their names where a set has no ids.
    """
    asked = [_subjects(probes) for probes in (one, other)]
    have_ids = all(all(qid for qid, _ in subjects) for subjects in asked)
    keys = [
        {(qid if have_ids else label.casefold()): label for qid, label in subjects}
        for subjects in asked
    ]
    shared = keys[0].keys() & keys[1].keys()
    return keys[0][min(shared)] if shared else ""


def _subjects(probes: ProbeSet) -> set[tuple[str, str]]:
    """Return id (may be empty) and name of the subjects that a set asks about.

    A row with a sentence of its own has that for a name.
    """
    subjects = set()
    for file in probes.files:
        for row in read_jsonl(file.path):
            subject = drawn_by(file.template, row)
            # A row without a subject or a sentence is asked nothing.
            if not subject or not probes.asks(subject):
                continue
            has_own_sentence = file.template is None
            qid = "" if has_own_sentence else row.get("sub_uri") or row.get("sub_w") or ""
            label = subject if has_own_sentence else row.get("sub_label", "")
            subjects.add((str(qid), str(label)))
    return subjects


def check_questions(experiment: Experiment) -> None:
    """Refuse whatever would end the first run that asks: before hours of training, not after.

    Raises:
        ConfigError: a file is missing or wrong, nothing measures quality, or a rate would be chosen by
            what it is tested on.
    """
    _check_probes(experiment)
    if not (experiment.test_probes or experiment.paraphrases or experiment.tasks):
        raise ConfigError(
            "no [[probes]] of role 'test', no [[paraphrases]] and no [[tasks]]; add one, it measures "
            "quality"
        )
    _check_limits(experiment)
    for task in experiment.tasks:
        _check_task(task)
    for facts in experiment.paraphrases:
        _check_paraphrases(facts)
    for text in experiment.texts:
        if not Path(text.path).is_file():
            raise ConfigError(f"texts {text.name!r}: {text.path} is not there; correct the path")

    validation = [probes for probes in experiment.probes if probes.role == "validation"]
    for chooser, tested in product(validation, experiment.test_probes):
        shared = _shared_subject(chooser, tested)
        if shared:
            raise ConfigError(
                f"probes {chooser.name!r} and {tested.name!r} both ask about {shared!r}; give them "
                "folders or parts that do not overlap, such as subjects = [0, 0.3] and [0.3, 1] of one "
                "folder: a rate must not be chosen by what it is tested on"
            )

    can_choose = bool(validation)
    undecided = [arm.name for arm in experiment.arms if len(experiment.rates_of(arm)) > 1]
    if undecided and not can_choose:
        raise ConfigError(
            f"arm {undecided[0]!r} has several rates, but no [[probes]] have role 'validation'; "
            "add some, or give one rate: a rate must not be chosen by what it is tested on"
        )


def _check_limits(experiment: Experiment) -> None:
    limits = [
        *(("probes", one.name, "limit", one.limit) for one in experiment.probes),
        *(("paraphrases", one.name, "limit", one.limit) for one in experiment.paraphrases),
        *(("texts", one.name, "sentences", one.sentences) for one in experiment.texts),
        *(("tasks", one.name, "limit", one.limit) for one in experiment.tasks),
    ]
    for section, name, key, limit in limits:
        if limit < 0:
            raise ConfigError(f"{section} {name!r}: {key} = {limit} must be 0 (all) or more")


def _check_paraphrases(facts: ParaphraseSet) -> None:
    for name, folder in (("folder", facts.folder), ("patterns", facts.patterns)):
        if not folder or not Path(folder).is_dir():
            raise ConfigError(
                f"paraphrases {facts.name!r}: {name} = {folder!r} is no folder; correct the path"
            )
    try:
        for path, patterns in relation_files(Path(facts.folder), Path(facts.patterns)).values():
            read_patterns(patterns)
            read_jsonl(path)
    except ConfigError as error:
        raise ConfigError(f"paraphrases {facts.name!r}: {error}") from error


def _check_task(task: TaskSet) -> None:
    if set(task.files) - {"dev"} not in ({"data"}, {"train", "test"}):
        raise ConfigError(f"tasks {task.name!r}: give data, or train and test")
    for path in task.files.values():
        if not Path(path).is_file():
            raise ConfigError(f"tasks {task.name!r}: {path} is not there; correct the path")
    for name in ("rate", "epochs", "batch", "length"):
        if getattr(task, name) <= 0:
            raise ConfigError(f"tasks {task.name!r}: {name} must be above 0")
    if not task.seeds:
        raise ConfigError(f"tasks {task.name!r}: seeds is empty; give one at least")
    files = {name: Path(path) for name, path in task.files.items()}
    try:
        if task.kind == "typing":
            read_typing_splits(files, task.limit)
        else:
            read_relation_splits(
                files, task.limit, negative=task.negative or None, is_typed=task.markers == "typed"
            )
    except ConfigError as error:
        raise ConfigError(f"tasks {task.name!r}: {error}") from error
