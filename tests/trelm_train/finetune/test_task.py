"""What an answer is, and what a loss compares, by hand."""

import pytest
import torch

from trelm_train.finetune.examples import Example, Span
from trelm_train.finetune.task import RelationTask, TypingTask, types_give_labels_away


def example(*labels: str, types: tuple[str, str] = ("", "")) -> Example:
    spans = tuple(Span(start=0, end=1, kind="x", type=of_type) for of_type in types)
    return Example(text="a", spans=spans, labels=labels)


def test_typing_answers_are_logits_above_0() -> None:
    rows = [example("b", "a"), example("c")]
    logits = torch.tensor([[0.1, 0.0, -0.1], [-3.0, -2.0, -2.0], [1.0, 2.0, 3.0]])
    plain = TypingTask(rows)
    assert plain.classes == ("a", "b", "c")
    assert plain.answers(logits) == [("a",), (), ("a", "b", "c")]
    # ERNIE's rule for FIGER: the best one too, and all that are as high.
    assert TypingTask(rows, or_best=True).answers(logits) == [("a",), ("b", "c"), ("a", "b", "c")]


def test_typing_targets_and_loss() -> None:
    task = TypingTask([example("b", "a"), example("c")])
    targets = task.targets([example("c", "a"), example(), example("unknown")])
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    # Logits of 0 say one half: the loss is log 2 for each class, and its mean over all.
    assert task.loss(torch.zeros(3, 3), targets).item() == pytest.approx(torch.log(torch.tensor(2.0)).item())  # fmt: skip


def test_relation_answers_targets_and_loss() -> None:
    task = RelationTask([example("b"), example("a"), example("NA")], "NA")
    assert task.classes == ("NA", "a", "b")
    assert task.answers(torch.tensor([[0.0, 1.0, 0.5], [2.0, 2.0, 1.0]])) == [("a",), ("NA",)]
    targets = task.targets([example("b"), example("NA")])
    assert targets.tolist() == [2, 0]
    assert task.loss(torch.zeros(2, 3), targets).item() == pytest.approx(torch.log(torch.tensor(3.0)).item())  # fmt: skip


def test_types_that_tell_the_relation_are_noticed() -> None:
    roles = [example("r1", types=("CAUSE", "EFFECT")), example("r2", types=("PART", "WHOLE"))] * 10
    assert types_give_labels_away(roles)
    # The same types with several relations, as in TACRED.
    entities = [
        example(label, types=types)
        for types in (("PERSON", "CITY"), ("PERSON", "TITLE"))
        for label in ("NA", "NA", "NA", "NA", "r1")
    ]
    assert not types_give_labels_away(entities)
    # One pair of types for all rows tells nothing.
    assert not types_give_labels_away([example("r1"), example("r1")])
    # Nor do types that no other row has, or a label that nearly all rows have.
    own = [example(f"r{number}", types=("PERSON", f"T{number}")) for number in range(20)]
    assert not types_give_labels_away(own)
    rare = [example("NA", types=("PERSON", place)) for place in ("CITY", "TITLE")] * 50
    assert not types_give_labels_away([*rare, example("r1", types=("PERSON", "CITY"))])
