"""Read the rows of LAMA's probe files: which of them count, what they ask, what is right.

Pure: no model and no tokenizer. The rules are those of LAMA's published code (Petroni et al. 2019,
`batch_eval_KB_completion.py`); where one is ours, it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# An id that fits the columns of QIDs; a longer one is not Wikidata's.
QID = re.compile(r"Q([0-9]{1,9})")
# Masks as probe files write them, whatever the model's own mask is.
MASK, ANSWER, SUBJECT = "[MASK]", "[Y]", "[X]"
# LAMA leaves out longer sentences, counted between spaces.
MAX_WORDS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRow:
    """Hold what a row asks, before any model is known."""

    # With [Y] in the place of the answer; `template` has [X] in that of the subject too.
    sentence: str
    template: str
    # Whether the sentence is the row's own, as in SQuAD and ConceptNet.
    has_own_sentence: bool
    # The subject's id, or its name where the row has none: what tells subjects apart.
    subject: str
    # What rows stand or fall together by, see `drawn_by`.
    drawn_by: str
    sub_label: str
    obj_label: str
    # As numbers, Q42 as 42; None where the row names none.
    sub_qid: int | None
    obj_qid: int | None
    uuid: str | None


def qid_of(value: object) -> int | None:
    """Return the number of a QID such as "Q42", or None where this is none."""
    match = QID.fullmatch(str(value))
    return int(match[1]) if match else None


def row_of(template: str | None, row: dict[str, Any]) -> ProbeRow:
    """Put a row into its relation's template; without one it has a sentence of its own.

    Several sentences of a row are joined by spaces (ours; LAMA sets two of them as a pair, and
    takes no more).
    """
    sub_label = "" if row.get("sub_label") is None else str(row["sub_label"])
    if template is None:
        shown = " ".join(_sentences(row)).replace(MASK, ANSWER)
        sentence = shown
    else:
        shown = template.strip()
        # The subject first: one that holds "[Y]" gives two masks, and is refused later.
        sentence = shown.replace(SUBJECT, sub_label.strip())
    # Google-RE has Freebase's ids, and Wikidata's under other names than T-REx.
    sub_id, obj_id = (row.get(f"{side}_uri") or row.get(f"{side}_w") for side in ("sub", "obj"))
    uuid = row.get("uuid", row.get("id"))
    return ProbeRow(
        sentence=sentence,
        template=shown,
        has_own_sentence=template is None,
        subject=subject_of(row),
        drawn_by=drawn_by(template, row),
        sub_label=sub_label,
        obj_label=str(row["obj_label"]),
        sub_qid=qid_of(sub_id),
        obj_qid=qid_of(obj_id),
        uuid=None if uuid is None else str(uuid),
    )


def subject_of(row: dict[str, Any]) -> str:
    """Return the id of a row's subject; its name where it has none."""
    return str(row.get("sub_uri") or row.get("sub_w") or row.get("sub_label") or "")


def drawn_by(template: str | None, row: dict[str, Any]) -> str:
    """Return what rows stand or fall together by: their subject.

    Rows with a sentence of their own name none (ConceptNet) or all the same (SQuAD): of them it is
    the sentence.
    """
    return subject_of(row) if template is not None else " ".join(_sentences(row))


def skip_reason(
    row: dict[str, Any], pairs: set[tuple[str, str]], *, uhn: bool, uncased: bool = False
) -> str:
    """Return the reason why a row does not count, or an empty text, before it is tokenised.

    Args:
        row: of a relation with a template.
        pairs: the (subject, object) pairs of earlier rows; the pair of this row is added.
        uhn: drop rows whose object is part of the subject.
        uncased: pairs that differ in case alone are one question to this model.
    """
    for name in ("sub_label", "obj_label"):
        if reason := _label_reason(row, name):
            return reason

    # Google-RE: several people have judged each row. As in LAMA's own filter, whatever is not "yes"
    # ("no", "skip", nothing, what is no judgment at all) counts as a no.
    given = row.get("judgments", [])
    judgments = [
        judgment.get("judgment") if isinstance(judgment, dict) else None
        for judgment in (given if isinstance(given, list) else [given])
    ]
    num_yes = judgments.count("yes")
    if len(judgments) - num_yes > num_yes:
        return "judged_wrong"

    subject, answer = str(row["sub_label"]), str(row["obj_label"])
    if (subject, answer) in pairs:
        return "duplicate"
    pairs.add((subject, answer))
    if uncased:
        # The sign in front keeps them apart from the pairs as they are written.
        lowered = ("\0" + subject.lower(), answer.lower())
        if lowered in pairs:
            return "case_duplicate"
        pairs.add(lowered)

    # The name gives the answer away, as in (Apple Watch, Apple).
    if uhn and answer.casefold() in subject.casefold():
        return "uhn_string"
    return ""


def sentence_reason(row: dict[str, Any]) -> str:
    """Return the reason why a row with a sentence of its own does not count, or an empty text.

    Such rows may repeat, and have no subject: LAMA does not compare them.
    """
    if reason := _label_reason(row, "obj_label"):
        return reason
    sentences = _sentences(row)
    if not sentences:
        return "no_masked_sentence"
    return "over_100_words" if len(" ".join(sentences).split()) > MAX_WORDS else ""


def right_objects(rows: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the objects of each subject of a relation, in order, without rows that are wrong."""
    objects: dict[str, dict[str, None]] = {}
    for row in rows:
        # Without earlier pairs, and without UHN: what is easily guessed is right all the same.
        if not skip_reason(row, set(), uhn=False):
            objects.setdefault(subject_of(row), {})[str(row["obj_label"])] = None
    return {subject: list(of_subject) for subject, of_subject in objects.items()}


def _label_reason(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return "no_label"
    label = row[name]
    if label is None:
        return "null_label"
    # Years may be numbers.
    is_text = isinstance(label, str | int | float) and not isinstance(label, bool)
    return "" if is_text and str(label).strip() else "label_no_text"


def _sentences(row: dict[str, Any]) -> list[str]:
    """Return the sentences of a row, without those that are no text."""
    given = row.get("masked_sentences")
    sentences = given if isinstance(given, list) else [given]
    return [text.strip() for text in sentences if isinstance(text, str) and text.strip()]
