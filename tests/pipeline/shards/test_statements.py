"""Statements: which facts, how many, their rows, and what the trainer asks of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ShardsConfig
from pipeline.encoder.tokenizer import TextTokenizer
from pipeline.engine.errors import StageError
from pipeline.engine.stage import prepare
from pipeline.engine.tables import RunPaths
from pipeline.engine.units import write_unit
from pipeline.run_stage import rows_written
from pipeline.shards import stage as shards
from pipeline.shards.knowledge_lookup import make_lookup
from pipeline.shards.policies import PolicyLimits, policy_bits
from pipeline.shards.statement_rows import FACT_SCHEMA, StatementMaker
from pipeline.shards.statements import statement_templates, tokens_allowed
from pipeline.synth.template_file import load_templates
from schemas import DOCUMENTS, ENTITIES
from schemas.errors import ConfigError
from schemas.shards import EXAMPLES, POLICY_BITS
from tests.manifests import list_again
from tests.pipeline.cases import rows_of
from tests.pipeline.inputs_run import run_plan
from tests.pipeline.linked_run import cut_links
from tests.pipeline.shards.made_shards import files_of, limits_of, made, reach_of
from tests.pipeline.shards.naive_statements import (
    Fact,
    labels_of,
    rare_of,
    relations_of,
    wanted_facts,
)
from trelm_train.config import Config
from trelm_train.data.loader import Position, assemble
from trelm_train.data.masking import Vocabulary
from trelm_train.data.sentences import read_sentences
from trelm_train.data.shards import open_shards
from trelm_train.facts.plan import FactChooser
from trelm_train.training.step_inputs import BatchPreparer

# Room for all statements of the sample.
AMPLE = {"statements": True, "statements_share": 0.9}
BORN = {"relation": "P19", "template": "[X] was born in [Y] ."}


def examples_of(run: Path) -> list[dict]:
    """Rows of `examples` by the names of their columns, in order."""
    paths = RunPaths(root=str(run)).files("shards", EXAMPLES)
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def fact_of(statement_id: str) -> Fact:
    """The fact of "statement:Q42:P19:Q350"."""
    subject, relation, other = (int(part[1:]) for part in statement_id.split(":")[1:])
    return subject, relation, other


def statements_of(run: Path) -> dict[Fact, dict]:
    return {fact_of(row["doc_id"]): row for row in examples_of(run) if row["is_statement"]}


@pytest.fixture(scope="module")
def stated(scored: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all statements that there can be."""
    folder = Path(shutil.copytree(scored, tmp_path_factory.mktemp("stated") / "run"))
    made(folder, model, rows_per_file=100, **AMPLE)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entities", "per_entity", "max_triples"),
    # With one triple kept per entity, most objects are in `knowledge` for the statements alone.
    [("low-frequency", 5, 32), ("tail", 2, 1)],
)
def test_exactly_the_unstated_facts_of_rare_entities(
    run: Path, model: Path, entities: str, per_entity: int, max_triples: int
) -> None:
    counters = made(
        run, model, **AMPLE, statements_entities=entities, statements_per_entity=per_entity,
        max_triples=max_triples,
    ).counters  # fmt: skip
    rare = rare_of(run, entities, limits_of(run).r_freq)
    wanted = wanted_facts(run, rare, per_entity)
    assert set(statements_of(run)) == set(wanted)
    assert counters["statements"] == counters["statement_facts"] == len(wanted) > 100
    assert max(Counter(subject for subject, _, _ in wanted).values()) == per_entity
    assert counters["statements_over_share"] == 0


def test_a_statement_is_a_row_like_a_sentence(stated: Path, model: Path) -> None:
    tokenizer = TextTokenizer(str(model))
    opening, closing = tokenizer.frame
    labels, relations = labels_of(stated), relations_of(stated)
    knowledge = {row[0]: row for row in rows_of(stated, "knowledge")}
    reach, limits = reach_of(stated), limits_of(stated)
    statements = statements_of(stated)
    for (subject, relation, other), row in statements.items():
        ids = row["input_ids"]
        assert row["split"] == "train"
        assert row["n_tokens"] == len(ids) <= 128
        assert (ids[0], ids[-1]) == (opening, closing)
        assert row["word_starts"] == sorted(set(row["word_starts"]))
        assert set(row["span_start"]) <= set(row["word_starts"])

        # The fact, and no other, with both names where the spans say.
        assert (len(row["span_start"]), len(row["fact_head_span"])) == (2, 1)
        head, tail = row["fact_head_span"][0], row["fact_tail_span"][0]
        assert {head, tail} == {0, 1}
        for span, qid in ((head, subject), (tail, other)):
            label_ids = tokenizer.label_runs([labels[qid]]).ids.tolist()
            assert ids[row["span_start"][span] : row["span_end"][span]] == label_ids
            assert knowledge[row["span_entity_row"][span]][1:4] == ("entity", qid, labels[qid])
            assert row["span_frequency"][span] == knowledge[row["span_entity_row"][span]][5]
        named = knowledge[row["fact_relation_row"][0]]
        assert named[1:4] == ("relation", relation, relations[relation])

        # Frequency alone decides on policies.
        assert np.isnan(row["span_cosine"]).all()
        wanted_bits = policy_bits(
            np.zeros(2, np.int64),
            np.array(row["span_cosine"]),
            np.array(row["span_frequency"]),
            np.array([reach.get(at, 0) for at in row["span_entity_row"]]),
            limits,
        )
        assert row["span_policies"] == wanted_bits.tolist()
        assert row["span_policies"][head] == POLICY_BITS["all"] | POLICY_BITS["low-frequency"]
    assert any(0 in row["span_frequency"] for row in statements.values())


@pytest.mark.slow
def test_the_bound_is_exact_and_the_rarest_come_first(run: Path, stated: Path, model: Path) -> None:
    counters = made(run, model, statements=True, statements_share=0.05).counters
    wanted = wanted_facts(run, rare_of(run, "low-frequency", limits_of(run).r_freq), 5)
    statements = statements_of(run)
    assert set(statements) == set(wanted[: len(statements)])
    num_left = len(wanted) - len(statements)
    assert 0 < len(statements) < len(wanted)
    assert (counters["statements"], counters["statements_over_share"]) == (
        len(statements),
        num_left,
    )

    # The next statement would exceed the share, of tokens of the training split.
    training = [row for row in examples_of(run) if row["split"] == "train"]
    num_tokens = sum(row["n_tokens"] for row in training)
    of_statements = sum(row["n_tokens"] for row in statements.values())
    following = statements_of(stated)[wanted[len(statements)]]["n_tokens"]
    assert counters["statement_tokens"] == of_statements
    assert counters["train_tokens"] == num_tokens - of_statements
    share = Fraction(1, 20)
    assert of_statements <= share * num_tokens
    assert of_statements + following > share * (num_tokens + following)
    written = rows_written(RunPaths(root=str(run)), "shards")
    assert f"statements {len(statements)} ({of_statements / num_tokens:.1%}" in written.replace(
        " %", "%"
    )


def test_the_rows_of_the_corpus_are_what_they_are_without_statements(
    run: Path, stated: Path, model: Path
) -> None:
    counters = made(run, model).counters
    rows = [{**row, "span_cosine": str(row["span_cosine"])} for row in examples_of(run)]
    others = [row for row in examples_of(stated) if not row["is_statement"]]
    assert not any(row["is_statement"] for row in rows)
    assert "statements" not in counters

    # Relations have other row numbers: neighbours stand before them.
    def by_id(folder: Path) -> dict[int, tuple]:
        return {row[0]: row[1:3] for row in rows_of(folder, "knowledge")}

    names, other_names = by_id(run), by_id(stated)
    for row, other in zip(rows, others, strict=True):
        other["span_cosine"] = str(other["span_cosine"])
        for column in ("span_entity_row", "fact_relation_row"):
            row[column] = [names[at] for at in row[column]]
            other[column] = [other_names[at] for at in other[column]]
        assert row == other


@pytest.mark.parametrize("done", ["knowledge", "shards", "statements"])
def test_any_units_and_a_stopped_stage_give_the_same_files(
    run: Path, stated: Path, model: Path, done: str
) -> None:
    """Seven units of `link`, stopped after each phase but the last."""
    paths = RunPaths(root=str(run))
    cut_links(paths, 7)
    config = ShardsConfig(model=str(model), rows_per_file=100, **AMPLE)
    plan = shards.plan(config, paths)
    prepared = prepare(plan, paths)
    for phase, units in plan.numbered_phases:
        for unit in units:
            write_unit(prepared.data, plan.name, unit, phase.worker.process)
        if phase.name == done:
            break
    manifest = run_plan(plan, paths)
    whole = RunPaths(root=str(stated)).require("shards")
    assert files_of(manifest) == files_of(whole)
    assert manifest.counters == whole.counters


def test_ends_with_one_name_are_no_statement(run: Path, stated: Path, model: Path) -> None:
    fact = next(iter(statements_of(stated)))
    subject, _, other = fact
    labels = labels_of(run)
    for path in RunPaths(root=str(run)).files("kb", ENTITIES):
        entities = pq.read_table(path, partitioning=None)
        texts = [
            labels[subject].upper() if qid == other else text
            for qid, text in zip(
                *(entities[name].to_pylist() for name in ("qid", "label")), strict=True
            )
        ]
        place = entities.column_names.index("label")
        renamed = entities.set_column(place, entities.field("label"), pa.array(texts))
        pq.write_table(renamed, path)
    list_again(run / "kb")
    made(run, model, **AMPLE)
    assert fact not in statements_of(run)


def test_an_id_of_the_corpus_that_a_statement_may_have_is_refused(run: Path, model: Path) -> None:
    paths = RunPaths(root=str(run))
    (path,) = paths.files("documents", DOCUMENTS)
    documents = pq.read_table(path, partitioning=None)
    ids = ["statement:1", *documents["doc_id"].to_pylist()[1:]]
    place = documents.column_names.index("doc_id")
    pq.write_table(documents.set_column(place, documents.field("doc_id"), pa.array(ids)), path)
    list_again(run / "documents")
    with pytest.raises(StageError, match="the id 'statement:1' begins as those of statements do"):
        made(run, model, **AMPLE)


def write_templates(path: Path, *rows: object) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_templates_by_the_user(run: Path, stated: Path, model: Path, tmp_path: Path) -> None:
    """Theirs, those held out for probes left out; other relations by their labels."""
    fact = next(iter(statements_of(stated)))
    relation = f"P{fact[1]}"
    path = write_templates(
        tmp_path / "relations.jsonl",
        {"relation": relation, "template": "Of [X] one says [Y] ."},
        {"relation": relation, "template": "The [Y] is said of [X] .", "held": True},
    )
    made(run, model, **AMPLE, statement_templates=path)
    tokenizer, labels = TextTokenizer(str(model)), labels_of(run)
    relations = relations_of(run)
    for (subject, predicate, other), row in statements_of(run).items():
        text = f"{labels[subject]}, {relations[predicate]}: {labels[other]}."
        if predicate == fact[1]:
            text = f"Of {labels[subject]} one says {labels[other]} ."
        assert row["input_ids"][1:-1] == tokenizer.encode([text])[0].ids.tolist()

    # Other texts are other shards.
    paths, config = (
        RunPaths(root=str(run)),
        ShardsConfig(model=str(model), statement_templates=path, **AMPLE),
    )
    before = shards.plan(config, paths).fingerprint
    write_templates(Path(path), BORN)
    assert shards.plan(config, paths).fingerprint != before


def test_our_own_templates_leave_out_those_of_probes() -> None:
    assert len(statement_templates("")) >= 20
    assert all("[X]" in text for texts in statement_templates("").values() for text in texts)
    from pipeline.synth.template_file import load_templates

    for relation in load_templates("", ()).relations.values():
        assert tuple(dict.fromkeys(statement_templates("")[relation.predicate])) == relation.known


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"relation": "P19"}, "not a relation and a template"),
        ({**BORN, "relation": "born"}, "'born' is not the id of a property"),
        ({**BORN, "template": "[X] was born ."}, r"must have \[X\] and \[Y\] once"),
    ],
)
def test_wrong_templates_are_refused_before_any_work(
    run: Path, model: Path, tmp_path: Path, row: object, message: str
) -> None:
    path = write_templates(tmp_path / "relations.jsonl", BORN, row)
    config = ShardsConfig(model=str(model), statements=True, statement_templates=path)
    with pytest.raises(ConfigError, match=message) as raised:
        shards.plan(config, RunPaths(root=str(run)))
    assert f"{path}:2: " in str(raised.value)


def test_wrong_shares_are_refused() -> None:
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match="must be above 0 and below 1"):
            ShardsConfig(statements_share=share)
    with pytest.raises(ConfigError, match="statements_per_entity"):
        ShardsConfig(statements_per_entity=0)


def test_a_share_is_of_all_tokens() -> None:
    # A tenth of 1,000 tokens with statements: 900 without. The nearest binary number to 0.1 is above it.
    assert tokens_allowed(0.1, 900) == 100
    assert tokens_allowed(0.1, 899) == 99
    assert tokens_allowed(0.9, 0) == 0


@pytest.mark.parametrize("family", ["model", "byte_level"])
def test_labels_with_special_characters(request: pytest.FixtureRequest, family: str) -> None:
    """What cannot be asked is counted; what is no letter or has brackets is text as any other."""
    tokenizer = TextTokenizer(str(request.getfixturevalue(family)))
    labels = ["[Y]", "Rhine-Main", "[MASK]", "\u200b" if family == "model" else "", "a b " * 60]
    pairs = [(0, 1), (1, 2), (2, 0), (0, 3), (3, 1), (1, 4), (4, 1)]
    facts = pa.Table.from_pylist(
        [
            {
                "subject": subject, "predicate": 7, "object": other, "subject_label": labels[subject],
                "relation_label": "[X] of", "object_label": labels[other], "subject_row": subject,
                "relation_row": 5, "object_row": other, "subject_mentions": 1, "object_mentions": 0,
            }
            for subject, other in pairs
        ],
        schema=FACT_SCHEMA,
    )  # fmt: skip
    maker = StatementMaker(
        config=ShardsConfig(max_tokens=60),
        tokenizer=tokenizer,
        lookup=make_lookup(np.arange(2), np.ones(2), np.ones(2), []),
        limits=PolicyLimits(r_freq=3, median_distance=0.0, klt_r_min=1, klt_r_max=9),
        templates={},
    )
    counters: Counter[str] = Counter()
    rows = maker.rows(facts, 10_000, counters).to_pylist()
    assert [fact_of(row["doc_id"])[::2] for row in rows] == [(0, 1), (1, 2), (2, 0)]
    assert (counters["statements"], counters["statements_too_long"]) == (3, 2)
    assert counters["statements_without_tokens"] == 2
    for row, (subject, other) in zip(rows, pairs, strict=False):
        text = f"{labels[subject]}, [X] of: {labels[other]}."
        encoding = tokenizer.encode([text])[0]
        assert row["input_ids"][1:-1] == encoding.ids.tolist()
        for span, (start, end) in enumerate(
            [(0, len(labels[subject])), (len(text) - 1 - len(labels[other]), len(text) - 1)]
        ):
            low, high = encoding.span(start, end)
            assert (row["span_start"][span], row["span_end"][span]) == (low + 1, high + 1)
    # Rows 2 and above are linked nowhere: no policy injects them.
    assert [row["span_policies"][1] > 0 for row in rows] == [True, False, True]


def test_the_trainer_hides_and_asks_the_tails(stated: Path, model: Path) -> None:
    opened = open_shards(stated / "shards")
    sentences = read_sentences(opened.row_groups, "train")
    statement_rows = np.flatnonzero(sentences.is_statement_N)
    assert len(statement_rows) == len(statements_of(stated))
    assert not read_sentences(opened.row_groups, "validation").is_statement_N.any()

    tokenizer = TextTokenizer(str(model))
    special = (0, *tokenizer.frame, tokenizer.mask_id)
    vocabulary = Vocabulary(size=600, mask_id=tokenizer.mask_id, pad_id=0, special_ids=special)
    batch = assemble(sentences, [[row] for row in statement_rows[:60].tolist()], Position(), 0)
    chooser = FactChooser(policy="all", probability=1.0, seed=0)
    micro = BatchPreparer(config=Config(), vocabulary=vocabulary, chooser=chooser, planner=None)(
        batch, 0
    )
    assert 20 < micro.num_asked <= 60
    for tail in np.flatnonzero(micro.hidden_P).tolist():
        at = np.arange(batch.span_start_P[tail], batch.span_end_P[tail])
        assert (micro.input_ids_RS.ravel()[at] == vocabulary.mask_id).all()
        asked = np.isin(micro.masked.target_M, at)
        assert micro.masked.asked_M[asked].all()
        assert micro.masked.gold_M[asked].tolist() == batch.input_ids_RS.ravel()[at].tolist()
    assert set(np.flatnonzero(micro.hidden_P)) <= set(batch.fact_tail_F)


def test_what_synth_keeps_for_probes_is_no_statement(tmp_path: Path) -> None:
    """Without a mark synth keeps the last template of a relation: statements leave it out too."""
    rows = [
        {"relation": "P19", "template": f"[X] {verb} in [Y]."} for verb in ("was", "began", "rose")
    ]
    alone = {"relation": "P20", "template": "[X] died in [Y]."}
    path = write_templates(tmp_path / "t.jsonl", *rows, alone)
    assert statement_templates(path) == {
        19: ["[X] was in [Y].", "[X] began in [Y]."],
        20: ["[X] died in [Y]."],
    }
    synth = load_templates(write_templates(tmp_path / "s.jsonl", *rows), ())
    assert synth.relations[19].held == ("[X] rose in [Y].",)
