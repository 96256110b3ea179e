"""Sections on links: confidence and calibration, detectors, mentions without an item."""

from __future__ import annotations

from typing import Any

from pipeline.report import link_charts
from pipeline.report.facts import Calibration, Facts
from pipeline.report.markup import Markup, interval, joined, number, percent, table, tag
from pipeline.report.parts import figure, legend, note, para, share_cell

THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def confidence(found: Facts) -> Markup:
    """Confidence of links, and calibration where there is gold."""
    limit = float(found.manifests["link"].config.get("min_confidence", 0))
    bins = [
        (
            f"{low:.2f} to {low + 0.05:.2f}",
            number(int(found.confidences.linked[at : at + 5].sum())),
            number(int(found.confidences.nil[at : at + 5].sum())),
        )
        for at, low in ((place * 5, place / 20) for place in range(20))
    ]
    caption = "The probability that the linker gives to its best candidate. A mention without a candidate has confidence 0."
    keys = [("linked", "linked"), ("nil", "NIL")] + (
        [("anchors", "the corpus's own links")] if found.confidences.anchors else []
    )
    shown = figure(
        link_charts.confidence_plot(found.confidences, limit), caption,
        table("Mentions by confidence", ("Confidence", "#Linked", "#NIL"), bins), legend(*keys),
    )  # fmt: skip
    return joined(
        [shown, calibration(found.calibration) if found.calibration else thresholds(found, limit)]
    )


def thresholds(found: Facts, limit: float) -> Markup:
    """What would stay linked above each confidence, and the precision that the confidences promise."""
    total = found.confidences.above(0)[0]
    rows = []
    for threshold in sorted({round(limit, 2), *(one for one in THRESHOLDS if one > limit)}):
        count, mean = found.confidences.above(threshold)
        rows.append(
            (
                f"{threshold:g}",
                number(count),
                share_cell(count / max(total, 1), "linked"),
                percent(mean),
            )
        )
    text = (
        "If links below a confidence were cut: what stays, and the mean confidence of what stays, which is the precision one "
        "would expect if confidence were right. Whether it is, only gold links tell; the corpus's own links are left out."
    )
    heads = ("From", "#Links", "Stays", "#Expected precision")
    return joined(
        [
            tag("h3", "Expected precision by threshold"),
            para(text),
            table("Expected precision by threshold", heads, rows, quiet=True),
            note(
                "Calibration needs gold links: ",
                tag("code", f"trelm-pipeline report --run {found.run} --gold FILE"),
            ),
        ]
    )


def calibration(given: Calibration) -> Markup:
    """The reliability diagram, and what else the gold says."""
    scores = given.scores
    both = [scores["calibration"][name] for name in ("all", "in_kb")]
    found_bins = both[0]["bins"]
    text = f"Measured on {number(scores['documents'])} documents with {number(scores['gold_mentions'])} gold mentions: "
    rows = [
        (
            "expected calibration error",
            *(number(one["expected_calibration_error"], 4) for one in both),
        ),
        ("Brier score", *(number(one["brier"], 4) for one in both)),
        ("gold spans that were judged", *(number(one["judged"]) for one in both)),
        *(
            (
                f"precision where {percent(float(share), 0)} are answered",
                *(number(one["precision_at_coverage"][share], 4) for one in both),
            )
            for share in both[0]["precision_at_coverage"]
        ),
    ]
    parts = [tag("h3", "Calibration"), para(text, _quality(scores), tag("code", given.gold), ".")]
    if found_bins:
        values = table(
            "Accuracy by confidence", ("#Confidence", "#Right", "#Gold spans"),
            [(f"{one['confidence']:.3f}", f"{one['accuracy']:.3f}", number(one["count"])) for one in found_bins],
        )  # fmt: skip
        caption = "On the dashed diagonal, confidence means what it says; the larger the dot, the more gold spans."
        parts.append(figure(link_charts.reliability_plot(found_bins), caption, values))
    return joined(
        [
            *parts,
            table(
                "Calibration of the best candidate",
                ("Figure", "#All gold spans", "#Those in the KB"),
                rows,
            ),
        ]
    )


def _quality(scores: dict[str, Any]) -> str:
    if "f1" in scores:
        precision, recall, f1 = (number(scores[name], 3) for name in ("precision", "recall", "f1"))
        return f"end to end, precision {precision}, recall {recall}, F1 {f1}. Gold: "
    return f"at gold spans, accuracy {number(scores['accuracy'], 3)}. Gold: "


def detectors(found: Facts) -> Markup:
    """What found the mentions."""
    total = sum(one.num_mentions for one in found.detectors)
    rows = [
        (
            one.name.replace("+", " + "),
            number(one.num_mentions),
            share_cell(one.num_mentions / max(total, 1), "linked"),
            percent(one.num_linked / one.num_mentions),
            number(one.mean_confidence, 3),
        )
        for one in found.detectors
    ]
    text = (
        "Which detector found a mention; several, where they agree on its span. ner: the recogniser; dictionary: names of the "
        "knowledge base; anchor: links of the corpus; reuse: a name that the document has linked before; gold: given spans."
    )
    heads = ("Detector", "#Mentions", "Share", "#Linked", "#Mean confidence")
    return joined([para(text), table("Detectors", heads, rows, quiet=True)])


def nil(found: Facts) -> Markup:
    """Mentions without an item."""
    tail = found.tail
    num_nil = tail["num_mentions"] - tail["num_linked"]
    if not num_nil:
        return note("Every mention is linked.")
    ends = interval(tail["nil_share_low"], tail["nil_share_high"], 1, as_percent=True)
    text = (
        f"{number(num_nil)} mentions have no item: {percent(tail['nil_share'])}{f' (95% interval {ends})' if ends else ''}. "
        f"{number(found.nil_unknown)} of them had no candidate; the others' best was below the limit of confidence."
    )
    surfaces = [
        (
            tag("bdi", one.surface),
            number(one.num_mentions),
            number(one.best, 3) if one.best else "no candidate",
        )
        for one in found.nil_surfaces
    ]
    types = [
        (
            one.name or "not by it",
            number(one.num_mentions),
            share_cell(one.num_nil / one.num_mentions, "nil"),
        )
        for one in found.nil_types
    ]
    return joined(
        [
            para(text),
            tag(
                "div",
                table(
                    "Most frequent texts without an item",
                    ("Text", "#Mentions", "#Best confidence"),
                    surfaces,
                ),
                table("NIL by type of the recogniser", ("Type", "#Mentions", "NIL share"), types),
                class_="pair",
            ),
        ]
    )
