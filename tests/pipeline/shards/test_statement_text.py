"""Statements as text: by a template, by the label of the relation, names at their places."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.shards.statement_text import FactNames, written

FACT = FactNames(42, 19, 350, "Douglas Adams", "place of birth", "Cambridge")
TEMPLATES = {19: ("[X] was born in [Y] .", "[Y] is where [X] was born .")}


def names_of(fact: FactNames, templates: dict[int, tuple[str, ...]], seed: int = 0) -> tuple:
    statement = written(fact, templates, seed)
    ends = (statement.subject, statement.object)
    return tuple(statement.text[start:end] for start, end in ends)


def test_a_relation_without_a_template_is_written_by_its_label() -> None:
    assert written(FACT, {}, 0).text == "Douglas Adams, place of birth: Cambridge."
    assert names_of(FACT, {}) == ("Douglas Adams", "Cambridge")
    assert FACT.statement_id == "statement:Q42:P19:Q350"


@pytest.mark.parametrize("templates", [{}, TEMPLATES])
@pytest.mark.parametrize(
    "labels",
    [
        ("[X]", "[Y]", "[X] of [Y]"),
        ("{0}", "100 %", "%s: {}"),
        ("Zürich \u200b", "Côte d’Ivoire, \"West\"", "a\\1b"),
    ],
)  # fmt: skip
def test_names_stand_where_the_spans_say(
    templates: dict[int, tuple[str, ...]], labels: tuple[str, str, str]
) -> None:
    subject, object_, relation = labels
    fact = replace(FACT, subject_label=subject, object_label=object_, relation_label=relation)
    assert names_of(fact, templates) == (subject, object_)


def test_the_fact_and_the_seed_choose_among_templates() -> None:
    facts = [replace(FACT, object=number) for number in range(40)]
    for seed in (0, 1):
        texts = [written(fact, TEMPLATES, seed).text for fact in facts]
        assert texts == [written(fact, TEMPLATES, seed).text for fact in facts]
        assert 8 < texts.count("Douglas Adams was born in Cambridge .") < 32
        assert set(texts) == {
            "Douglas Adams was born in Cambridge .",
            "Cambridge is where Douglas Adams was born .",
        }
    assert [written(fact, TEMPLATES, 0).text for fact in facts] != texts
