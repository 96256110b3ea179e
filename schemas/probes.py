"""Declare what `trelm-train evaluate … --items` writes: one row per question that was asked.

No stage of a run writes these tables; each is one file, with the metadata of a table.
"""

from dataclasses import replace

import pyarrow as pa

from schemas.stats import BANDS
from schemas.table import Column, Table, list_of

# How many of the best answers to a question are kept.
NUM_ANSWERS = 5

_NO_QID = "the probe's row names no QID"
_NO_STATISTICS = "no QID, or neither --run nor --shards was given"
_NO_FACTS = "a QID is missing, the relation is none of Wikidata's, or --run was not given"


def _of_entity(side: str, noun: str) -> tuple[Column, ...]:
    """Declare the columns of the subject or the object of a question."""
    return (
        Column(name=f"{side}_label", type=pa.string(), meaning=f"label of the {noun}"),
        Column(name=f"{side}_qid", type=pa.uint32(), meaning=f"QID of the {noun}"),
        Column(
            name=f"{side}_mentions",
            type=pa.uint64(),
            meaning=f"mentions of the {noun} in the corpus; 0 where the statistics do not list it",
        ),
        Column(
            name=f"{side}_band",
            type=pa.string(),
            meaning=f"{', '.join(BANDS)}: how frequent the {noun} is",
            null_means="never linked in the corpus",
        ),
    )


def _of_lama_entity(side: str, noun: str) -> tuple[Column, ...]:
    """Declare the same columns where a probe may name no QID, or no corpus was given."""
    label, qid, mentions, band = _of_entity(side, noun)
    return (
        label,
        replace(qid, null_means=_NO_QID),
        replace(mentions, null_means=_NO_STATISTICS),
        replace(band, null_means=f"{band.null_means}, {_NO_STATISTICS}"),
    )


LAMA_ITEMS = Table(
    name="lama_items",
    version=2,
    row="question of a LAMA probe that was asked",
    key=("model", "relation", "template", "sub_label", "obj_label"),
    columns=(
        Column(name="model", type=pa.string(), meaning="name or folder of the model"),
        Column(name="relation", type=pa.string(), meaning="relation, P36 or a name"),
        Column(
            name="template",
            type=pa.string(),
            meaning="its text, with [X] and [Y]; the row's own sentence where it has no template",
        ),
        Column(
            name="uuid",
            type=pa.string(),
            meaning="id of the probe's row",
            null_means="the row has none",
        ),
        *_of_lama_entity("sub", "subject"),
        *_of_lama_entity("obj", "object"),
        Column(
            name="is_stated",
            type=pa.bool_(),
            meaning=(
                "true where the KB has the triple, and subject and object are linked in one "
                "sentence of the corpus (fact_support)"
            ),
            null_means=_NO_FACTS,
        ),
        Column(
            name="stated_sentences",
            type=pa.uint64(),
            meaning="number of such sentences",
            null_means=_NO_FACTS,
        ),
        Column(
            name="stated_documents",
            type=pa.uint64(),
            meaning="documents with both, in one sentence or not",
            null_means=_NO_FACTS,
        ),
        Column(
            name="rank",
            type=pa.uint32(),
            meaning="place of the right answer among the candidates, from 1; ties count against it",
        ),
        Column(
            name="filtered_rank",
            type=pa.uint32(),
            meaning="the same without the other objects that the probes name for the subject",
        ),
        Column(
            name="p_gold",
            type=pa.float32(),
            meaning="probability of the right answer, over the whole vocabulary",
        ),
        Column(
            name="answers",
            type=list_of(pa.string()),
            meaning=f"the {NUM_ANSWERS} best candidates, best first; fewer if there are fewer",
        ),
        Column(
            name="p_answers",
            type=list_of(pa.float32()),
            meaning="their probabilities, over the whole vocabulary",
        ),
    ),
)

MLM_ITEMS = Table(
    name="mlm_items",
    version=1,
    row="fact of the validation split that was asked by the mask of its object",
    key=("model", "sentence"),
    columns=(
        Column(name="model", type=pa.string(), meaning="name or folder of the model"),
        Column(
            name="sentence",
            type=pa.uint64(),
            meaning="row of the sentence in `examples`, from 0 over all its files in order",
        ),
        Column(name="predicate", type=pa.uint32(), meaning="PID of the relation"),
        *_of_entity("sub", "subject"),
        *_of_entity("obj", "object"),
        Column(
            name="rank",
            type=pa.uint32(),
            meaning="place of the object among itself and the false ones; ties count against it",
        ),
        Column(name="num_false", type=pa.uint32(), meaning="false objects that it is ranked among"),
        Column(
            name="p_gold",
            type=pa.float64(),
            meaning="probability of the object's label, the product over its tokens",
        ),
        Column(name="p_false", type=pa.float64(), meaning="mean of that of the false objects"),
        Column(
            name="cka_score",
            type=pa.float64(),
            meaning="(p_gold + 0.001) / (p_false + 0.001); 1: as likely as the false ones",
        ),
    ),
)


def _of_answered(place: str, score: str, answer: str) -> tuple[Column, ...]:
    """Declare the columns of a question whose candidates are the answers of its relation alone."""
    return (
        Column(name="model", type=pa.string(), meaning="name or folder of the model"),
        Column(name="relation", type=pa.string(), meaning="relation, such as P36"),
        Column(name="template", type=pa.string(), meaning="its text, with [X] and [Y]"),
        Column(name="sub_label", type=pa.string(), meaning="label of the subject"),
        Column(name="sub_qid", type=pa.uint32(), meaning="QID of the subject", null_means=_NO_QID),
        Column(name="obj_label", type=pa.string(), meaning="label of the right answer"),
        Column(
            name="obj_qid", type=pa.uint32(), meaning="QID of the right answer", null_means=_NO_QID
        ),
        Column(
            name="rank",
            type=pa.uint32(),
            meaning=f"place of the right answer among {place}, from 1; ties count against it",
        ),
        Column(name="score", type=pa.float64(), meaning=score),
        Column(name="is_right", type=pa.bool_(), meaning="whether the rank is 1"),
        Column(
            name="answer",
            type=pa.string(),
            meaning=answer,
            null_means="two or more are equally good",
        ),
    )


PARAPHRASE_ITEMS = Table(
    name="paraphrase_items",
    version=1,
    row="fact that was asked by one pattern of its relation",
    key=("model", "relation", "template", "sub_label", "obj_label"),
    columns=_of_answered(
        "the objects of its relation",
        "log-probability of the right answer at the mask, over the whole vocabulary",
        "the best candidate, as one token reads",
    ),
)

BEAR_ITEMS = Table(
    name="bear_items",
    version=1,
    row="instance of a BEAR probe that was asked by one template of its relation",
    key=("model", "relation", "template", "sub_qid", "sub_label", "obj_label"),
    columns=_of_answered(
        "the answers of its relation",
        "pseudo-log-likelihood of the sentence with the right answer",
        "the best answer",
    ),
)
