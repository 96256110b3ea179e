"""Shards are read by the `datasets` library, as docs/shards.md shows it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.trelm_train import world
from trelm_train.data.shards import Shards, read_lists


def loaded(shards_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the example of the docs."""
    text = (ROOT / "docs" / "shards.md").read_text()
    (code,) = re.findall(r"```python\n([^`]*load_dataset[^`]*)```", text)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.chdir(shards_path.parent)
    names: dict[str, Any] = {}
    exec(code.replace("runs/mine/shards", shards_path.name), names)
    return names["examples"]


# What the library warns of is its own: an interpreter without lzma, a fork with threads.
@pytest.mark.filterwarnings("ignore")
def test_datasets_gives_the_rows_of_the_files(
    shards_path: Path, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = loaded(shards_path, tmp_path, monkeypatch)

    assert examples.num_rows == len(world.sentences())
    names = ["input_ids", "span_start", "span_entity_row", "fact_head_span"]
    at = 0
    for lists in read_lists(shards.row_groups, names):
        num_rows = len(lists["input_ids"].offsets) - 1
        rows = examples[at : at + num_rows]
        for name in names:
            values, offsets = lists[name].values, lists[name].offsets
            expected = [values[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)]
            assert rows[name] == expected, name
        at += num_rows
    assert at == examples.num_rows
    assert set(examples.unique("split")) <= {"train", "validation"}
    manifest = json.loads((shards_path / "manifest.json").read_text())
    assert examples.num_rows == manifest["tables"]["examples"]["rows"]
