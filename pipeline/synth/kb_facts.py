"""Read the facts that a corpus may state from the tables of stage `kb` of a run.

Goes in: a run. Comes out: subjects in an order that depends on the seed alone, each with its facts,
and the names of all items. A fact is usable if both names are plain, no other item has them, and
the subject's name does not give the object away. Memory: the chosen subjects, not the KB.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from pipeline.database.connection import open_run
from pipeline.engine.tables import RunPaths
from pipeline.synth.facts import Fact, Pool, choose_facts
from pipeline.synth.settings import SynthConfig
from schemas.errors import ConfigError
from schemas.listing import a_few

# Subjects read for each one that is used: caps and single tails leave some without a fact.
SPARE = 4
# Begins and ends with a letter or digit, and has no mark that could end a sentence, no bracket.
PLAIN_NAME = r"^[\p{L}\p{N}]([^.!?…。！？։؟۔।॥;:\"\[\](){}\n\r\t]{0,58}[\p{L}\p{N}])?$"

# `usable` would have too many rows for a table of its own where the KB is all of Wikidata.
_FACTS = """
CREATE TEMP TABLE stated AS
SELECT DISTINCT f.subject, f.predicate, f.object, s.label AS subject_label, o.label AS object_label
FROM facts f
JOIN entities s ON s.qid = f.subject AND NOT s.is_meta AND regexp_matches(s.label, $plain)
JOIN entities o ON o.qid = f.object AND NOT o.is_meta AND regexp_matches(o.label, $plain)
WHERE f.predicate IN (SELECT unnest($predicates)) AND f.subject <> f.object
    AND NOT contains(lower(s.label), lower(o.label))
"""
# Uncased tokenizers see no difference between "Turkey" and "turkey".
_ITEMS = """
CREATE TEMP TABLE items AS
SELECT qid, label FROM (
    SELECT subject AS qid, subject_label AS label FROM stated
    UNION SELECT object, object_label FROM stated)
QUALIFY count(*) OVER (PARTITION BY lower(label)) = 1
"""
_OBJECTS = """
SELECT DISTINCT qid, label FROM items WHERE qid IN (SELECT object FROM stated) ORDER BY qid
"""
_CHOSEN = """
CREATE TEMP TABLE chosen AS
SELECT subject, predicate, object, subject_label, object_label FROM stated
WHERE subject IN (SELECT qid FROM items) AND object IN (SELECT qid FROM allowed)
"""
_SUBJECTS = """
CREATE TEMP TABLE subjects AS
SELECT subject, md5(concat($seed, '/', subject)) AS place FROM chosen
GROUP BY subject ORDER BY place, subject LIMIT $limit
"""
_ROWS = """
SELECT c.subject, c.predicate, c.object, c.subject_label, c.object_label, s.place
FROM chosen c JOIN subjects s USING (subject)
ORDER BY md5(concat($seed, '/', c.subject, '/', c.predicate, '/', c.object)),
    c.subject, c.predicate, c.object
"""
_PAIRS = """
SELECT DISTINCT subject, object FROM facts
WHERE subject IN (SELECT qid FROM named) AND object IN (SELECT qid FROM named)
"""


def read_pool(run_folder: str, predicates: Sequence[int], config: SynthConfig) -> Pool:
    """Return the subjects and facts that a corpus may name.

    Raises:
        StageError: the run has no finished stage `kb`.
        ConfigError: the KB has no usable fact of these relations.
    """
    paths = RunPaths(root=run_folder)
    paths.finished("kb")
    with open_run(paths) as connection:
        # Results must have one order.
        connection.execute("SET preserve_insertion_order = true")
        rows = _chosen_rows(connection, predicates, config)
        # The first subjects are the frequent ones. If they came first here too, they would take the
        # popular objects up to their caps, and leave the rare objects to rare subjects.
        chosen = choose_facts([Fact(*row[:3]) for row in rows], config)
        place_of = {row[0]: row[5] for row in rows}
        facts_of = {
            qid: chosen[qid] for qid in sorted(chosen, key=lambda qid: (place_of[qid], qid))
        }
        labels = {qid: label for row in rows for qid, label in ((row[0], row[3]), (row[2], row[4]))}
        _check(facts_of, predicates, config, run_folder)

        # Of any relation: what has no template is true all the same, and must not pass as wrong.
        qids = {qid for facts in facts_of.values() for fact in facts for qid in (fact[0], fact[2])}
        connection.register("named", pa.table({"qid": pa.array(sorted(qids), pa.uint32())}))
        pairs = frozenset(connection.execute(_PAIRS).fetchall())
    return Pool(facts_of=facts_of, labels={qid: labels[qid] for qid in sorted(qids)}, pairs=pairs)


def _chosen_rows(
    connection: duckdb.DuckDBPyConnection, predicates: Sequence[int], config: SynthConfig
) -> list[tuple[int, int, int, str, str, str]]:
    """Return the facts of the chosen subjects: triple, both names, place of the subject.

    They are in an order that has nothing to do with the subjects' places.
    """
    connection.execute(_FACTS, {"plain": PLAIN_NAME, "predicates": list(predicates)})
    connection.execute(_ITEMS)
    objects = connection.execute(_OBJECTS).fetchall()
    allowed = _single_tokens(objects, config.model) if config.model else objects

    qids = pa.array([qid for qid, _ in allowed], pa.uint32())
    connection.register("allowed", pa.table({"qid": qids}))
    connection.execute(_CHOSEN)
    # A bound before the rows come over: the KB may be all of Wikidata.
    limit = SPARE * (config.subjects + config.nowhere)
    connection.execute(_SUBJECTS, {"seed": str(config.seed), "limit": limit})
    return connection.execute(_ROWS, {"seed": str(config.seed)}).fetchall()


def _single_tokens(objects: list[tuple[int, str]], model: str) -> list[tuple[int, str]]:
    """Return the objects whose name is a single token in running text."""
    from pipeline.encoder.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(model)
    # All labels at once: a call for each would be slow.
    runs = tokenizer.label_runs([label for _, label in objects])
    sizes = runs.offsets[1:] - runs.offsets[:-1]
    return [
        row
        for row, size, start in zip(objects, sizes.tolist(), runs.offsets.tolist(), strict=False)
        if size == 1 and runs.ids[start] != tokenizer.unk_id
    ]


def _check(
    facts_of: dict[int, list[Fact]], predicates: Sequence[int], config: SynthConfig, run: str
) -> None:
    """Refuse a KB that says nothing about a relation that was asked for.

    Raises:
        ConfigError: names the relations.
    """
    present = {fact.predicate for facts in facts_of.values() for fact in facts}
    missing = [f"P{number}" for number in predicates if number not in present]
    if not present or (config.relations and missing):
        tokens = f" with an object that is a single token of {config.model}" if config.model else ""
        raise ConfigError(
            f"{run}: the knowledge base has no usable fact{tokens} of {a_few(missing)}; "
            "choose other --relation, or templates for relations that it has"
        )
