"""Plan the runs: arms x seeds x budgets, the steps of each, its folder and its fingerprint.

Pure but for the hashes of the inputs. A budget is a share of the baseline's seconds; an arm gets
as many steps as fit into it at its own measured cost, refreshes of its neurons included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schemas.bucket_copies import local_model
from schemas.buckets import location_of
from schemas.errors import ConfigError
from schemas.settings import to_dict
from trelm_train.compare.experiment import UNTRAINED, Arm, Experiment
from trelm_train.config import OPERATIONAL, TRAINING_VERSION, Config
from trelm_train.data.shards import Shards, open_shards, sha256_of
from trelm_train.evaluate.paraphrase_files import relation_files

# Raised when the same inputs give other measures.
# 2: the loss near rare entities.
MEASURES_VERSION = 2
TUNING, FINAL = "tuning", "final"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Hold what a step of an arm costs.

    Seconds are of the processor (or of the wall clock on a GPU); FLOPs are two for each
    multiplication and addition of a matrix product.
    """

    step_s: float
    # One choice of neurons, and the steps from one to the next; 0: chosen once.
    refresh_s: float = 0.0
    refresh_every: int = 0
    step_flops: float = 0.0
    refresh_flops: float = 0.0

    def num_refreshes(self, steps: int) -> int:
        """Return how often neurons are chosen in a run of some steps."""
        if not self.refresh_s and not self.refresh_flops:
            return 0
        return -(-steps // self.refresh_every) if self.refresh_every else 1

    def seconds(self, steps: int) -> float:
        """Return the seconds of a run of some steps."""
        return steps * self.step_s + self.num_refreshes(steps) * self.refresh_s

    def flops(self, steps: int) -> float:
        """Return the FLOPs of a run of some steps."""
        return steps * self.step_flops + self.num_refreshes(steps) * self.refresh_flops

    def steps_within(self, seconds: float) -> int:
        """Return the largest number of steps that fit into some seconds, at least 1."""
        # Without refreshes first: a bound from above, which then goes down.
        steps = max(1, int(seconds / self.step_s))
        while steps > 1 and self.seconds(steps) > seconds * (1 + 1e-9):
            # A step less saves at most a step and a refresh, so this never goes too far down.
            over = self.seconds(steps) - seconds
            steps = max(1, steps - max(1, int(over / (self.step_s + self.refresh_s))))
        return steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Name one run; its folder is relative to the experiment's."""

    role: str
    arm: str
    rate: float
    seed: int
    budget: float
    steps: int
    seconds: float
    flops: float
    config: Config | None

    @property
    def folder(self) -> str:
        """Return the folder of the run, relative to the experiment's."""
        if self.role == UNTRAINED:
            return "runs/untrained"
        return f"runs/{self.arm}/rate-{self.rate:g}/seed-{self.seed}/budget-{self.budget:g}"


def untrained_run() -> Run:
    """Return the run that measures the model before any training."""
    return Run(
        role=UNTRAINED, arm=UNTRAINED, rate=0.0, seed=0, budget=0.0, steps=0, seconds=1.0, flops=0.0,
        config=None,
    )  # fmt: skip


def plan_run(
    experiment: Experiment, costs: dict[str, Cost], arm: Arm, rate: float, place: tuple[int, float]
) -> Run:
    """Plan the run of an arm at a rate; `place` is its seed and its budget."""
    seed, budget = place
    settings, cost = experiment.experiment, costs[arm.name]
    total_s = costs[settings.baseline].seconds(settings.steps)
    steps = cost.steps_within(total_s * budget)
    if arm.name == settings.baseline:
        # As written in the file: a division must not take a step away.
        steps = max(1, round(settings.steps * budget))
    return Run(
        # The two lists of seeds share none, so a seed says what its run is for.
        role=TUNING if seed in settings.tuning_seeds else FINAL,
        arm=arm.name,
        rate=rate,
        seed=seed,
        budget=budget,
        steps=steps,
        seconds=cost.seconds(steps),
        flops=cost.flops(steps),
        config=experiment.config(arm, rate, seed, steps),
    )


def tuning_runs(experiment: Experiment, costs: dict[str, Cost], arm: Arm) -> list[Run]:
    """Plan the runs that choose an arm's rate; none where it has one rate only."""
    rates, settings = experiment.rates_of(arm), experiment.experiment
    if len(rates) == 1:
        return []
    return [
        plan_run(experiment, costs, arm, rate, (seed, budget))
        for budget in settings.tuning_budgets
        for seed in settings.tuning_seeds
        for rate in rates
    ]


def final_runs(
    experiment: Experiment, costs: dict[str, Cost], arm: Arm, rate_of_budget: dict[float, float]
) -> list[Run]:
    """Plan the runs that are reported, the longest first."""
    settings = experiment.experiment
    return [
        plan_run(experiment, costs, arm, rate_of_budget[budget], (seed, budget))
        # A short run at the end leaves no worker waiting for long.
        for budget in sorted(settings.budgets, reverse=True)
        for seed in settings.seeds
    ]


def nearest(budget: float, tuning_budgets: tuple[float, ...]) -> float:
    """Return the tuning budget that is nearest to a budget, by their ratio."""
    return min(tuning_budgets, key=lambda tuned: max(tuned / budget, budget / tuned))


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Hold what identifies everything outside the settings: shards, model, questions."""

    shards: str
    model: str
    questions: str
    # Of arms that train on shards of their own.
    arm_shards: Mapping[str, str] = field(default_factory=dict)

    def shards_of(self, arm: str) -> str:
        """Return the fingerprint of the shards that an arm trains on."""
        return self.arm_shards.get(arm, self.shards)

    def fingerprint(self, config: Config | None, arm: str = "") -> str:
        """Return the fingerprint of an arm's run with these settings.

        What changes nothing is left out.
        """
        learned = learned_settings(config) if config else {}
        inputs = {"shards": self.shards, "model": self.model, "questions": self.questions}
        if self.shards_of(arm) != self.shards:
            inputs["arm_shards"] = self.shards_of(arm)
        return digest([inputs, learned, MEASURES_VERSION, TRAINING_VERSION])


def learned_settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide what is learned."""
    return {
        f"{section}.{name}": value
        for section, values in to_dict(config).items()
        for name, value in values.items()
        if section not in OPERATIONAL and f"{section}.{name}" not in OPERATIONAL
    }


def inputs_of(experiment: Experiment) -> Inputs:
    """Hash the inputs of an experiment.

    Raises:
        ConfigError: the shards are not there, or not finished.
    """
    settings = experiment.experiment
    questions: list[Any] = [settings.validation_sentences]
    for probes in experiment.probes:
        found = probes.found
        files = [] if found.relations is None else [found.relations]
        files += sorted(Path(probes.folder).glob("*.jsonl"))
        # In folders below it.
        files += sorted({file.path for file in found.files} - set(files))
        if probes.common_vocab:
            files.append(Path(probes.common_vocab))
        # Its role decides what is done with the measures, not what they are.
        asked_items: tuple[Any, ...] = (probes.limit, *probes.subjects)
        asked_items += (_known_by(probes.uhn, TOKENIZER_FILES),) if probes.uhn else ()
        questions.append(
            [probes.name, asked_items, [(path.name, sha256_of(path)) for path in files]]
        )
    for text in experiment.texts:
        questions.append([text.name, text.sentences, sha256_of(Path(text.path))])

    for facts in experiment.paraphrases:
        pairs = relation_files(Path(facts.folder), Path(facts.patterns))
        read = {name: [sha256_of(path) for path in paths] for name, paths in pairs.items()}
        questions.append(["paraphrases", facts.name, facts.limit, read])
    for task in experiment.tasks:
        content = [(name, sha256_of(Path(path))) for name, path in task.files.items()]
        how = {name: value for name, value in asdict(task).items() if name not in task.files}
        questions.append(["task", how, content])

    return Inputs(
        shards=open_shards(location_of(settings.shards)).fingerprint,
        arm_shards={
            arm.name: _checked_shards(experiment, arm).fingerprint
            for arm in experiment.arms
            if arm.shards
        },
        model=_known_by(settings.model),
        questions=digest(questions),
    )


def _known_by(model: str, more: Sequence[str] = ()) -> str:
    """Return the hash of a model's files; a model of the hub is known by its name alone.

    The tokenizer's files are given as `more` where it is read from there: training takes the shards'.
    """
    folder = Path(local_model(model))
    # Dropout and the like stand in the configuration, not in the weights.
    names = ("config.json", *more)
    files = [*folder.glob("*.safetensors"), *(folder / name for name in names)]
    model_files = sorted(path for path in files if path.is_file())
    return digest([sha256_of(path) for path in model_files]) if model_files else model


def _checked_shards(experiment: Experiment, arm: Arm) -> Shards:
    """Open an arm's own shards.

    Raises:
        ConfigError: they are not there, or made for another tokenizer than the experiment's.
    """
    own = open_shards(location_of(arm.shards))
    whole = open_shards(location_of(experiment.experiment.shards))
    if own.tokenizer_sha256 != whole.tokenizer_sha256:
        raise ConfigError(
            f"arm {arm.name!r}: {arm.shards} was made with another tokenizer than "
            f"{experiment.experiment.shards}; make it for the same model"
        )
    return own


def digest(value: Any) -> str:  # noqa: ANN401 - anything that JSON holds
    """Return a short hash of plain values."""
    # Sorted: the order in which settings are written must not count.
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ordered(runs: list[Run]) -> list[Run]:
    """Return the runs with the longest first, so that no worker waits for one at the end.

    The untrained model comes before all: what cannot be asked is known before any training.
    """
    return sorted(runs, key=lambda run: (run.role != UNTRAINED, -run.seconds))
