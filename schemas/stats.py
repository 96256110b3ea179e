"""Declare the tables of stage `stats`: how often entities, surfaces and facts occur, and how heavy
the tail is.
"""

import pyarrow as pa

from schemas.table import Column, Table

BANDS = ("head", "torso", "tail")

ENTITY_FREQUENCY = Table(
    name="entity_frequency",
    version=2,
    row="linked entity",
    key=("qid",),
    columns=(
        Column(name="qid", type=pa.uint32(), meaning="item"),
        Column(name="num_mentions", type=pa.uint64(), meaning="mentions linked to it"),
        Column(name="num_documents", type=pa.uint64(), meaning="documents with such a mention"),
        Column(name="num_sentences", type=pa.uint64(), meaning="sentences with such a mention"),
        Column(
            name="expected_mentions",
            type=pa.float64(),
            meaning="sum of the confidences of those mentions",
        ),
        Column(
            name="band",
            type=pa.string(),
            meaning=f"{', '.join(BANDS)}: by num_mentions; the cut-offs stand in tail_summary",
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
        Column(
            name="num_mentions", type=pa.uint64(), meaning="mentions with this text and this item"
        ),
        Column(
            name="p_entity_given_surface",
            type=pa.float64(),
            meaning="share among the linked mentions of this text",
        ),
        Column(
            name="p_surface_given_entity",
            type=pa.float64(),
            meaning="share among the mentions of this item",
        ),
    ),
)

COOCCURRENCE = Table(
    name="cooccurrence",
    version=2,
    row="pair of entities, qid_a < qid_b",
    key=("qid_a", "qid_b"),
    columns=(
        Column(name="qid_a", type=pa.uint32(), meaning="item with the lower id"),
        Column(name="qid_b", type=pa.uint32(), meaning="item with the higher id"),
        Column(
            name="num_sentences",
            type=pa.uint64(),
            meaning="sentences with both, those over the cap left out",
        ),
        Column(
            name="num_documents",
            type=pa.uint64(),
            meaning="documents with both; of documents over the cap, those that have both in a sentence",
        ),
        Column(
            name="npmi",
            type=pa.float64(),
            meaning=(
                "normalised pointwise mutual information over sentences: -1 never together, 0 "
                "as chance has it, 1 always"
            ),
        ),
        Column(
            name="npmi_documents",
            type=pa.float64(),
            meaning="the same over documents; too low where documents over the cap have both",
        ),
    ),
)

FACT_SUPPORT = Table(
    name="fact_support",
    version=2,
    row="triple whose subject and object meet in a document",
    key=("subject", "predicate", "object"),
    columns=(
        Column(name="subject", type=pa.uint32(), meaning="QID"),
        Column(name="predicate", type=pa.uint32(), meaning="PID"),
        Column(name="object", type=pa.uint32(), meaning="QID"),
        Column(
            name="num_sentences",
            type=pa.uint64(),
            meaning="sentences with both; 0 where they never share one",
        ),
        Column(
            name="num_documents",
            type=pa.uint64(),
            meaning="documents with both, in one sentence or not",
        ),
    ),
)

_NO_MENTION = "no mention, or no link"
_NO_FIT = "fewer than 10 items, or all alike: no fit"  # nor a comparison where the frequencies are all huge


def _measured(name: str, meaning: str, null_means: str) -> tuple[Column, Column, Column]:
    """Declare a statistic and its bootstrap interval."""
    low, high = (f"{side} end of its 95 % bootstrap interval" for side in ("lower", "upper"))
    return (
        Column(name=name, type=pa.float64(), meaning=meaning, null_means=null_means),
        Column(name=f"{name}_low", type=pa.float64(), meaning=low, null_means=null_means),
        Column(name=f"{name}_high", type=pa.float64(), meaning=high, null_means=null_means),
    )


def _fitted(name: str, meaning: str, kind: pa.DataType | None = None) -> Column:
    """Declare a figure that is there only where a power law could be fitted."""
    return Column(name=name, type=kind or pa.float64(), meaning=meaning, null_means=_NO_FIT)


TAIL_SUMMARY = Table(
    name="tail_summary",
    version=2,
    row="corpus",
    key=("num_mentions",),
    columns=(
        Column(name="num_documents", type=pa.uint64(), meaning="documents with a mention"),
        Column(name="num_sentences", type=pa.uint64(), meaning="sentences with a mention"),
        Column(name="num_mentions", type=pa.uint64(), meaning="mentions, NIL included"),
        Column(name="num_linked", type=pa.uint64(), meaning="mentions linked to an item"),
        Column(name="num_entities", type=pa.uint64(), meaning="distinct linked items"),
        Column(
            name="head_min_mentions",
            type=pa.uint64(),
            meaning="an item with so many mentions is in the head",
        ),
        Column(
            name="torso_min_mentions",
            type=pa.uint64(),
            meaning="one with so many, and fewer, is in the torso",
        ),
        *_measured("nil_share", "share of mentions without an item", _NO_MENTION),
        *_measured("hapax_share", "share of linked items seen once", _NO_MENTION),
        Column(
            name="dis_share",
            type=pa.float64(),
            meaning="share of linked items seen twice",
            null_means=_NO_MENTION,
        ),
        *_measured("gini", "Gini coefficient of mentions over linked items, 0 to 1", _NO_MENTION),
        *_measured(
            "good_turing_unseen",
            "Good-Turing mass of unseen items: hapaxes / linked mentions",
            _NO_MENTION,
        ),
        Column(
            name="kb_coverage",
            type=pa.float64(),
            meaning="share of the KB's items (meta left out) that are linked at least once",
            null_means="the KB has no items",
        ),
        *_measured(
            "power_law_exponent",
            "exponent of the discrete power law P(f) ~ f^-exponent, maximum likelihood, f >= power_law_x_min",
            _NO_FIT,
        ),
        _fitted("zipf_exponent", "1 / (power_law_exponent - 1): slope of the rank plot"),
        _fitted(
            "power_law_x_min",
            "smallest frequency of the fit, of the least Kolmogorov-Smirnov distance",
            pa.uint64(),
        ),
        _fitted("power_law_entities", "items of that frequency or above", pa.uint64()),
        _fitted("power_law_ks", "Kolmogorov-Smirnov distance of the fit"),
        _fitted("lognormal_mu", "location of the lognormal fitted to the same items"),
        _fitted("lognormal_sigma", "and its scale"),
        _fitted(
            "power_law_vs_lognormal",
            "Vuong's normalised log likelihood ratio: above 0 the power law fits better, below "
            "the lognormal does",
        ),
        _fitted(
            "power_law_vs_lognormal_p", "probability of a ratio so far from 0 where both fit alike"
        ),
        Column(name="num_bootstrap", type=pa.uint32(), meaning="resamples of the intervals"),
    ),
)
