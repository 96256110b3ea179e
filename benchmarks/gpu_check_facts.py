"""Train one model on rare facts by default and by plain masked LM: the acceptance check of `gpu_check`.

The world is that of the acceptance test. A model reads sentences of known subjects in all templates
(the warm-up). Then each arm reads one sentence about each fact of rare subjects, for as many steps.
Probes ask in a template that its corpus never uses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.gpu_check_verdict import at_least, at_most, verdict
from benchmarks.train_data import SHAPES
from tests.trelm_train import controlled
from tests.trelm_train.controlled import Controlled, WarmUp
from trelm_train.config import load_config
from trelm_train.evaluate.lama import Options
from trelm_train.evaluate.lama_items import probe
from trelm_train.training.session import RunRequest
from trelm_train.training.train import run

ARMS = {"default": (), "plain": ("facts.enabled=false", "cka.enabled=false", "routing.policy=full")}
# A model that cannot answer what it was warmed up on says nothing about learning.
LEAST_KNOWN = 0.5


def facts(  # noqa: PLR0913 - what a process is asked for
    out: Path, device: str, shape: str, subjects: tuple[int, int], warm_up: dict[str, Any],
    steps: int, *, must_learn: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return P@1 of rare facts before and after, by arm.

    Args:
        out: an empty folder.
        device: cpu or cuda.
        shape: of the model.
        subjects: numbers of known and of rare ones.
        warm_up: steps and rate.
        steps: of each arm.
        must_learn: whether the result is judged; a run of a few steps shows only that all runs.
    """
    num_known, num_rare = subjects
    names = controlled.names(num_known + num_rare, 0)
    known = controlled.made_facts(names[:num_known], 1)
    rare = controlled.made_facts(names[num_known:], 2)
    texts = controlled.warm_up_texts(known, 1, 0)
    answers = [answer for group in controlled.OBJECTS.values() for answer in group]
    tokenizer = controlled.word_tokenizer([*texts, *names, *answers, *controlled.RELATIONS])
    hidden, layers = SHAPES[shape]
    model = controlled.make_model(
        out / "start", texts, tokenizer,
        WarmUp(layers=layers, hidden=hidden, heads=max(2, hidden // 64), device=device, damped=layers > 2, **warm_up),
    )  # fmt: skip
    corpus = controlled.write_controlled(out / "rare", tokenizer, rare, texts[: len(rare)], 0)
    earlier = controlled.write_controlled(out / "known", tokenizer, known, texts[:10], 0)

    before = {"known": _p_at_1(model, earlier, device), "rare": _p_at_1(model, corpus, device)}
    after, seconds = {}, {}
    for arm, sets in ARMS.items():
        folder = out / arm
        _train(model, corpus, folder, steps, f"train.device={device}", *sets)
        after[arm] = _p_at_1(folder / "model", corpus, device)
        seconds[arm] = json.loads((folder / "summary.json").read_text())["training_s"]
        # Three gigabytes at base shape.
        shutil.rmtree(folder)

    aims = learning_aims(before, after) if must_learn else []
    return verdict(
        aims, p_at_1_before=before, p_at_1_after=after, training_s=seconds, steps=steps, shape=shape,
        is_judged=must_learn, guess=1 / len(controlled.OBJECTS["plays"]),
    )  # fmt: skip


def learning_aims(before: dict[str, float], after: dict[str, float]) -> list[Any]:
    """Return the aims: the start knows what it read and nothing else; the default beats plain."""
    return [
        at_least("known_before", before["known"], LEAST_KNOWN),
        at_most("rare_before", before["rare"], 0.2),
        at_least("default_over_plain", after["default"] - after["plain"], 0.05),
        at_least("default_over_before", after["default"] - before["rare"], 0.05),
    ]


def _p_at_1(model: Path, world: Controlled, device: str) -> float:
    relations = world.probes / "relations.jsonl"
    answers = probe(str(model), device, Options(probes=world.probes, relations=relations))
    return float(answers["macro"]["p_at_1"])


def _train(model: Path, world: Controlled, out: Path, steps: int, *sets: str) -> None:
    common = (
        f"train.steps={steps}", "train.batch_tokens=1024", "train.max_tokens=64", "train.validate=false",
        "train.loggers=[]", "train.keep_checkpoints=1", "train.checkpoint_every=100000", "train.dropout=0",
    )  # fmt: skip
    config = load_config(None, [*common, *sets])
    run(RunRequest(shards=world.shards, model=str(model), out=out, config=config))
