"""Say what differs between the two tasks: targets, loss, what an answer is, scores, chance.

An answer is a tuple of labels, as the labels of an example are: any number of them in typing, one in
relation classification.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.errors import ConfigError
from trelm_train.finetune import relation_scores, typing_scores
from trelm_train.finetune.examples import Example, label_counts

# Legend: N examples, R rows of a batch, C classes.

Answer = tuple[str, ...]
Scores = dict[str, float]


class Task(ABC):
    """Hold the classes of a task, which are the labels of its training rows, in alphabetical order."""

    # The figure that is compared on dev.
    metric = "micro_f1"

    def __init__(self, train: Sequence[Example]) -> None:
        """Take the classes from training examples.

        Raises:
            ConfigError: they have fewer than two labels.
        """
        self.classes = tuple(sorted(label_counts(train)))
        if len(self.classes) < 2:
            raise ConfigError(
                f"the training rows have {len(self.classes)} label(s); give rows with two or more"
            )

    @abstractmethod
    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return what the loss compares logits with, a row per example."""

    @abstractmethod
    def loss(self, logits_RC: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""

    @abstractmethod
    def answers(self, logits_NC: Tensor) -> list[Answer]:
        """Turn finite logits into answers."""

    @abstractmethod
    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        """Compare answers with the labels of the examples."""

    @abstractmethod
    def constants(self, train: Sequence[Example], examples: Sequence[Example]) -> dict[str, Answer]:
        """Name answers that are given to every row, without a look at it: they show what chance is."""

    def chance(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> dict[str, dict[str, object]]:
        """Score the same answer to every row, for each of `constants`."""
        return {
            name: {"answer": list(answer), **self.scores(examples, [answer] * len(examples))}
            for name, answer in self.constants(train, examples).items()
        }


class TypingTask(Task):
    """Give a span any number of labels: every class whose logit is above 0.

    With `or_best` the best class is an answer too where no logit is above 0, as in ERNIE's FIGER.
    """

    def __init__(self, train: Sequence[Example], *, or_best: bool = False) -> None:
        super().__init__(train)
        self.or_best = or_best

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return 1 where a class is a label, as N x C."""
        targets_NC = torch.zeros(len(examples), len(self.classes))
        number = {label: place for place, label in enumerate(self.classes)}
        for row, example in enumerate(examples):
            targets_NC[row, [number[label] for label in example.labels if label in number]] = 1
        return targets_NC

    def loss(self, logits_RC: Tensor, targets: Tensor) -> Tensor:
        """Compute binary cross-entropy, mean over rows and classes."""
        return F.binary_cross_entropy_with_logits(logits_RC, targets)

    def answers(self, logits_NC: Tensor) -> list[Answer]:
        """Return the classes whose logit is above 0."""
        said_NC = logits_NC > 0
        if self.or_best:
            # All that are as high as the best one, as in the published code.
            said_NC |= logits_NC == logits_NC.max(1, keepdim=True).values
        return [
            tuple(label for label, is_said in zip(self.classes, row, strict=True) if is_said)
            for row in said_NC.tolist()
        ]

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        """Compare sets of labels."""
        gold = [frozenset(example.labels) for example in examples]
        return typing_scores.typing_scores(gold, [frozenset(answer) for answer in answers])

    def constants(self, train: Sequence[Example], examples: Sequence[Example]) -> dict[str, Answer]:
        """Name the most frequent label of train, and the best set of labels for these rows."""
        counts = label_counts(train)
        best = typing_scores.best_constant([frozenset(example.labels) for example in examples])
        return {
            "most frequent label of train": (
                min(counts, key=lambda label: (-counts[label], label)),
            ),
            "best constant answer": tuple(sorted(best)),
        }


class RelationTask(Task):
    """Give two spans one label: the class with the highest logit.

    `negative` is the class that says that there is no relation; None where there is none.
    """

    def __init__(self, train: Sequence[Example], negative: str | None) -> None:
        super().__init__(train)
        self.negative = negative

    def targets(self, examples: Sequence[Example]) -> Tensor:
        """Return the class of each example, as N; only training examples are sure to have one."""
        number = {label: place for place, label in enumerate(self.classes)}
        return torch.tensor([number[example.labels[0]] for example in examples])

    def loss(self, logits_RC: Tensor, targets: Tensor) -> Tensor:
        """Compute cross-entropy, mean over rows."""
        return F.cross_entropy(logits_RC, targets)

    def answers(self, logits_NC: Tensor) -> list[Answer]:
        """Return the best class; of equal ones the first by name."""
        return [(self.classes[place],) for place in logits_NC.argmax(1).tolist()]

    def scores(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        """Compare relations."""
        gold = [example.labels[0] for example in examples]
        said = [answer[0] for answer in answers]
        return relation_scores.relation_scores(gold, said, self.negative)

    def constants(self, train: Sequence[Example], examples: Sequence[Example]) -> dict[str, Answer]:
        """Name the most frequent relation of train, the best one for these rows, and the negative class."""
        counts = label_counts(train)
        relations = [label for label in self.classes if label != self.negative]
        named: dict[str, Answer] = {
            "most frequent relation of train": (
                min(relations, key=lambda label: (-counts[label], label)),
            )
        }
        best = relation_scores.best_constant(
            [example.labels[0] for example in examples], self.negative
        )
        if best is not None:
            named["best constant answer"] = (best,)
        if self.negative is not None:
            named["always the negative class"] = (self.negative,)
        return named


def types_give_labels_away(examples: Sequence[Example]) -> bool:
    """Say whether the types of the spans alone name the label of nearly every example.

    So it is where types are roles of the relation ("Cause", "Effect"), as in a file of SemEval made
    into TACRED's form: a marker with such a type would tell the answer. A label is told where other
    rows of these types have it, so a row whose types are its own says nothing. The most frequent label
    is no evidence either: where nearly all rows have it, it is guessed without types.
    """
    by_types: dict[tuple[str, ...], Counter[str]] = {}
    for example in examples:
        types = tuple(span.type for span in example.spans)
        by_types.setdefault(types, Counter())[example.labels[0]] += 1
    if len(by_types) < 2:
        return False

    told: Counter[str] = Counter()
    for counts in by_types.values():
        (label, count), (_, next_count) = [*counts.most_common(2), ("", 0)][:2]
        # Without the row itself, its label must still be the first.
        if count - 1 > next_count:
            told[label] += count
    frequent = label_counts(examples).most_common(1)[0]
    rare_told, num_rare = told.total() - told[frequent[0]], len(examples) - frequent[1]
    return (
        told.total() >= _GIVEN_AWAY * len(examples)
        and num_rare > 0
        and rare_told >= _GIVEN_AWAY * num_rare
    )


# In TACRED, types name about four of five relations, nearly all of them the negative class.
_GIVEN_AWAY = 0.95
