"""The memory bank's benchmark: what it prints, that the ways agree, and that its parts of a step
are all there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import child, harness, memory_bank, memory_bank_step
from benchmarks.memory_bank_ways import Plain, steps
from tests.benchmarks.test_dump_parse import DOCUMENTED
from trelm_train.config import MemoryConfig
from trelm_train.memory.memory_bank import MemoryBank

DETAILS = {
    "create_s",
    "gather_ms",
    "update_ms",
    "save_s",
    "load_s",
    "disk_mb",
    "checkpoint_mb",
    "rows",
    "rss_mb",
}


def in_this_process(variant: harness.Variant, scratch: Path) -> dict[str, Any]:
    """Quicker than a process each."""
    out = scratch / variant.name
    out.mkdir(exist_ok=True)
    request = {
        "target": variant.target,
        "arguments": dict(variant.arguments),
        "core": None,
        "scratch": str(out),
    }
    return child.run(request)


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> memory_bank.Setup:
    monkeypatch.setattr(harness, "run_once", in_this_process)
    monkeypatch.setattr(memory_bank, "HIDDEN", 16)
    return memory_bank.Setup(folder=tmp_path, steps=8, rounds=1, quick=True)


def printed(fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    harness.emit(fields)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_sizes(setup: memory_bank.Setup, capsys: pytest.CaptureFixture[str]) -> None:
    (fields,) = memory_bank.CASES["rows_10000"](setup)
    found = printed(fields, capsys)
    assert found.keys() >= DOCUMENTED
    assert found["variants"]["ram"].keys() >= DETAILS
    assert found["variants"]["file"]["disk_mb"] > 0
    assert found["variants"]["ram"]["rows"] == found["variants"]["file"]["rows"]
    assert found["peers"].keys() == {"zeros", "loop"}


def test_query(
    setup: memory_bank.Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_bank, "SIZES", (30_000,))
    (fields,) = memory_bank.query(setup)
    found = printed(fields, capsys)
    assert found["ok"]
    assert found.keys() >= DOCUMENTED


def test_the_ways_agree() -> None:
    ours, plain = MemoryBank(100, 8, MemoryConfig()), Plain(100, 8)
    for notes in steps(100, 8, 30, 5):
        ours.write(notes)
        plain.write(notes)
    state = ours.state()
    assert torch.allclose(plain.note_B2H[state["row"]].float(), state["note"].float(), atol=2e-3)
    assert plain.count_B[state["row"]].tolist() == state["count"].tolist()
    rows = np.asarray([3, 5, 3])
    assert torch.allclose(ours.read(rows), plain.read(torch.from_numpy(rows)), atol=2e-3)


def test_parts_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bank_step, "SHAPES", {"mini": (1, 64)})
    monkeypatch.setattr(memory_bank_step, "ENTITIES", 2000)
    monkeypatch.setattr(memory_bank_step, "TAILS", 50)
    (tmp_path / "x").mkdir()
    found = memory_bank_step.share(tmp_path / "x", "mini", "ram", 256, 3, bf16=False, ffn_only=True)
    assert found["parts_ms"].keys() == set(memory_bank_step.PARTS)
    assert all(value > 0 for value in found["parts_ms"].values())
    assert found["memory_share"] < found["share"] < 1
    batch = memory_bank_step.made_batches(256, 1)[0]
    assert len(batch.fact_head_F)
    assert batch.num_tokens <= 256
