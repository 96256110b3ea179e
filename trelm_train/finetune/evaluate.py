"""Evaluate a model on a labelled task, from files to figures.

Goes in: the name of a model, files of rows, a grid. Comes out: a mapping for JSON, which is also
written to `results.json`, and a few lines of text. Costs a training of the encoder for every cell of
the grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schemas.durable import write_durably
from schemas.run_lock import hold
from trelm_train.finetune.classifier import Encoder, load_encoder
from trelm_train.finetune.examples import PARTS, Example, Splits, label_counts
from trelm_train.finetune.fit import Data, Recipe
from trelm_train.finetune.grid import (
    RESULTS_NAME,
    Grid,
    Results,
    check_folder,
    check_identity,
    fit_grid,
    summarise,
    write_identity,
)
from trelm_train.finetune.marking import Encoded, encode, markers_of, truncation
from trelm_train.finetune.task import RelationTask, Task, TypingTask
from trelm_train.finetune.task_files import read_relation_splits, read_typing_splits
from trelm_train.model.masked_lm import pick_device
from trelm_train.model.precision import number_format
from trelm_train.training.signals import Stop

# A change of it makes kept cells those of another protocol.
PROTOCOL_VERSION = 1
TYPING_PROTOCOL = (
    "a marker before and after the span; {state}, dropout, one linear layer, binary cross-entropy; a "
    "label is predicted where its logit is above 0{rule}; micro figures sum over all rows; a row "
    "without labels counts in precision alone; every row is scored, also where its span was cut"
)
RELATION_PROTOCOL = (
    "markers before and after subject and object{types}; {state}, dropout, one linear layer, "
    "cross-entropy; the highest logit is the answer; micro figures {negative}; every row is scored, "
    "also where a span was cut"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Hold what both commands ask for."""

    model: str
    # By option: data, or train, test and perhaps dev.
    files: dict[str, Path]
    out: Path
    grid: Grid
    recipe: Recipe
    # Rows of each part; 0: all.
    limit: int = 0
    device: str = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """Hold a task on its examples, and how it is described."""

    request: Request
    task: Task
    splits: Splits
    protocol: str
    is_typed: bool = False
    # What the result says beside what both tasks have.
    more: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, data: Data) -> dict[str, Any]:
        """Say what decides the cells: model, texts as the model reads them, labels, protocol."""
        return {
            "protocol": f"{PROTOCOL_VERSION}: {self.protocol}",
            "model": data.encoder.weights_sha256,
            # Of the same weights, dropout or the number of heads may differ.
            "configuration": data.encoder.configuration_sha256,
            **{part: _sha256(data.encoded[part], data.examples[part]) for part in PARTS},
            **self.recipe(),
        }

    def recipe(self) -> dict[str, Any]:
        """Return the recipe with the number format that `auto` comes to here."""
        dtype = number_format(self.request.recipe.precision, pick_device(self.request.device))
        return {**asdict(self.request.recipe), "precision": str(dtype).removeprefix("torch.")}


def evaluate_typing(request: Request, *, or_best: bool = False) -> dict[str, Any]:
    """Fine-tune and score a model on entity typing.

    Args:
        request: model, files, grid.
        or_best: predict the best label also where no logit is above 0.

    Raises:
        ConfigError: a file, the model, or the folder is not what is needed.
        InterruptedRun: a signal asked for the end; what was finished is kept.
        TrelmError: training diverged in every setting.
    """
    check_folder(request.out)
    splits = read_typing_splits(request.files, request.limit)
    rule = ", and the highest one in any case" if or_best else ""
    protocol = TYPING_PROTOCOL.format(state=_state(request.recipe), rule=rule)
    task = TypingTask(splits.parts["train"], or_best=or_best)
    return _evaluate(_Prepared(request=request, task=task, splits=splits, protocol=protocol))


def evaluate_relations(
    request: Request, *, negative: str | None = None, is_typed: bool = False
) -> dict[str, Any]:
    """Fine-tune and score a model on relation classification.

    Args:
        request: model, files, grid.
        negative: the label that says "no relation"; None finds it by its name.
        is_typed: markers name the types of subject and object.

    Raises:
        ConfigError: a file, the model, the folder or the negative class is not what is needed, or
            types would tell the answers.
        InterruptedRun: a signal asked for the end; what was finished is kept.
        TrelmError: training diverged in every setting.
    """
    check_folder(request.out)
    splits, negative = read_relation_splits(
        request.files, request.limit, negative=negative, is_typed=is_typed
    )
    without = "over all rows: there is no negative class"
    protocol = RELATION_PROTOCOL.format(
        types=" that name their types" if is_typed else "",
        state=_state(request.recipe),
        negative=without if negative is None else f"without the negative class {negative!r}",
    )
    task = RelationTask(splits.parts["train"], negative)
    prepared = _Prepared(
        request=request,
        task=task,
        splits=splits,
        protocol=protocol,
        is_typed=is_typed,
        more={"negative": negative},
    )
    return _evaluate(prepared)


def _state(recipe: Recipe) -> str:
    return "the states at the markers before them" if recipe.reads_marks else "the state of [CLS]"


def _evaluate(prepared: _Prepared) -> dict[str, Any]:
    request = prepared.request
    device = pick_device(request.device)
    encoder = load_encoder(request.model)
    encoder.check_length(request.recipe.length)
    data = _encode(prepared, encoder)
    identity = prepared.identity(data)

    stop = Stop()
    with hold(request.out, "trelm-train evaluate"), stop.listening():
        # Under the lock: another call could write its own between the look and the writing.
        check_identity(request.out, identity)
        write_identity(request.out, identity)
        fitted = fit_grid(data, request.grid, request.recipe, request.out, device, stop)
        results = summarise(data, request.grid, fitted)
        result = _result(prepared, data, results)
        write_durably(
            request.out / RESULTS_NAME, json.dumps(result, indent=1, allow_nan=False) + "\n"
        )
    return result


def _encode(prepared: _Prepared, encoder: Encoder) -> Data:
    parts = prepared.splits.parts
    markers = markers_of(parts["train"], encoder.num_ids, is_typed=prepared.is_typed)
    length = prepared.request.recipe.length
    encoded = {
        name: encode(encoder.tokenizer, examples, markers, length)
        for name, examples in parts.items()
    }
    encoder.add_markers(markers.descriptions)
    return Data(task=prepared.task, encoder=encoder, examples=parts, encoded=encoded)


def _sha256(encoded: Sequence[Encoded], examples: Sequence[Example]) -> str:
    """Return a hash of what a model reads of a part, and of its labels."""
    digest = hashlib.sha256()
    for row, example in zip(encoded, examples, strict=True):
        digest.update(row.ids.tobytes())
        # Types name markers, whose embeddings begin as those of the words.
        types = [span.type for span in example.spans]
        digest.update(json.dumps([row.marks, example.labels, types]).encode())
    return digest.hexdigest()


def _result(prepared: _Prepared, data: Data, results: Results) -> dict[str, Any]:
    parts, task = prepared.splits.parts, prepared.task
    unknown = label_counts(parts["test"])
    for label in task.classes:
        unknown.pop(label, None)
    request = prepared.request
    return {
        "model": request.model,
        "model_sha256": data.encoder.weights_sha256,
        "protocol": prepared.protocol,
        **prepared.more,
        "data": prepared.splits.describe(),
        "classes": list(task.classes),
        "test_labels_that_train_lacks": dict(unknown),
        "truncation": {name: truncation(rows) for name, rows in data.encoded.items()},
        "recipe": prepared.recipe(),
        "metric": task.metric,
        "grid": results.grid,
        "chosen": asdict(results.chosen),
        "test": results.test,
        "chance": task.chance(parts["train"], parts["test"]),
        "library_versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def readable(result: dict[str, Any]) -> str:
    """Return the result as a few lines of text."""
    data, chosen, test = result["data"], result["chosen"], result["test"]
    lines = [
        f"{'train':6} {data['parts']['train']['rows']} rows, {len(result['classes'])} labels; dev "
        f"{data['parts']['dev']['rows']}, test {data['parts']['test']['rows']} rows ({data['split']})"
    ]
    cut = result["truncation"]["test"]
    lines.append(
        f"{'test':6} {cut['rows_cut']} rows cut to {result['recipe']['length']} tokens, "
        f"{cut['rows_with_a_span_cut']} in a span; a cut at the end would have spoilt "
        f"{cut['rows_that_a_cut_at_the_end_would_spoil']}"
    )
    # The negative class is never missed.
    lacking = [
        label for label in result["test_labels_that_train_lacks"] if label != result.get("negative")
    ]
    if lacking:
        names = ", ".join(lacking)
        lines.append(f"{'test':6} labels that no training row has, all missed: {names}")
    for row in result["grid"]:
        mean, std = (row["dev"][key].get(result["metric"]) for key in ("mean", "std"))
        figure = "diverged" if mean is None else _figure(mean, std)
        lines.append(f"{'dev':6} {_setting(row)}  {result['metric']} {figure}")
    lines.append(f"chosen {_setting(chosen)}; seeds {len(test['seeds'])}")
    for name, mean in test["mean"].items():
        lines.append(f"{'test':6} {name:22} {_figure(mean, test['std'][name])}")
    for name, scores in result["chance"].items():
        lines.append(
            f"chance {name} ({', '.join(scores['answer'])}): {result['metric']} "
            f"{scores[result['metric']]:.4f}"
        )
    return "\n".join(lines)


def _setting(row: dict[str, Any]) -> str:
    length = f"{row['steps']} steps" if row["steps"] else f"{row['epochs']} epochs"
    return f"rate {row['rate']:g}, {length}"


def _figure(mean: float, std: float | None) -> str:
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"
