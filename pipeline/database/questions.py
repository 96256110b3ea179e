"""Answer named questions to a run, as SQL over its views: `trelm-pipeline ask`.

Each question is one query that can be shown and changed. Parameters: $rows (how many rows), and
$item (a QID's number) where a question takes one.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from pipeline.engine.errors import StageError
from schemas.errors import ConfigError
from schemas.ids import MAX_HOPS, item_id, parse_item_id
from schemas.listing import a_few

# The letter may be left out or be small.


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Hold a question, the tables that it needs, and its SQL."""

    name: str
    meaning: str
    needs: tuple[str, ...]
    sql: str
    # The argument that it takes, such as an item; empty for none.
    about: str = ""
    # It is about the answers of a model, the file of --items; then it is more than its SQL.
    takes_items: bool = False


# Facts of the knowledge base per entity, as their subject or object.
_FACTS_OF = """
facts_of AS (
    SELECT qid, count(*) AS num_facts FROM (
        SELECT subject AS qid, * FROM facts
        UNION ALL SELECT object, * FROM facts WHERE object <> subject)
    GROUP BY qid)"""
# Mean 1 - cosine of the linked mentions of each entity.
_DISTANCES = """
distances AS (
    SELECT l.qid, count(*) AS scored, avg(1 - i.cosine::DOUBLE) AS distance
    FROM importance i
    JOIN links l ON l.doc_id = i.doc_id AND l.start = i.start AND l."end" = i."end"
    GROUP BY l.qid)"""

LEARNED_NEEDS = (
    "entity_frequency", "surface_frequency", "fact_support", "importance", "links", "facts", "redirects",
)  # fmt: skip

QUESTIONS = (
    Question(
        name="bands",
        meaning="head, torso and tail: entities, mentions and their shares",
        needs=("entity_frequency",),
        sql="""
SELECT band, count(*) AS entities, sum(num_mentions)::BIGINT AS mentions,
    round(mentions / sum(mentions) OVER (), 4) AS share, min(num_mentions) AS least,
        max(num_mentions) AS most,
    round(avg(num_documents), 2) AS documents_per_entity
FROM entity_frequency GROUP BY band ORDER BY least DESC
""",
    ),
    # Ties are broken by the item everywhere: the same run gives the same answer.
    Question(
        name="rarest",
        meaning="the rarest linked entities that the knowledge base has facts of",
        needs=("entity_frequency", "facts", "entities"),
        sql=f"""
WITH {_FACTS_OF}
SELECT qid(f.qid) AS id, label(f.qid) AS label, f.num_mentions, f.num_documents, f.band, o.num_facts
FROM entity_frequency f JOIN facts_of o USING (qid)
ORDER BY f.num_mentions, o.num_facts DESC, f.qid LIMIT $rows
""",
    ),
    # Entropy, not the number of entities: a surface with one dominant meaning is not ambiguous.
    Question(
        name="ambiguous",
        meaning=(
            "the surfaces that mean most different entities, by entropy in bits; "
            "five mentions or more"
        ),
        needs=("surface_frequency", "entities"),
        sql="""
SELECT surface, sum(num_mentions)::BIGINT AS mentions, count(*) AS entities,
    round(-sum(p_entity_given_surface * log2(p_entity_given_surface)), 3) AS entropy,
    qid(arg_max(qid, num_mentions)) AS most_often, label(arg_max(qid, num_mentions)) AS label,
    round(max(p_entity_given_surface), 3) AS share
FROM surface_frequency GROUP BY surface HAVING mentions >= 5 AND entities > 1
ORDER BY entropy DESC, mentions DESC, surface LIMIT $rows
""",
    ),
    # The tail is left out: the distance of an entity with one mention says little.
    Question(
        name="unimportant",
        meaning=(
            "frequent entities that their sentences hardly need: "
            "least mean 1 - cosine, above the tail"
        ),
        needs=("entity_frequency", "importance", "links", "entities"),
        sql=f"""
WITH {_DISTANCES}
SELECT qid(f.qid) AS id, label(f.qid) AS label, f.num_mentions, f.band,
    round(d.distance, 5) AS distance, d.scored
FROM entity_frequency f JOIN distances d USING (qid) WHERE f.band <> 'tail'
ORDER BY d.distance, f.num_mentions DESC, f.qid LIMIT $rows
""",
    ),
    Question(
        name="important-tail",
        meaning="tail entities that their sentences need most: largest mean 1 - cosine",
        needs=("entity_frequency", "importance", "links", "entities"),
        sql=f"""
WITH {_DISTANCES}
SELECT qid(f.qid) AS id, label(f.qid) AS label, f.num_mentions,
    round(d.distance, 5) AS distance, d.scored
FROM entity_frequency f JOIN distances d USING (qid) WHERE f.band = 'tail'
ORDER BY d.distance DESC, f.num_mentions, f.qid LIMIT $rows
""",
    ),
    # Both ends frequent, and still no document with both: the order puts the most surprising first.
    Question(
        name="unsupported",
        meaning="facts that no document supports, though both ends occur; most frequent ends first",
        needs=("entity_frequency", "fact_support", "facts", "entities", "properties"),
        sql="""
SELECT DISTINCT qid(f.subject) AS subject, label(f.subject) AS subject_label,
    property(f.predicate) AS relation,
    qid(f.object) AS object, label(f.object) AS object_label,
    s.num_mentions AS subject_mentions, o.num_mentions AS object_mentions
FROM facts f
JOIN entity_frequency s ON s.qid = f.subject
JOIN entity_frequency o ON o.qid = f.object
ANTI JOIN fact_support u
    ON u.subject = f.subject AND u.predicate = f.predicate AND u.object = f.object
WHERE f.subject <> f.object
ORDER BY least(s.num_mentions, o.num_mentions) DESC, subject_mentions + object_mentions DESC,
    1, 4, 3
LIMIT $rows
""",
    ),
    # An item of several types counts for each of them.
    Question(
        name="coverage",
        meaning="share of the knowledge base's items that occur, by type (instance of)",
        needs=("entity_frequency", "entities"),
        sql="""
WITH typed AS (SELECT DISTINCT qid, unnest(instance_of) AS type FROM entities WHERE NOT is_meta)
SELECT qid(type) AS id, label(type) AS type, count(*) AS items, count(f.qid) AS linked,
    round(linked / items, 4) AS share,
    coalesce(sum(f.num_mentions), 0)::BIGINT AS mentions,
    count(f.qid) FILTER (f.band = 'tail') AS in_tail
FROM typed t LEFT JOIN entity_frequency f USING (qid)
GROUP BY t.type ORDER BY items DESC, t.type LIMIT $rows
""",
    ),
    # Pairs of one document only come last: mutual information overrates them.
    Question(
        name="pairs",
        meaning=(
            "entities that go together: highest mutual information over sentences, in two or more"
        ),
        needs=("cooccurrence", "entities"),
        sql="""
SELECT qid(qid_a) AS id, label(qid_a) AS label, qid(qid_b) AS other, label(qid_b) AS other_label,
    num_sentences, num_documents, round(npmi, 4) AS npmi
FROM cooccurrence WHERE num_sentences >= 2
ORDER BY num_documents >= 2 DESC, npmi DESC, num_sentences DESC, qid_a, qid_b LIMIT $rows
""",
    ),
    Question(
        name="detectors",
        meaning="what found the mentions, how many of them are linked and how surely",
        needs=("links",),
        sql="""
SELECT detector, count(*) AS mentions, count(qid) AS linked, round(linked / mentions, 4) AS share,
    round(avg(confidence) FILTER (qid IS NOT NULL), 4) AS confidence
FROM links GROUP BY detector ORDER BY mentions DESC, detector
""",
    ),
    # The example is the least key, so that it does not depend on the order of units.
    Question(
        name="rejects",
        meaning="what was rejected, by stage and reason",
        needs=("rejects",),
        sql="""
SELECT stage, reason, count(*) AS rows, min(key) AS example FROM rejects
GROUP BY ALL ORDER BY rows DESC, stage, reason LIMIT $rows
""",
    ),
    # A card is rows of field and value; `part` and `place` bring them into order.
    Question(
        name="entity",
        meaning="an entity's card: names, counts, neighbours, facts",
        about="item",
        needs=(
            "entity_frequency",
            "surface_frequency",
            "cooccurrence",
            "fact_support",
            "facts",
            "entities",
            "properties",
        ),
        sql="""
WITH ranked AS (SELECT *, rank() OVER (ORDER BY num_mentions DESC) AS rank FROM entity_frequency),
me AS (SELECT * FROM ranked WHERE qid = $item),
item AS (SELECT * FROM entities WHERE qid = $item LIMIT 1),
near AS (
    SELECT CASE WHEN qid_a = $item THEN qid_b ELSE qid_a END AS other,
        num_sentences, num_documents, npmi
    FROM cooccurrence WHERE $item IN (qid_a, qid_b)),
mine AS (SELECT DISTINCT subject, predicate, object FROM facts WHERE $item IN (subject, object)),
supported AS (
    SELECT m.*, s.num_sentences, s.num_documents FROM mine m
    JOIN fact_support s USING (subject, predicate, object)),
card AS (
    SELECT 1 AS part, 0 AS place, 'label' AS field, label AS value FROM item
    UNION ALL SELECT 2, 0, 'description', description FROM item WHERE description <> ''
    UNION ALL SELECT 3, place, 'type', label(type) FROM (
        SELECT unnest(instance_of) AS type, generate_subscripts(instance_of, 1) AS place FROM item)
    UNION ALL SELECT 4, 0, 'mentions',
        num_mentions || ' in ' || num_sentences || ' sentences of ' || num_documents
        || ' documents' FROM me
    UNION ALL SELECT 5, 0, 'band',
        band || ', rank ' || rank || ' of ' || (SELECT count(*) FROM entity_frequency) FROM me
    UNION ALL SELECT 4, 0, 'mentions', 'none' WHERE NOT EXISTS (FROM me)
    UNION ALL (SELECT 6, row_number() OVER (ORDER BY num_mentions DESC, surface), 'surface',
        surface || ' (' || num_mentions || ', ' || round(100 * p_entity_given_surface)::INTEGER
        || ' % of this surface)'
        FROM surface_frequency WHERE qid = $item ORDER BY 2 LIMIT $rows)
    UNION ALL (SELECT 7, row_number() OVER (ORDER BY num_sentences DESC, num_documents DESC, other),
        'with',
        coalesce(label(other), '') || ' (' || qid(other) || ', ' || num_sentences || ' sentences, '
        || num_documents || ' documents)'
        FROM near ORDER BY 2 LIMIT $rows)
    UNION ALL SELECT 8, 0, 'facts',
        (SELECT count(*) FROM mine) || ', ' || (SELECT count(*) FROM supported) || ' with support'
    UNION ALL (SELECT 9,
        row_number() OVER (ORDER BY num_documents DESC, subject, predicate, object), 'supported',
        coalesce(label(subject), qid(subject)) || ' - '
        || coalesce(property(predicate), pid(predicate)) || ' - '
        || coalesce(label(object), qid(object)) || ' (' || num_sentences || ' sentences, '
        || num_documents || ' documents)'
        FROM supported ORDER BY 2 LIMIT $rows))
SELECT field, value FROM card ORDER BY part, place
""",
    ),
    # DISTINCT, because `entities` may hold an item of a repeated id twice.
    Question(
        name="tail",
        meaning=(
            "tail entities of a type (instance of), the rarest first, "
            "with what they mean to their documents"
        ),
        about="type",
        needs=("entity_frequency", "entities", "facts"),
        sql=f"""
WITH {_FACTS_OF}
SELECT DISTINCT qid(f.qid) AS id, e.label, e.description, f.num_mentions, f.num_documents,
    coalesce(o.num_facts, 0) AS num_facts
FROM entity_frequency f JOIN entities e USING (qid) LEFT JOIN facts_of o USING (qid)
WHERE f.band = 'tail' AND list_contains(e.instance_of, $item)
ORDER BY f.num_mentions, num_facts DESC, 1 LIMIT $rows
""",
    ),
    # Their features come from SQL (`pipeline.learned`), their answer from a model fitted to them.
    Question(
        name="learned",
        meaning="what tells the facts that a model knows from others (--items): AUC by feature",
        needs=LEARNED_NEEDS,
        sql="",
        takes_items=True,
    ),
    Question(
        name="learned-facts",
        meaning="the facts that a model was asked (--items), most surprising first",
        needs=LEARNED_NEEDS,
        sql="",
        takes_items=True,
    ),
)
BY_NAME = {question.name: question for question in QUESTIONS}


def find_question(name: str, argument: str) -> Question:
    """Return the question of a name.

    Args:
        name: the question.
        argument: the item that it is about, empty for none; only checked to be there or not.

    Raises:
        ConfigError: no such question, an argument too many, or a missing one.
    """
    if name not in BY_NAME:
        raise ConfigError(
            f"{name!r} is not a question; give one of {', '.join(BY_NAME)} "
            "(`trelm-pipeline ask --list` explains them)"
        )
    question = BY_NAME[name]
    # An argument that is ignored would look like an answer about it, and a missing one like an
    # answer about all.
    if question.about and not argument:
        raise ConfigError(
            f"`ask {name}` needs an item, for example `trelm-pipeline ask {name} Q937`"
        )
    if argument and not question.about:
        raise ConfigError(f"`ask {name}` takes no argument, found {argument!r}; leave it out")
    return question


def find_item(connection: duckdb.DuckDBPyConnection, text: str) -> int:
    """Return the number of an item, from its id or its exact label.

    Raises:
        StageError: the item is not in the run, or several items have this label.
    """
    bare = text.strip()
    number = parse_item_id(f"Q{bare}" if bare[:1].isdigit() else bare)
    if number is not None:
        # The user may know an item by an id from before a merge.
        qid = _followed(connection, number)
        in_run = (
            "SELECT 1 FROM entities WHERE qid = $1 "
            "UNION ALL SELECT 1 FROM entity_frequency WHERE qid = $1 LIMIT 1"
        )
        if not connection.execute(in_run, [qid]).fetchall():
            raise StageError(
                f"{item_id(qid)} is not in this run: neither in its knowledge base nor linked; check the id"
            )
        return qid

    # All of them, so that the error can name some and say how many more there are.
    by_label = (
        "SELECT DISTINCT qid, description FROM entities WHERE lower(label) = lower(?) ORDER BY qid"
    )
    matches = connection.execute(by_label, [text.strip()]).fetchall()
    if len(matches) == 1:
        return int(matches[0][0])
    if not matches:
        raise StageError(f"{text!r}: no item has this label; give its id, like Q937")
    listed = a_few(
        (f"{item_id(qid)} ({description or 'no description'})" for qid, description in matches),
        between="; ",
    )
    raise StageError(f"{text!r}: several items have this label: {listed}; give the id")


def _followed(connection: duckdb.DuckDBPyConnection, qid: int) -> int:
    """Return the item that a merged one became, through chains; any other item itself."""
    for _ in range(MAX_HOPS):
        rows = connection.execute(
            "SELECT target FROM redirects WHERE source = ? ORDER BY target LIMIT 1", [f"Q{qid}"]
        ).fetchall()
        if not rows or not rows[0][0].startswith("Q"):
            break
        qid = int(rows[0][0][1:])
    return qid


def shown(question: Question, values: dict[str, int]) -> str:
    """Return the SQL with its parameters filled in, as it runs on `run.duckdb`."""
    # Values are integers, so no quoting is needed.
    text = question.sql.strip()
    for name, value in values.items():
        text = text.replace(f"${name}", str(int(value)))
    return text + ";"
