"""What a trainer left, damaged: no number that is none reaches the page, and nothing stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.training import LossPoint, _trained_run
from pipeline.report.training_sections import _ends

HUGE = "1" + "0" * 400


@pytest.mark.parametrize("value", ["NaN", "Infinity", HUGE, '"3"', "null", "[3]"])
def test_what_is_no_number_is_left_out(tmp_path: Path, value: str) -> None:
    lines = [f'{{"step": 1, "mlm_loss": {value}}}', f'{{"step": {HUGE}, "mlm_loss": 3}}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    summary = (
        f'{{"steps": {value}, "validation_before": {{"loss": {value}}}, "validation_after": [1]}}'
    )
    (tmp_path / "summary.json").write_text(summary)

    run = _trained_run(tmp_path, "a")
    assert run.points == [LossPoint(1, None, None)]
    cells = _ends([run]).split("<tbody>")[1]
    assert "nan" not in cells
    assert "inf" not in cells
    assert cells.count("–") == 10
