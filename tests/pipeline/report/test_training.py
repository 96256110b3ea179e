"""What a trainer left, damaged: no number that is none reaches the page, and nothing stops it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipeline.report.training import LossPoint, TrainingSources, _trained_run, read_training
from pipeline.report.training_sections import _ends
from schemas.errors import ConfigError

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


@pytest.mark.parametrize(
    "sources", [TrainingSources(runs=("gs://b/run",)), TrainingSources(items=("s3://b/a.parquet",))]
)
def test_a_bucket_is_refused_at_once(sources: TrainingSources) -> None:
    with pytest.raises(ConfigError, match="lies in a bucket; copy"):
        read_training(duckdb.connect(), sources)
