"""Which facts a corpus may state."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.tables import RunPaths
from pipeline.synth.facts import Fact, Pool, choose_facts
from pipeline.synth.kb_facts import PLAIN_NAME, read_pool
from pipeline.synth.template_file import load_templates
from schemas.errors import ConfigError
from tests.pipeline.cases import rows_of
from tests.pipeline.synth.conftest import SMALL
from tests.pipeline.tiny_model import make as make_model

ALL = tuple(load_templates("", ()).relations)


@pytest.fixture(scope="module")
def pool(kb_run: RunPaths) -> Pool:
    return read_pool(kb_run.root, ALL, SMALL)


def test_facts_are_those_of_the_kb(kb_run: RunPaths, pool: Pool) -> None:
    stated = {row[:3] for row in rows_of(Path(kb_run.root), "facts")}
    labels = {row[0]: row[1] for row in rows_of(Path(kb_run.root), "entities")}
    facts = [fact for facts in pool.facts_of.values() for fact in facts]
    assert len(facts) > 150
    assert set(facts) <= stated
    assert pool.labels.items() <= labels.items()
    assert pool.pairs == {
        (subject, object_)
        for subject, _, object_ in stated
        if subject in pool.labels and object_ in pool.labels
    }


def test_names_and_facts_leave_no_doubt(pool: Pool) -> None:
    facts = [fact for facts in pool.facts_of.values() for fact in facts]
    assert len({label.lower() for label in pool.labels.values()}) == len(pool.labels)
    assert len({(fact.subject, fact.object) for fact in facts}) == len(facts)
    assert len({(fact.subject, fact.predicate) for fact in facts}) == len(facts), "one tail"
    for fact in facts:
        assert pool.labels[fact.object].lower() not in pool.labels[fact.subject].lower()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["Paris", "Côte d'Ivoire", "7"], True),
        (["Washington, D.C.", "Who?"], False),  # marks that could end a sentence
        (["Paris (Texas)", "A: B", "", "-x", "x" * 61], False),
    ],
)
def test_plain_names(names: list[str], wanted: bool) -> None:  # noqa: FBT001
    with duckdb.connect() as connection:
        for name in names:
            row = connection.execute("SELECT regexp_matches($1, $2)", [name, PLAIN_NAME]).fetchone()
            assert row == (wanted,), name


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"object_share": 1.0}, [0, 3, 4]),  # one tail, one fact per pair
        ({"object_share": 1.0, "object_cap": 1}, [0, 4]),  # 3 has the object of 0
        ({"object_share": 0.9}, [0, 4]),  # 7 would answer all of P19, 2 of 2
        ({"object_share": 1.0, "many_tails": True}, [0, 1, 3, 4]),
    ],
)
def test_chosen_facts(changes: dict[str, object], wanted: list[int]) -> None:
    facts = [Fact(1, 19, 7), Fact(1, 19, 8), Fact(1, 20, 7), Fact(2, 19, 7), Fact(2, 20, 8)]
    kept = choose_facts(facts, replace(SMALL, **changes))
    assert [fact for facts in kept.values() for fact in facts] == [facts[i] for i in wanted]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0.01, 1))
def test_no_object_has_more_than_its_share(objects: list[int], share: float) -> None:
    """Of the facts that stay, or it answers once; the cap is not lower than it need be."""
    facts = [Fact(100 + number, 19, object_) for number, object_ in enumerate(objects)]
    config = replace(SMALL, object_share=share, object_cap=0)
    counts = Counter(kept[0].object for kept in choose_facts(facts, config).values())
    highest = max(counts.values())
    assert highest == 1 or highest <= share * counts.total()
    higher = Counter(objects)
    if max(higher.values()) > highest:
        num_left = sum(min(count, highest + 1) for count in higher.values())
        assert highest + 1 > share * num_left


def test_caps_hold(kb_run: RunPaths) -> None:
    capped = read_pool(kb_run.root, ALL, replace(SMALL, object_cap=2))
    facts = [fact for facts in capped.facts_of.values() for fact in facts]
    assert max(Counter(fact[1:] for fact in facts).values()) == 2


def test_the_order_of_subjects_is_the_seeds(kb_run: RunPaths, pool: Pool) -> None:
    assert list(read_pool(kb_run.root, ALL, SMALL).facts_of) == list(pool.facts_of)
    assert list(read_pool(kb_run.root, ALL, replace(SMALL, seed=4)).facts_of) != list(pool.facts_of)


@pytest.mark.slow
def test_objects_of_one_token(kb_run: RunPaths, pool: Pool, tmp_path: Path) -> None:
    """Objects are single tokens of the tokenizer; subjects may be anything."""
    from transformers import AutoTokenizer

    model = make_model(tmp_path / "model")
    single = read_pool(kb_run.root, ALL, replace(SMALL, model=str(model)))
    tokenizer = AutoTokenizer.from_pretrained(model)
    objects = {fact.object for facts in single.facts_of.values() for fact in facts}
    assert objects
    for qid in objects:
        ids = tokenizer(single.labels[qid], add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        assert ids[0] != tokenizer.unk_token_id
    assert sum(map(len, single.facts_of.values())) < sum(map(len, pool.facts_of.values()))


def test_relations_that_the_kb_lacks(kb_run: RunPaths) -> None:
    with pytest.raises(ConfigError, match="no usable fact of P102"):
        read_pool(kb_run.root, (19, 102), replace(SMALL, relations=("P19", "P102")))
