"""The rows of the sample, as each stage's algorithm makes them: other rows need another version.

`algorithms.json` holds, for each stage, the version of its algorithm and a digest of what it makes
of the sample. A change of code that changes a digest has to raise `algorithm` of the stage in
`pipeline.flow`, so that older output counts as out of date; then `python -m
tests.pipeline.engine.test_algorithms` writes the file again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import flow
from pipeline.engine.tables import RunPaths, read_table
from tests.pipeline import tiny_model
from tests.pipeline.cases import in_process, sample_arguments

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("algorithms.json")
# Logarithms of another mathematical library may differ in the last bit; the tokenizer is the model's.
OTHER_FILES = ("entity.idf.npy", "checksums.json", "tokenizer.json", "tokenizer_config.json")
# Bits that compare a computed number with a bound.
BOUNDED = ("policies",)


def make_run(folder: Path) -> RunPaths:
    """The sample without a recogniser, whose numbers depend on the processor."""
    model, run = tiny_model.make(folder / "model"), folder / "run"
    settings = (
        "link.spacy_model=blank:en",
        f"importance.model={model}",
        "importance.dtype=float32",
    )
    done = in_process("run", *sample_arguments(run), *(f"--set={text}" for text in settings))
    assert done.returncode == 0, done.stderr
    return RunPaths(root=str(run))


def is_float(kind: pa.DataType) -> bool:
    """Whether a type holds a floating-point number at any depth."""
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_floating(kind) or any(map(is_float, inner))


def numbers_in(values: Any) -> list[float]:
    if isinstance(values, float):
        return [values]
    inner = values.values() if isinstance(values, dict) else values
    if isinstance(values, dict | list):
        return [number for value in inner for number in numbers_in(value)]
    return []


def described(paths: RunPaths, stage: flow.Stage) -> dict[str, Any]:
    """Digests of rows without computed numbers, and sums of these; digests of other files."""
    found: dict[str, Any] = {"algorithm": stage.algorithm}
    for table in stage.writes:
        rows = read_table(paths.files(stage.name, table), table)
        computed = [name for name in rows.column_names if is_float(rows.schema.field(name).type)]
        exact = rows.drop_columns([*computed, *set(BOUNDED) & set(rows.column_names)])
        lines = sorted(json.dumps(row, sort_keys=True, default=str) for row in exact.to_pylist())
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        sums = {name: float(np.sum(numbers_in(rows[name].to_pylist()))) for name in computed}
        found[table.name] = {"rows": rows.num_rows, "digest": digest, "sums": sums}
    others = {
        entry.path.split("/", 1)[1]: entry.sha256[:16]
        for entry in paths.finished(stage.name).artefacts
        if not entry.path.endswith(OTHER_FILES)
    }
    return found | {"files": others}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return make_run(tmp_path_factory.mktemp("algorithms"))


@pytest.mark.parametrize("stage", flow.STAGES, ids=[stage.name for stage in flow.STAGES])
def test_other_rows_have_another_version(paths: RunPaths, stage: flow.Stage) -> None:
    golden = json.loads(GOLDEN.read_text())[stage.name]
    found = described(paths, stage)
    for table in stage.writes:
        ours, theirs = found[table.name].pop("sums"), golden[table.name].pop("sums")
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3), table.name
    assert found == golden, (
        f"{stage.name} makes other rows than its algorithm {golden['algorithm']} did: "
        "raise its `algorithm` in pipeline/flow.py, then run "
        "`python -m tests.pipeline.engine.test_algorithms`"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        made = make_run(Path(scratch))
        content = {stage.name: described(made, stage) for stage in flow.STAGES}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN} was written\n")
