"""The report of `link train` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.link.disambiguation import Model
from pipeline.link.features import GROUPS

COLUMNS = (
    ("gold_in_kb", "in KB"), ("accuracy", "accuracy"), ("recall_at_1", "R@1"), ("recall_at_5", "R@5"), ("recall_at_20", "R@20"),
    ("candidate_recall", "recall"), ("rare", "rare"), ("rare_n", "n"), ("rare_whole", "rare*"), ("rare_whole_n", "n"),
    ("calibration_error", "ECE"), ("calibration_error_in_kb", "ECE in KB"), ("precision_at_half", "P@.5"),
)  # fmt: skip


def format_training(report: Mapping[str, Any], model: Model) -> str:
    """Figures of the held-out folds, the ablation if there is one, and the weights."""
    lines = [
        f"{report['mentions']:,} gold mentions, {report['folds']} folds by document; held out:"
    ]
    rows = dict(report["figures"])
    lines += _table(rows)
    for name, found in report.get("without", {}).items():
        rows = {
            f"- {name}" if file == "all" else f"    {file}": values
            for file, values in found.items()
        }
        lines += _table(rows)[1:]
    lines.append("rare*: among the candidates that have the whole name. Weights:")
    for group, names in GROUPS.items():
        said = [f"{name} {model.weights[name]:+.3f}" for name in names if name in model.weights]
        if said:
            lines.append(f"  {group:10} {', '.join(said)}")
    return "\n".join([*lines, f"  bias       {model.bias:+.3f}"])


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max(22, *(len(name) for name in rows))
    lines = [" " * width + "".join(f"{title:>11}" for _, title in COLUMNS)]
    for name, values in rows.items():
        lines.append(
            f"{name:{width}}" + "".join(f"{_shown(values[key]):>11}" for key, _ in COLUMNS)
        )
    return lines


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
