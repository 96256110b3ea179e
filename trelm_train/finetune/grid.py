"""Train every cell of a grid (setting x seed), choose a setting on dev, and ask test once.

Every finished cell is a file in the folder of results, with the answers to test, which are not
compared with the gold before a setting has been chosen. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.checksums import sealed, unsealed
from schemas.durable import write_durably
from schemas.errors import ConfigError, TrelmError
from schemas.listing import a_few
from schemas.occupied import occupant
from trelm_train.finetune.fit import Data, Fitted, Recipe, Setting, fit
from trelm_train.finetune.task import Scores
from trelm_train.training.signals import Stop

log = logging.getLogger(__name__)
SETTINGS_NAME, CELLS, RESULTS_NAME = "settings.json", "cells", "results.json"
# What the cells of a folder are made of: each part by a name that a user understands.
Identity = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Hold the settings and seeds; each setting is trained with each seed."""

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]

    @property
    def cells(self) -> list[tuple[Setting, int]]:
        """Return every setting with every seed."""
        return [(setting, seed) for setting in self.settings for seed in self.seeds]


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Hold the chosen setting and its figures on test, beside those of the grid on dev."""

    chosen: Setting
    # Setting -> what its seeds came to on dev.
    grid: list[dict[str, Any]]
    test: dict[str, Any]


def check_folder(out: Path) -> None:
    """Refuse a folder that holds a run, a model, or files that are no results of these commands.

    Raises:
        ConfigError: says what it holds.
    """
    if not out.is_dir() or (out / SETTINGS_NAME).is_file():
        return
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if names:
        kind = occupant(out)
        raise ConfigError(
            f"{out}: holds {a_few(names)}{f' ({kind})' if kind else ''}, which are no results of this "
            "command; give a new or an empty folder as --out"
        )


def check_identity(out: Path, identity: Identity) -> None:
    """Refuse a folder whose cells were made of another model, other data or another protocol.

    Raises:
        ConfigError: names what differs.
    """
    path = out / SETTINGS_NAME
    try:
        kept = unsealed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); give a new folder as --out"
        ) from error
    wanted = json.loads(json.dumps(identity))
    changed = sorted(
        name for name in kept.keys() | wanted.keys() if kept.get(name) != wanted.get(name)
    )
    if changed:
        raise ConfigError(
            f"{out}: holds results of another {a_few(changed)}; give a new folder as --out"
        )


def write_identity(out: Path, identity: Identity) -> None:
    """Write down what the cells of a folder are made of."""
    # The settings first: by them the folder is known, also if this is the last thing that is written.
    write_durably(out / SETTINGS_NAME, sealed(dict(identity)))
    (out / CELLS).mkdir(exist_ok=True)


def fit_grid(
    data: Data, grid: Grid, recipe: Recipe, out: Path, device: torch.device, stop: Stop
) -> dict[tuple[Setting, int], Fitted]:
    """Train the cells that the folder lacks, and return all.

    Raises:
        InterruptedRun: a signal asked for the end; what was finished is kept.
    """
    fitted = {}
    for number, (setting, seed) in enumerate(grid.cells, 1):
        path = out / CELLS / f"{setting.name}-seed-{seed}.json"
        cell = _read_cell(path)
        if cell is None:
            log.info("cell %d/%d  %s seed %d", number, len(grid.cells), setting.name, seed)
            cell = fit(data, setting, seed, recipe, device, stop)
            write_durably(path, sealed(asdict(cell)))
            log.info("cell %d/%d  %s", number, len(grid.cells), _line(cell, data.task.metric))
        else:
            log.info("cell %d/%d  %s seed %d: kept", number, len(grid.cells), setting.name, seed)
        fitted[(setting, seed)] = cell
    return fitted


def _line(cell: Fitted, metric: str) -> str:
    dev = "diverged" if cell.dev is None else f"dev {metric} {cell.dev[metric]:.4f}"
    return f"{dev}  {cell.steps} steps  {cell.seconds:.1f} s"


def _read_cell(path: Path) -> Fitted | None:
    """Return a finished cell; None where it is not there, or was changed: then it is made again."""
    try:
        values = unsealed(path.read_text(encoding="utf-8"))
        answers = values.pop("test_answers")
        kept = None if answers is None else [tuple(answer) for answer in answers]
        return Fitted(**values, test_answers=kept)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("%s: not as it was written (%s); made again", path, error)
        return None


def summarise(data: Data, grid: Grid, fitted: Mapping[tuple[Setting, int], Fitted]) -> Results:
    """Choose the setting with the highest mean on dev, and score its answers to test.

    Of equal ones the first in the grid's order is chosen. A setting counts only if none of its seeds
    diverged.

    Raises:
        TrelmError: every setting diverged.
    """
    metric = data.task.metric
    rows, means = [], {}
    for setting in grid.settings:
        cells = [fitted[(setting, seed)] for seed in grid.seeds]
        dev = [cell.dev for cell in cells if cell.dev is not None]
        if len(dev) == len(cells):
            means[setting] = statistics.fmean(scores[metric] for scores in dev)
        seeds = [
            {
                "seed": seed,
                **{name: value for name, value in asdict(cell).items() if name != "test_answers"},
            }
            for seed, cell in zip(grid.seeds, cells, strict=True)
        ]
        rows.append({**asdict(setting), "dev": mean_and_std(dev), "seeds": seeds})

    if not means:
        raise TrelmError(
            f"training diverged in every setting ({a_few([setting.name for setting in grid.settings])}); "
            "give a lower --rate"
        )
    chosen = max(means, key=lambda setting: means[setting])
    test = []
    for seed in grid.seeds:
        answers = fitted[(chosen, seed)].test_answers
        assert answers is not None
        test.append(data.task.scores(data.examples["test"], answers))
    by_seed = [{"seed": seed, **scores} for seed, scores in zip(grid.seeds, test, strict=True)]
    return Results(chosen=chosen, grid=rows, test={**mean_and_std(test), "seeds": by_seed})


def mean_and_std(scores: Sequence[Scores]) -> dict[str, Any]:
    """Return mean and sample standard deviation of each figure; the latter is null for one seed."""
    names = list(scores[0]) if scores else []
    values = {name: [entry[name] for entry in scores] for name in names}
    return {
        "mean": {name: statistics.fmean(figures) for name, figures in values.items()},
        "std": {
            name: statistics.stdev(figures) if len(figures) > 1 else None
            for name, figures in values.items()
        },
    }
