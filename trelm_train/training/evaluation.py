"""Evaluate while a run goes on: the plain model, without memory and injection, on fixed questions.

The cost of an evaluation is bounded by `evaluation.sentences` (masked-LM loss on that many
sentences of the validation split, the first ones: its rows lie in random order) and
`evaluation.lama_limit` (items per relation). Each evaluation ends as a line of `evaluations.jsonl`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from schemas.bucket_copies import local_file, local_folder
from schemas.buckets import location_of
from schemas.durable import write_durably
from schemas.errors import ConfigError, TrelmError
from trelm_train.checkpoints.checkpoint import CHECKPOINTS
from trelm_train.config import EvaluationConfig
from trelm_train.evaluate.finite import NotFiniteError
from trelm_train.evaluate.lama import Options, Prober, ask_all, collect, score_answers
from trelm_train.evaluate.mlm import evaluate_mlm
from trelm_train.model.masked_lm import load_tokenizer
from trelm_train.reporting.metrics import sound_lines, step_of
from trelm_train.training.session import Session

EVALUATIONS = "evaluations.jsonl"
LOWER_IS_BETTER = ("loss", "entity_loss")
MLM_MEASURES = ("loss", "accuracy", "entity_loss", "cka_score")
LAMA_MEASURES = ("lama_p_at_1", "lama_p_at_10", "lama_mrr")


class Evaluator:
    """Ask a session's model the questions that its configuration names.

    Raises:
        ConfigError: `evaluation.best` is not the name of a measure, or a probe file is
            unreadable.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.config = session, session.request.config.evaluation

        measures = MLM_MEASURES + (LAMA_MEASURES if self.config.lama_probes else ())
        if self.config.best and self.config.best not in measures:
            raise ConfigError(
                f"evaluation.best = {self.config.best!r} must be one of {', '.join(measures)}"
            )

        self.prober: Prober | None = None
        if self.config.lama_probes:
            options = lama_options(self.config)
            # Questions are tokenised once, and an unreadable file ends the run before its first
            # step.
            tokenizer = load_tokenizer(str(session.shards.tokenizer_path))
            self.prober = Prober(session.components.model, tokenizer, options.common_vocab)
            self.questions = collect(self.prober, options)

    def measure(self) -> dict[str, Any]:
        """Return all measures of the model as it is at this step.

        A measure is None where nothing was asked, and never NaN.

        Raises:
            TrelmError: the model gives NaN or infinite numbers; names the step.
        """
        # Weights that are not finite stay so: steps from here on would be wasted.
        try:
            return self._measures()
        except NotFiniteError as error:
            raise TrelmError(
                f"evaluation after step {self.session.step}: {error}; "
                f"the checkpoints are in {self.session.request.place_of(CHECKPOINTS)}"
            ) from error

    def _measures(self) -> dict[str, Any]:
        session, components = self.session, self.session.components
        report = evaluate_mlm(
            components.model,
            components.vocabulary,
            session.shards,
            session.knowledge,
            session.packing,
            max_sentences=self.config.sentences,
        )
        measures: dict[str, Any] = report.to_dict()

        if self.prober is not None:
            answers = ask_all(self.prober, self.questions)
            macro = score_answers(self.prober, self.questions, answers)["macro"] or {}
            measures |= {f"lama_{name}": value for name, value in macro.items()}
        return measures

    def improves(self, measures: dict[str, Any]) -> bool:
        """Say whether these measures are the best so far by the configured one.

        If so, later ones are compared with them.
        """
        value = measures.get(self.config.best)
        # A split without facts has no knowledge score.
        if value is None or not math.isfinite(value):
            return False

        # The history is part of every checkpoint, so a resumed run compares with the same value.
        best = self.session.history.get("best")
        # Losses fall, all other measures rise.
        sign = -1 if self.config.best in LOWER_IS_BETTER else 1
        if best is not None and sign * value <= sign * best["value"]:
            return False

        self.session.history["best"] = {
            "measure": self.config.best,
            "value": value,
            "step": self.session.step,
        }
        return True


def lama_options(config: EvaluationConfig) -> Options:
    """Return the options of the LAMA probes that the configuration names."""
    words = config.lama_common_vocab
    return Options(
        probes=local_folder(location_of(config.lama_probes)),
        relations=local_file(location_of(config.lama_relations)),
        common_vocab=local_file(location_of(words)) if words else None,
        limit=config.lama_limit,
    )


def write_evaluation(folder: Path, step: int, measures: dict[str, Any]) -> None:
    """Add a line of measures.

    Lines of this and later steps, left by a run that was killed after them, are removed, and
    damaged ones, with a warning.
    """
    path = folder / EVALUATIONS
    lines = sound_lines(path) if step else []
    earlier = [line for line in lines if step_of(line) < step]
    text = "\n".join([*earlier, json.dumps({"step": step, **measures}, allow_nan=False)]) + "\n"

    # Whole or not at all: a kill here must not lose the lines.
    write_durably(path, text)
