"""Declare the tables of stage `shards`: all that the trainer reads.

Token ids are those of the tokenizer that lies beside them.
"""

import pyarrow as pa

from schemas.table import Column, Table, list_of

SPLITS = ("train", "validation")

# One bit of examples.span_policies per injection policy; the policy `none` has no bit.
NO_POLICY = "none"
POLICIES = ("all", "high-frequency", "low-frequency", "importance", "long-tail-important", "klt")
POLICY_BITS = {name: 1 << position for position, name in enumerate(POLICIES)}

# The id of a statement, in the place of a document's, begins with this.
STATEMENT_PREFIX = "statement:"

ENTITY = "entity"
RELATION = "relation"

EXAMPLES = Table(
    name="examples",
    version=2,
    row="sentence, window of a long one, or statement of a fact that no sentence states",
    key=("doc_id", "sentence_start"),
    columns=(
        Column(
            name="doc_id",
            type=pa.string(),
            meaning=f"document; of a statement its fact, as {STATEMENT_PREFIX}Q42:P19:Q350",
        ),
        Column(
            name="sentence_start",
            type=pa.uint32(),
            meaning="code point where the sentence or window starts",
        ),
        Column(
            name="input_ids",
            type=list_of(pa.uint32()),
            meaning="token ids, opening and closing special token included",
        ),
        Column(
            name="word_starts",
            type=list_of(pa.uint16()),
            meaning=(
                "index of each word's first token; it ends where the next starts, the last "
                "before the final token"
            ),
        ),
        Column(name="n_tokens", type=pa.uint16(), meaning="length of input_ids"),
        Column(
            name="split",
            type=pa.string(),
            meaning=f"{' or '.join(SPLITS)}; whole documents go to one split",
        ),
        Column(
            name="span_start",
            type=list_of(pa.uint16()),
            meaning="first token of each linked mention, in order, none overlap",
        ),
        Column(name="span_end", type=list_of(pa.uint16()), meaning="one past its last token"),
        Column(
            name="span_entity_row",
            type=list_of(pa.uint32()),
            meaning="its entity's row in `knowledge`",
        ),
        Column(
            name="span_frequency",
            type=list_of(pa.uint32()),
            meaning="mentions of its entity in the corpus",
        ),
        Column(
            name="span_cosine",
            type=list_of(pa.float32()),
            meaning="importance.cosine of the mention; NaN where it was not scored, so in statements",
        ),
        Column(
            name="span_policies",
            type=list_of(pa.uint16()),
            meaning="bits of the policies that choose it for injection: "
            + ", ".join(f"{bit} {name}" for name, bit in POLICY_BITS.items()),
        ),
        Column(
            name="fact_head_span",
            type=list_of(pa.uint16()),
            meaning="for each fact in the sentence: span index of its head",
        ),
        Column(
            name="fact_relation_row",
            type=list_of(pa.uint32()),
            meaning="its relation's row in `knowledge`",
        ),
        Column(name="fact_tail_span", type=list_of(pa.uint16()), meaning="span index of its tail"),
        Column(
            name="is_statement",
            type=pa.bool_(),
            meaning=(
                "true for a fact of the KB that a template states, and no sentence of the corpus; "
                f"always {SPLITS[0]}"
            ),
        ),
    ),
)

KNOWLEDGE = Table(
    name="knowledge",
    version=1,
    row="entity or relation of the shards",
    key=("row",),
    columns=(
        Column(
            name="row",
            type=pa.uint32(),
            meaning="0, 1, 2, … in file order: what the examples point to",
        ),
        Column(name="kind", type=pa.string(), meaning=f"{ENTITY} or {RELATION}"),
        Column(name="id", type=pa.uint32(), meaning="QID of an entity, PID of a relation"),
        Column(name="label", type=pa.string(), meaning="label"),
        Column(
            name="label_ids",
            type=list_of(pa.uint32()),
            meaning="token ids of the label in running text, no special tokens",
        ),
        Column(
            name="frequency",
            type=pa.uint32(),
            meaning="mentions in the corpus; 0 for a relation or an entity only named by triples",
        ),
        Column(
            name="band",
            type=pa.string(),
            meaning="head, torso or tail",
            null_means="not linked in the corpus",
        ),
        Column(
            name="bank_row",
            type=pa.uint32(),
            meaning="its row in the memory bank, dense from 0",
            null_means="no row: a relation, an entity of frequency 0 or 1, or one that no policy injects",
        ),
        Column(
            name="triple_relation_row",
            type=list_of(pa.uint32()),
            meaning="of each usable triple of an entity: the relation's row",
        ),
        Column(
            name="triple_other_row",
            type=list_of(pa.uint32()),
            meaning="the row of the entity at its other end",
        ),
        Column(
            name="triple_is_head",
            type=list_of(pa.bool_()),
            meaning="true where this entity is the head",
        ),
        Column(
            name="true_tail_relation_row",
            type=list_of(pa.uint32()),
            meaning="of each (this entity, relation, tail) in the KB: the relation",
        ),
        Column(
            name="true_tail_tail_row",
            type=list_of(pa.uint32()),
            meaning="the tail's row, so that no true tail serves as a negative",
        ),
        Column(
            name="tail_rows",
            type=list_of(pa.uint32()),
            meaning="for a relation: rows of entities that are its tails, for negatives",
        ),
    ),
)
