"""Format the scores of `evaluate` as aligned text, one section per question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# A row: its name, then its values.
Cells = list[Any]
# In characters.
NAME_WIDTH, NUMBER_WIDTH = 40, 9


def format_scores(scores: dict[str, Any]) -> str:
    """Return all scores as text, in sections of aligned columns."""
    head = (
        f"{scores['mode']}: {scores['documents']:,} documents, "
        f"{scores['gold_mentions']:,} gold mentions, "
        f"{scores['gold_in_kb']:,} of them in the KB"
    )
    if scores["kb_only"]:
        head += " (gold outside the KB is left out)"
    return "\n\n".join([head, *(_aligned(section) for section in _sections(scores))])


def _sections(scores: dict[str, Any]) -> Iterator[list[Cells]]:
    yield _in_kb(scores)
    if "detection" in scores:
        yield from _detection(scores["detection"], scores["gold_in_kb"])
    yield _candidate_recall(scores)
    if scores["slices"]:
        yield _slices(scores["slices"])
    yield _errors(scores)
    if "wrong_links" in scores:
        yield _wrong_links(scores["wrong_links"])
    yield _calibration(scores["calibration"])


def _in_kb(scores: dict[str, Any]) -> list[Cells]:
    if scores["mode"] == "gold spans":
        return [
            ["in-KB gold spans", ""],
            ["accuracy", scores["accuracy"]],
            ["accuracy of the best candidate", scores["accuracy_best_candidate"]],
        ]
    return [
        ["in-KB mentions", ""],
        ["precision", scores["precision"], f"of {scores['predicted']:,} linked mentions"],
        ["recall", scores["recall"]],
        ["F1", scores["f1"]],
        ["linked to another item", scores["wrong_item"]],
        ["linked without a gold span", scores["no_gold_span"]],
        [
            "NIL or not in KB, left unlinked",
            scores["nil_left_unlinked"],
            f"of {scores['nil_mentions']:,}",
        ],
    ]


def _detection(figures: dict[str, Any], gold_in_kb: int) -> Iterator[list[Cells]]:
    yield [
        ["in-KB gold spans found exactly", "recall", "gold"],
        ["all", figures["span_recall"], gold_in_kb],
        *(
            [f"first character: {name}", values["recall"], values["gold"]]
            for name, values in figures["span_recall_by_first_character"].items()
        ),
        ["accuracy of the item at found spans", figures["item_accuracy_at_found_spans"]],
    ]
    yield [
        ["in-KB gold spans by detector", "recall", "only by it"],
        *(
            [name, values["recall"], values["recall_only_by_it"]]
            for name, values in figures["detectors"].items()
        ),
    ]


def _candidate_recall(scores: dict[str, Any]) -> list[Cells]:
    rows: list[Cells] = [["candidate recall, in-KB", ""]]
    for cutoff, recall in scores["candidate_recall_at"].items():
        # The table lists no more candidates than link.top_k.
        is_unknown = recall is None and cutoff != "all" and int(cutoff) > scores["top_k"]
        note = [f"link.top_k is {scores['top_k']}"] if is_unknown else []
        rows.append([f"at {cutoff}" if cutoff != "all" else "all listed", recall, *note])
    return rows


def _slices(slices: dict[str, Any]) -> list[Cells]:
    # All slices have the same figures; which ones depends on the mode.
    names = list(next(iter(slices.values())))
    titles = {
        "gold_in_kb": "gold",
        "accuracy_best_candidate": "best candidate",
        "candidate_recall": "candidate recall",
    }
    return [
        ["slices, in-KB", *(titles.get(name, name) for name in names)],
        *([slice_name, *values.values()] for slice_name, values in slices.items()),
    ]


def _errors(scores: dict[str, Any]) -> list[Cells]:
    errors = scores["errors"]
    nil = errors["nil_linked"]
    return [
        ["errors, in-KB", "count", "share", "of gold"],
        *([name, *values.values()] for name, values in errors["classes"].items()),
        ["all", errors["wrong_in_kb"]],
        ["nil_linked (gold NIL or not in KB)", nil["count"], "", nil["share_of_gold"]],
    ]


def _wrong_links(classes: dict[str, Any]) -> list[Cells]:
    return [
        ["wrong links, by cause", "count", "of links"],
        *([name, *values.values()] for name, values in classes.items()),
    ]


def _calibration(figures: dict[str, Any]) -> list[Cells]:
    # One column for all gold spans, one for those in the KB.
    columns = (figures["all"], figures["in_kb"])
    names = {
        "spans": "gold spans",
        "judged": "with a candidate at exactly that span",
        "expected_calibration_error": "expected calibration error",
        "brier": "Brier score",
    }
    return [
        ["calibration of the best candidate", "all", "in-KB"],
        *([title, *(column[name] for column in columns)] for name, title in names.items()),
        *(
            [
                f"precision at coverage {coverage}",
                *(column["precision_at_coverage"][coverage] for column in columns),
            ]
            for coverage in columns[0]["precision_at_coverage"]
        ),
        [
            "precision at all that have a candidate",
            *(column["precision"] for column in columns),
        ],
        ["coverage by those", *(column["coverage"] for column in columns)],
        [
            "largest coverage with precision >= 0.95",
            *(column["coverage_at_precision_0.95"] for column in columns),
        ],
    ]


def _aligned(rows: list[Cells]) -> str:
    """Return rows as lines of aligned columns.

    The first row is the heading: its cells set the widths. Numbers are aligned to the right.
    """
    widths = [max(len(title), NUMBER_WIDTH) for title in rows[0][1:]]
    # Notes have no heading, and so no width.
    widths += [0] * (max(map(len, rows)) - len(rows[0]))

    lines = []
    for number, (name, *cells) in enumerate(rows):
        padded = [_cell(cell).rjust(width) for cell, width in zip(cells, widths, strict=False)]
        indented = ("  " if number else "") + name
        lines.append("  ".join([indented.ljust(NAME_WIDTH), *padded]).rstrip())
    return "\n".join(lines)


def _cell(value: float | str | None) -> str:
    # Counts are whole numbers, shares are not.
    if isinstance(value, str):
        return value
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
