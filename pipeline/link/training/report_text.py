"""Format the report of `link train` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.link.disambiguation import Model
from pipeline.link.features import GROUPS

# Figures of a row, and their titles.
COLUMNS = (
    ("gold_in_kb", "in KB"),
    ("accuracy", "accuracy"),
    ("recall_at_1", "R@1"),
    ("recall_at_5", "R@5"),
    ("recall_at_20", "R@20"),
    ("candidate_recall", "recall"),
    ("rare", "rare"),
    ("rare_n", "n"),
    ("rare_whole", "rare*"),
    ("rare_whole_n", "n"),
    ("calibration_error", "ECE"),
    ("calibration_error_in_kb", "ECE in KB"),
    ("precision_at_half", "P@.5"),
)


def format_training(report: Mapping[str, Any], model: Model) -> str:
    """Return the figures of the held-out folds and of the ablation, if any, and the weights."""
    lines = [
        f"{report['mentions']:,} gold mentions, {report['folds']} folds by document; held out:"
    ]
    lines += _table({**report["figures"], "by shipped weights": report["shipped"]})
    for name, figures in report.get("without", {}).items():
        rows = {
            f"- {name}" if file == "all" else f"    {file}": values
            for file, values in figures.items()
        }
        # Without the titles, which the first table has.
        lines += _table(rows)[1:]

    lines.append("rare*: among the candidates that have the whole name.")
    lines.append(_kept_in_words(report))
    lines.append("Weights:")
    for group, names in GROUPS.items():
        weights = [f"{name} {model.weights[name]:+.3f}" for name in names if name in model.weights]
        if weights:
            lines.append(f"  {group:10} {', '.join(weights)}")
    return "\n".join([*lines, f"  bias       {model.bias:+.3f}"])


def _kept_in_words(report: Mapping[str, Any]) -> str:
    """Return which weights were not fitted, and why."""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in report["known"].items())
    kept = ", ".join(report["kept"]) or "none"
    return (
        f"Known of the gold items: {shares}; weights that stay as set by hand, since too little is "
        f"known: {kept}. Penalty on the distance from those set by hand: {report['penalty']}."
    )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line of titles and a line per row."""
    # Wide enough for all names of features, so that the tables of an ablation are aligned.
    width = max(22, *(len(name) for name in rows))
    lines = [" " * width + "".join(f"{title:>11}" for _, title in COLUMNS)]
    for name, values in rows.items():
        cells = "".join(f"{_cell(values[key]):>11}" for key, _ in COLUMNS)
        lines.append(f"{name:{width}}{cells}")
    return lines


def _cell(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
