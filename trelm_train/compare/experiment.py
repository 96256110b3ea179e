"""Check an experiment: what is compared, on which shards, by which questions.

The values of a file go in (`experiment_file`): `[experiment]`, and lists such as `[[probes]]` and
`[[arms]]`. Comes out: frozen dataclasses, checked before any work; every arm's settings are known to
be right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import ConfigError
from schemas.settings import build, key
from trelm_train.compare.experiment_file import read_experiment_file
from trelm_train.compare.published import published_table
from trelm_train.compare.question_checks import check_questions
from trelm_train.config import Config, load_config
from trelm_train.evaluate.lama_files import ProbeFile, ProbeFiles, find_files

# The name of the run that measures the model before any training.
UNTRAINED = "untrained"
# A name becomes a folder.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+%_.-]*")
# A run of a comparison has one thread, leaves measuring to the comparison, and keeps one checkpoint.
FIXED = (
    "train.threads=1",
    "train.validate=false",
    "train.loggers=[]",
    "train.keep_checkpoints=1",
    "evaluation.every=0",
)
# Decided by the comparison, so no arm may set them.
DECIDED = (
    "train.steps",
    "train.seed",
    "train.learning_rate",
    *(item.split("=")[0] for item in FIXED),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Configure a comparison as a whole: section `[experiment]`."""

    name: str = key("", "Name of the experiment, which becomes a folder in --out")
    shards: str = key("", "Folder of a finished `trelm-pipeline shards`")
    model: str = key("", "Name or folder of the pretrained masked LM")
    baseline: str = key("", "Name of the arm whose seconds are the budget")
    reference: str = key(
        "", "Name of a second arm that all others are compared with; empty for none"
    )
    steps: int = key(1000, "Steps of the baseline at the full budget")
    seeds: tuple[int, ...] = key((0, 1, 2), "Seeds of every arm at every budget")
    budgets: tuple[float, ...] = key(
        (0.2, 0.3, 0.4, 0.6, 1.0),
        "Shares of the baseline's seconds, each with a schedule of its own",
    )
    rates: tuple[float, ...] = key((1e-4,), "Learning rates to try, unless an arm has its own")
    tuning_seeds: tuple[int, ...] = key((100,), "Seeds of the runs that choose an arm's rate")
    tuning_budgets: tuple[float, ...] = key(
        (1.0,), "Budgets at which rates are tried; a run takes the rate of the nearest one"
    )
    set: tuple[str, ...] = key((), "Settings of every arm, as SECTION.KEY=VALUE")
    validation_sentences: int = key(
        4096, "Sentences of the validation split for the masked-LM loss; 0 leaves it out"
    )
    timing_rounds: int = key(5, "Rounds in which an arm and the baseline take turns to be timed")
    timing_steps: int = key(4, "Steps of each of the two in a round")
    resamples: int = key(1000, "Resamples of the bootstrap")
    published: str = key(
        "", "Name of a published table that stands below the results; empty for none"
    )
    importance_seconds: float = key(
        0.0, "Seconds that semantic importance took offline; 0 asks the shards' run"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSet:
    """Name a folder of LAMA probes: section `[[probes]]`."""

    name: str = key("", "Name of the probes in tables")
    folder: str = key("", "Folder with P….jsonl files")
    relations: str = key("", "Path of relations.jsonl; empty takes the one in the folder")
    common_vocab: str = key("", "Path of a word list over which answers are ranked")
    role: Literal["test", "validation"] = key(
        "test", "test reports it, validation chooses rates by it"
    )
    uhn: str = key(
        "",
        "Filter of names that tell the answer: string, or a masked LM to ask; empty for none",
    )
    limit: int = key(0, "Items per relation; 0 asks all")
    subjects: tuple[float, ...] = key(
        (0.0, 1.0),
        "Part of the subjects that is asked, as two ends from 0 to 1 of their hashes; sets of parts "
        "that do not overlap share no subject",
    )

    def asks(self, subject: str) -> bool:
        """Say whether a subject belongs to the part that is asked."""
        low, high = self.subjects
        # A hash and no list: parts stay what they are when facts are added to the file.
        hashed = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:6], "big") / 2**48
        return low <= hashed < high

    @property
    def files(self) -> list[ProbeFile]:
        """Return the files of the folder, in any of LAMA's forms.

        Raises:
            ConfigError: a file is unreadable, or there is none.
        """
        return self.found.files

    @property
    def found(self) -> ProbeFiles:
        """Return the files of the folder, and the file of their templates.

        Raises:
            ConfigError: a file is unreadable, or there is none.
        """
        relations = Path(self.relations) if self.relations else None
        return find_files(Path(self.folder), relations)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSet:
    """Name a plain text whose masked-LM loss says what was forgotten: section `[[texts]]`."""

    name: str = key("", "Name of the text in tables")
    path: str = key("", "Path of a UTF-8 text; a line is one text or more")
    sentences: int = key(0, "Number of pieces of a line, from the first; 0 takes all")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParaphraseSet:
    """Name facts that are asked in several ways, as in ParaRel: section `[[paraphrases]]`."""

    name: str = key("", "Name of the facts in tables")
    folder: str = key("", "Folder with P….jsonl files of facts")
    patterns: str = key("", "Folder with P….jsonl files of patterns; the first one is the base")
    limit: int = key(0, "Facts per relation; 0 asks all")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSet:
    """Name labelled rows that every model is fine-tuned on: section `[[tasks]]`."""

    name: str = key("", "Name of the task in tables")
    kind: Literal["typing", "relation"] = key("typing", "Kind of the task: typing or relation")
    data: str = key("", "Path of one file that a hash of the sentence splits 80/10/10")
    train: str = key("", "Path of the rows to train on, in place of data")
    dev: str = key("", "Path of development rows, which nothing is chosen by; may be empty")
    test: str = key("", "Path of the rows that are scored")
    rate: float = key(5e-5, "Peak learning rate of the fine-tuning")
    epochs: int = key(3, "Number of epochs of the fine-tuning")
    batch: int = key(32, "Number of rows per step")
    length: int = key(128, "Most tokens of a row")
    limit: int = key(0, "Number of rows of each part; 0 takes all")
    seeds: tuple[int, ...] = key((0,), "Seeds of the fine-tuning, for each model")
    pool: Literal["cls", "entities"] = key("cls", "State that is classified: cls or entities")
    markers: Literal["plain", "typed"] = key("plain", "Markers of subject and object, for relation")
    negative: str = key("", "Label of no relation; empty finds it by its name")

    @property
    def files(self) -> dict[str, str]:
        """Return the paths that are given, by their names."""
        given = {name: str(getattr(self, name)) for name in ("data", "train", "dev", "test")}
        return {name: path for name, path in given.items() if path}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Name one way to train: section `[[arms]]`."""

    name: str = key("", "Name of the arm, which becomes a folder")
    set: tuple[str, ...] = key((), "Settings of this arm, as SECTION.KEY=VALUE")
    rates: tuple[float, ...] = key((), "Learning rates to try; empty takes the experiment's")
    shards: str = key(
        "", "Folder of other shards that this arm trains on; empty takes the experiment's"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Hold an experiment file."""

    experiment: Settings
    arms: tuple[Arm, ...]
    probes: tuple[ProbeSet, ...] = ()
    texts: tuple[TextSet, ...] = ()
    paraphrases: tuple[ParaphraseSet, ...] = ()
    tasks: tuple[TaskSet, ...] = ()

    def arm(self, name: str) -> Arm:
        """Return the arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def shards_of(self, name: str) -> str:
        """Return the shards that an arm trains on; measured are those of the experiment."""
        own = next((arm.shards for arm in self.arms if arm.name == name), "")
        return own or self.experiment.shards

    def rates_of(self, arm: Arm) -> tuple[float, ...]:
        """Return the rates that an arm tries."""
        return arm.rates or self.experiment.rates

    @property
    def test_probes(self) -> tuple[ProbeSet, ...]:
        """Return the probes that are reported."""
        return tuple(probes for probes in self.probes if probes.role == "test")

    def config(self, arm: Arm, rate: float = 1e-4, seed: int = 0, steps: int = 1) -> Config:
        """Return the settings of one run.

        Raises:
            ConfigError: a setting of the arm is wrong.
        """
        # `repr` gives every digit of the rate back; the run's own settings come last, so they win.
        own = (f"train.learning_rate={rate!r}", f"train.seed={seed}", f"train.steps={steps}")
        try:
            return load_config(None, [*self.experiment.set, *arm.set, *FIXED, *own])
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name!r}: {error}") from error


def load_experiment(path: Path, sets: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file, with settings such as `experiment.steps=80` applied to it.

    Raises:
        ConfigError: unreadable, an unknown key, a path that is not there, settings that are wrong.
    """
    experiment = build(Experiment, read_experiment_file(path, sets), str(path))
    try:
        _check_settings(experiment.experiment)
        _check_names(experiment)
        check_questions(experiment)
        for arm in experiment.arms:
            _check_arm(experiment, arm)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return experiment


def _check_settings(settings: Settings) -> None:
    lists = ("seeds", "budgets", "rates", "tuning_seeds", "tuning_budgets")
    for name in ("name", "shards", "model", "baseline", *lists):
        if not getattr(settings, name):
            raise ConfigError(f"experiment.{name} is empty; set it")
    for name in lists:
        _check_differ(f"experiment.{name}", getattr(settings, name))
    for name in ("budgets", "tuning_budgets"):
        if not all(0 < budget <= 1 for budget in getattr(settings, name)):
            raise ConfigError(f"experiment.{name} must lie above 0 and not above 1")
    # Every time to quality is measured against the baseline's whole run.
    if max(settings.budgets) != 1:
        raise ConfigError("experiment.budgets must hold 1, the baseline's whole run; add it")
    for name in ("steps", "timing_rounds", "timing_steps", "resamples"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"experiment.{name} must be 1 or more")
    _check_seeds(settings)
    published_table(settings.published)


def _check_differ(name: str, values: Sequence[float]) -> None:
    # As they are written in the folders of runs: two runs would share one.
    if len({f"{value:g}" for value in values}) < len(values):
        raise ConfigError(f"{name} = {list(values)} has a value twice; give each once")


def _check_seeds(settings: Settings) -> None:
    # Otherwise the seeds that chose a rate would judge it, too.
    shared = set(settings.seeds) & set(settings.tuning_seeds)
    if shared:
        raise ConfigError(
            f"experiment.tuning_seeds and experiment.seeds share {sorted(shared)}; use other ones"
        )


def _check_names(experiment: Experiment) -> None:
    settings = experiment.experiment
    groups = {
        "experiment": [settings.name],
        "arms": [arm.name for arm in experiment.arms],
        "probes": [probes.name for probes in experiment.probes],
        "texts": [text.name for text in experiment.texts],
        "paraphrases": [facts.name for facts in experiment.paraphrases],
        "tasks": [task.name for task in experiment.tasks],
    }
    for group, names in groups.items():
        for name in names:
            if not NAME.fullmatch(name):
                raise ConfigError(
                    f"{group}: name {name!r} must be letters, digits and + % _ . -, such as 'facts+ig'"
                )
            if names.count(name) > 1:
                raise ConfigError(f"{group}: name {name!r} is there twice; give another one")
    if UNTRAINED in groups["arms"]:
        # Its folder is that of the model before any training.
        raise ConfigError(f"arms: name {UNTRAINED!r} is taken; give another one")

    for key_name in ("baseline", "reference"):
        arm_name = getattr(settings, key_name)
        if arm_name and arm_name not in groups["arms"]:
            known = ", ".join(groups["arms"]) or "none"
            raise ConfigError(f"experiment.{key_name} = {arm_name!r} is no arm; there are {known}")


def _check_arm(experiment: Experiment, arm: Arm) -> None:
    for item in (*experiment.experiment.set, *arm.set):
        name = item.partition("=")[0].strip()
        if name in DECIDED:
            raise ConfigError(f"arm {arm.name!r}: {name} is decided by the comparison; remove it")
    _check_differ(f"arm {arm.name!r}: rates", experiment.rates_of(arm))
    for rate in experiment.rates_of(arm):
        experiment.config(arm, rate=rate)
