"""Ask a plain model the questions of an experiment, and keep every answer.

Probes: the rank and the log-probability of the object at the mask, item by item, with the subject
that the bootstrap draws by. Paraphrases: rates over relations (`evaluate.paraphrases`). Texts:
masked-LM loss on fixed masks (`evaluate.text_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import ConfigError
from trelm_train.compare.experiment import ParaphraseSet, ProbeSet, TextSet
from trelm_train.evaluate.answers import ask
from trelm_train.evaluate.lama import Options, collect
from trelm_train.evaluate.lama_files import ProbeFile
from trelm_train.evaluate.lama_rows import drawn_by
from trelm_train.evaluate.lama_uhn import name_cloze_of
from trelm_train.evaluate.paraphrases import ParaphraseOptions, ask_all, result_of
from trelm_train.evaluate.paraphrases import collect as collect_paraphrases
from trelm_train.evaluate.prober import Prober
from trelm_train.evaluate.text_loss import answer_text, read_pieces
from trelm_train.model.masked_lm import MaskedLm
from trelm_train.model.protocols import Tokenizer

SMALLEST = 1e-30
CONSTANT_CONSISTENCY = "constant_consistency"


@dataclass(slots=True)
class Answers:
    """Hold the answers of a model to one set of probes: parallel lists, item by item."""

    relation: list[str] = field(default_factory=list)
    subject: list[str] = field(default_factory=list)
    object: list[str] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    log_p: list[float] = field(default_factory=list)

    def measures(self) -> dict[str, float]:
        """Return means over items, and P@1 as a mean over relations too."""
        # A tie has rank 2 or more, so it is not right.
        is_right = np.asarray(self.rank) <= 1
        relation = np.asarray(self.relation)
        by_relation = [float(is_right[relation == name].mean()) for name in np.unique(relation)]
        return {
            "p_at_1": float(is_right.mean()),
            "p_at_1_by_relation": float(np.mean(by_relation)),
            "p_at_10": float((np.asarray(self.rank) <= 10).mean()),
            "mrr": float((1 / np.asarray(self.rank)).mean()),
            "log_p": float(np.mean(self.log_p)),
            "num_items": float(len(self.rank)),
        }

    def table(self, name: str) -> pa.Table:
        """Return the answers as rows, with the name of the probes in front."""
        columns = {
            "probes": [name] * len(self.rank),
            "relation": self.relation,
            "subject": self.subject,
            "object": self.object,
            "rank": self.rank,
            "log_p": self.log_p,
        }
        return pa.table(columns)


def ask_probes(model: MaskedLm, tokenizer: Tokenizer, probes: ProbeSet) -> Answers:
    """Ask every item of a set of probes that counts.

    Raises:
        ConfigError: a file is unreadable, or no item counts.
    """
    common = Path(probes.common_vocab) if probes.common_vocab else None
    prober = Prober(model, tokenizer, common)
    options = Options(
        probes=Path(probes.folder),
        relations=Path(probes.relations) if probes.relations else None,
        uhn=probes.uhn,
        limit=probes.limit,
    )

    def is_of_part(file: ProbeFile, row: dict[str, Any]) -> bool:
        return probes.asks(drawn_by(file.template, row))

    names = name_cloze_of(probes.uhn, model.device)
    questions = collect(prober, options, names, is_of_part)
    answers, items = Answers(), []
    for relation, of_relation in questions.items.items():
        answers.relation += [relation] * len(of_relation)
        items += of_relation
    answers.subject = [item.row.drawn_by for item in items]
    answers.object = [item.row.obj_label for item in items]

    if not items:
        raise ConfigError(
            f"probes {probes.name!r}: no item of {probes.folder} has an object that is one token "
            "of this model; check the relations' file and the words"
        )
    clozes = [item.cloze for item in items]
    asked = ask(model, tokenizer.pad_token_id or 0, prober.candidates, clozes)
    answers.rank = asked.rank_M.tolist()
    # A probability may be too small for its number format.
    answers.log_p = np.log(np.maximum(asked.p_gold_M, SMALLEST)).tolist()
    return answers


def ask_paraphrases(
    model: MaskedLm, tokenizer: Tokenizer, facts: ParaphraseSet
) -> dict[str, float]:
    """Ask every fact in several ways; return the rates as means over relations.

    Raises:
        ConfigError: a file is unreadable or wrong, or no fact can be asked.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    options = ParaphraseOptions(
        probes=Path(facts.folder), patterns=Path(facts.patterns), limit=facts.limit
    )
    prober = Prober(model, tokenizer, None)
    read = collect_paraphrases(prober, options)
    result = result_of(read, ask_all(prober, read))
    if not result["macro"]:
        raise ConfigError(
            f"paraphrases {facts.name!r}: no fact of {facts.folder} has an object that is one token of "
            "this model; check the folders"
        )
    rates = {name: rate for name, rate in result["macro"].items() if rate is not None}
    # One answer to everything agrees with itself: consistency alone is no merit.
    return {**rates, CONSTANT_CONSISTENCY: 1.0, "num_items": float(result["num_items"])}


def text_loss(model: MaskedLm, tokenizer: Tokenizer, text: TextSet) -> dict[str, float]:
    """Measure the masked-LM loss on a text: a natural-log cross-entropy per masked token.

    Raises:
        ConfigError: the file is unreadable, or nothing in it is masked.
        NotFiniteError: the model gives NaN or infinite logits.
    """
    pieces = read_pieces(Path(text.path), tokenizer, model.max_tokens, text.sentences)
    answers = answer_text(model, tokenizer, pieces, f"the text {text.name!r}")
    return {"loss": float(answers.loss_M.mean()), "num_masked": float(len(answers.loss_M))}
