"""Make the sections on links: confidence and calibration, detectors, mentions without an item."""

from __future__ import annotations

from typing import Any

from pipeline.report import link_charts
from pipeline.report.facts import Calibration, ReportContent
from pipeline.report.markup import Markup, interval, joined, number, percent, table, tag
from pipeline.report.parts import figure, legend, note, para, share_cell

THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# A row of the table of confidences stands for this many fine bins.
ROW_BINS = 5


def confidence(content: ReportContent) -> Markup:
    """Return the confidence of links, and calibration where there is gold."""
    confidences = content.confidences
    rows = []
    for index in range(20):
        low, fine = index / 20, index * ROW_BINS
        linked = confidences.linked[fine : fine + ROW_BINS].sum()
        nil = confidences.nil[fine : fine + ROW_BINS].sum()
        rows.append((f"{low:.2f} to {low + 0.05:.2f}", number(int(linked)), number(int(nil))))
    values = table("Mentions by confidence", ("Confidence", "#Linked", "#NIL"), rows)

    keys = [("linked", "linked"), ("nil", "NIL")]
    if confidences.anchors:
        keys.append(("anchors", "the corpus's own links"))
    limit = float(content.manifests["link"].config.get("min_confidence", 0))
    caption = (
        "The probability that the linker gives to its best candidate. A mention without a "
        "candidate has confidence 0."
    )
    plot = link_charts.confidence_plot(confidences, limit)

    plot_figure = figure(plot, caption, values, legend(*keys))

    # Without gold, nothing shows whether the confidences are right.
    if content.calibration:
        return joined([plot_figure, calibration(content.calibration)])
    return joined([plot_figure, thresholds(content, limit)])


def thresholds(content: ReportContent, limit: float) -> Markup:
    """Return what would stay linked above each confidence, and the expected precision.

    Args:
        content: the report.
        limit: the linker's limit of confidence: only higher thresholds are shown beside it.
    """
    # Shares of all links but the corpus's own, which have no confidence to cut by.
    total = content.confidences.above(0)[0]
    # The linker has cut all links below its limit already: lower thresholds would change nothing.
    higher = {threshold for threshold in THRESHOLDS if threshold > limit}
    rows = []
    for threshold in sorted({round(limit, 2), *higher}):
        count, mean = content.confidences.above(threshold)
        stays = share_cell(count / max(total, 1), "linked")
        rows.append((f"{threshold:g}", number(count), stays, percent(mean)))

    text = (
        "If links below a confidence were cut: what stays, and the mean confidence of what stays, "
        "which is the precision one would expect if confidence were right. Whether it is, only "
        "gold links tell; the corpus's own links are left out."
    )
    heads = ("From", "#Links", "Stays", "#Expected precision")
    command = tag("code", f"trelm-pipeline report --run {content.run} --gold FILE")
    return joined(
        [
            tag("h3", "Expected precision by threshold"),
            para(text),
            table("Expected precision by threshold", heads, rows, quiet=True),
            note("Calibration needs gold links: ", command),
        ]
    )


def calibration(gold: Calibration) -> Markup:
    """Return the reliability diagram, and the other scores against the gold."""
    scores = gold.scores
    text = (
        f"Measured on {number(scores['documents'])} documents with "
        f"{number(scores['gold_mentions'])} gold mentions: "
    )
    elements = [
        tag("h3", "Calibration"),
        para(text, _quality(scores), tag("code", gold.gold), "."),
    ]

    # Gold spans outside the knowledge base can only be right as NIL, so the bins are those of all.
    bins = scores["calibration"]["all"]["bins"]
    if bins:
        values = table(
            "Accuracy by confidence",
            ("#Confidence", "#Right", "#Gold spans"),
            [
                (f"{bin_['confidence']:.3f}", f"{bin_['accuracy']:.3f}", number(bin_["count"]))
                for bin_ in bins
            ],
        )
        caption = (
            "On the dashed diagonal, confidence means what it says; the larger the dot, the more "
            "gold spans."
        )
        elements.append(figure(link_charts.reliability_plot(bins), caption, values))

    heads = ("Figure", "#All gold spans", "#Those in the KB")
    rows = _calibration_rows(scores)
    return joined([*elements, table("Calibration of the best candidate", heads, rows)])


def _calibration_rows(scores: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the figures of calibration, over all gold spans and over those in the KB."""
    by_group = [scores["calibration"][name] for name in ("all", "in_kb")]

    def row(name: str, figures: list[float | None], digits: int = 4) -> tuple[str, ...]:
        return (name, *(number(value, digits) for value in figures))

    rows = [
        row(
            "expected calibration error",
            [group["expected_calibration_error"] for group in by_group],
        ),
        row("Brier score", [group["brier"] for group in by_group]),
        row("gold spans that were judged", [group["judged"] for group in by_group], 0),
    ]
    # The shares are those that the evaluation chose.
    for share in by_group[0]["precision_at_coverage"]:
        name = f"precision where {percent(float(share), 0)} are answered"
        rows.append(row(name, [group["precision_at_coverage"][share] for group in by_group]))
    return rows


def _quality(scores: dict[str, Any]) -> str:
    """Return the main score in words: end to end, or accuracy where the spans were given."""
    # End-to-end scores exist only where the linker found the spans itself.
    if "f1" in scores:
        precision, recall, f1 = (number(scores[name], 3) for name in ("precision", "recall", "f1"))
        return f"end to end, precision {precision}, recall {recall}, F1 {f1}. Gold: "
    return f"at gold spans, accuracy {number(scores['accuracy'], 3)}. Gold: "


def detectors(content: ReportContent) -> Markup:
    """Return the table of detectors of mentions."""
    total = sum(detector.num_mentions for detector in content.detectors)
    rows = [
        (
            # Spaces let a long agreement of detectors break into lines.
            detector.name.replace("+", " + "),
            number(detector.num_mentions),
            share_cell(detector.num_mentions / max(total, 1), "linked"),
            percent(detector.num_linked / detector.num_mentions),
            number(detector.mean_confidence, 3),
        )
        for detector in content.detectors
    ]

    text = (
        "Which detector found a mention; several, where they agree on its span. ner: the "
        "recogniser; dictionary: names of the knowledge base; anchor: links of the corpus; reuse: "
        "a name that the document has linked before; gold: given spans."
    )
    heads = ("Detector", "#Mentions", "Share", "#Linked", "#Mean confidence")
    return joined([para(text), table("Detectors", heads, rows, quiet=True)])


def nil(content: ReportContent) -> Markup:
    """Return the mentions without an item."""
    tail = content.tail
    num_nil = tail["num_mentions"] - tail["num_linked"]
    if not num_nil:
        return note("Every mention is linked.")

    # The interval is missing where nothing is linked.
    ends = interval(tail["nil_share_low"], tail["nil_share_high"], 1, as_percent=True)
    interval_text = f" (95% interval {ends})" if ends else ""
    text = (
        f"{number(num_nil)} mentions have no item: {percent(tail['nil_share'])}{interval_text}. "
        f"{number(content.nil_unknown)} of them had no candidate; the others' best was below the "
        "limit of confidence."
    )

    surface_rows = [
        (
            tag("bdi", nil_surface.surface),
            number(nil_surface.num_mentions),
            number(nil_surface.best, 3) if nil_surface.best else "no candidate",
        )
        for nil_surface in content.nil_surfaces
    ]
    # Mentions that the dictionary alone found have no type.
    type_rows = [
        (
            nil_type.name or "not by it",
            number(nil_type.num_mentions),
            share_cell(nil_type.num_nil / nil_type.num_mentions, "nil"),
        )
        for nil_type in content.nil_types
    ]

    surface_heads = ("Text", "#Mentions", "#Best confidence")
    tables = (
        table("Most frequent texts without an item", surface_heads, surface_rows),
        table("NIL by type of the recogniser", ("Type", "#Mentions", "NIL share"), type_rows),
    )
    return joined([para(text), tag("div", *tables, class_="pair")])
