"""Tables of stage `stats`: how often entities, surfaces and facts occur, and how heavy the tail is."""

import pyarrow as pa

from schemas.table import Column, Table

BANDS = ("head", "torso", "tail")

ENTITY_FREQUENCY = Table(
    name="entity_frequency",
    version=1,
    row="linked entity",
    key=("qid",),
    columns=(
        Column(name="qid", type=pa.uint32(), meaning="item"),
        Column(name="num_mentions", type=pa.uint64(), meaning="mentions linked to it"),
        Column(name="num_documents", type=pa.uint64(), meaning="documents with such a mention"),
        Column(name="expected_mentions", type=pa.float64(), meaning="sum of the confidences of those mentions"),
        Column(
            name="band", type=pa.string(), meaning=f"{', '.join(BANDS)}: by share of all mentions, most frequent first"
        ),
    ),
)

SURFACE_FREQUENCY = Table(
    name="surface_frequency",
    version=1,
    row="surface of a linked entity",
    key=("surface", "qid"),
    columns=(
        Column(name="surface", type=pa.string(), meaning="text of the mention"),
        Column(name="qid", type=pa.uint32(), meaning="item"),
        Column(name="num_mentions", type=pa.uint64(), meaning="mentions with this text and this item"),
        Column(
            name="p_entity_given_surface", type=pa.float64(), meaning="share among the linked mentions of this text"
        ),
        Column(name="p_surface_given_entity", type=pa.float64(), meaning="share among the mentions of this item"),
    ),
)

COOCCURRENCE = Table(
    name="cooccurrence",
    version=1,
    row="pair of entities, qid_a < qid_b",
    key=("qid_a", "qid_b"),
    columns=(
        Column(name="qid_a", type=pa.uint32(), meaning="item with the lower id"),
        Column(name="qid_b", type=pa.uint32(), meaning="item with the higher id"),
        Column(name="num_sentences", type=pa.uint64(), meaning="sentences with both"),
        Column(name="num_documents", type=pa.uint64(), meaning="documents with both in one sentence"),
        Column(
            name="npmi", type=pa.float64(), meaning="normalised pointwise mutual information over sentences, -1 to 1"
        ),
    ),
)

FACT_SUPPORT = Table(
    name="fact_support",
    version=1,
    row="triple whose subject and object meet in a sentence",
    key=("subject", "predicate", "object"),
    columns=(
        Column(name="subject", type=pa.uint32(), meaning="QID"),
        Column(name="predicate", type=pa.uint32(), meaning="PID"),
        Column(name="object", type=pa.uint32(), meaning="QID"),
        Column(name="num_sentences", type=pa.uint64(), meaning="sentences with both"),
        Column(name="num_documents", type=pa.uint64(), meaning="documents with both in one sentence"),
    ),
)

TAIL_SUMMARY = Table(
    name="tail_summary",
    version=1,
    row="corpus",
    key=("num_mentions",),
    columns=(
        Column(name="num_documents", type=pa.uint64(), meaning="documents with a mention"),
        Column(name="num_mentions", type=pa.uint64(), meaning="mentions, NIL included"),
        Column(name="num_linked", type=pa.uint64(), meaning="mentions linked to an item"),
        Column(name="num_entities", type=pa.uint64(), meaning="distinct linked items"),
        Column(name="nil_share", type=pa.float64(), meaning="share of mentions without an item"),
        Column(name="hapax_share", type=pa.float64(), meaning="share of linked items seen once"),
        Column(name="gini", type=pa.float64(), meaning="Gini coefficient of mentions over linked items, 0 to 1"),
        Column(
            name="good_turing_unseen",
            type=pa.float64(),
            meaning="Good-Turing mass of unseen items: hapaxes / linked mentions",
        ),
        Column(
            name="kb_coverage",
            type=pa.float64(),
            meaning="share of the KB's items (meta left out) that are linked at least once",
        ),
        Column(
            name="power_law_exponent",
            type=pa.float64(),
            meaning="exponent of the discrete power law P(f) ~ f^-exponent, maximum likelihood, f >= power_law_x_min",
            null_means="fewer than 10 items, or all alike: no fit",
        ),
        Column(name="zipf_exponent", type=pa.float64(), meaning="1 / (power_law_exponent - 1)", null_means="no fit"),
        Column(name="power_law_x_min", type=pa.uint64(), meaning="smallest frequency of the fit", null_means="no fit"),
        Column(
            name="power_law_ks",
            type=pa.float64(),
            meaning="Kolmogorov-Smirnov distance of the fit",
            null_means="no fit",
        ),
    ),
)
