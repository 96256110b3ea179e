"""Fine-tune the model of a run on the tasks of an experiment: entity typing and relations."""

from __future__ import annotations

import shutil
from pathlib import Path

from trelm_train.compare.experiment import TaskSet
from trelm_train.finetune.evaluate import Request, evaluate_relations, evaluate_typing
from trelm_train.finetune.fit import Recipe, Setting
from trelm_train.finetune.grid import Grid


def task_scores(task: TaskSet, model: str, folder: Path, device: str) -> dict[str, float]:
    """Return the test score of a model on a task, as a mean over the task's seeds.

    Args:
        task: the task.
        model: name or folder.
        folder: for the cells; finished ones are taken, and it is removed at the end.
        device: that computes.

    Raises:
        TrelmError: a file is not what is needed, or training diverged.
    """
    request = Request(
        model=model,
        files={name: Path(path) for name, path in task.files.items()},
        out=folder,
        grid=Grid(settings=(Setting(rate=task.rate, epochs=task.epochs),), seeds=task.seeds),
        recipe=Recipe(batch=task.batch, length=task.length, reads_marks=task.pool == "entities"),
        limit=task.limit,
        device=device,
    )
    if task.kind == "typing":
        result = evaluate_typing(request)
    else:
        result = evaluate_relations(
            request, negative=task.negative or None, is_typed=task.markers == "typed"
        )
    shutil.rmtree(folder)
    test, metric = result["test"]["mean"], result["metric"]
    chance = max(scores[metric] for scores in result["chance"].values())
    return {"score": test[metric], "chance": chance, **test}
