"""A run that is killed, in a step or while it writes a checkpoint, goes on as if it had not been."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.run_lock import LOCK_NAME, LockedError
from tests.pausing import PATIENCE_S
from tests.trelm_train import forked
from tests.trelm_train.conftest import SMALL, request_for
from trelm_train.checkpoints.checkpoint import latest_checkpoint, load_checkpoint
from trelm_train.training.train import run, run_or_resume

pytestmark = pytest.mark.slow

STEPS = 24
SETS = (
    "train.checkpoint_every=1",
    "train.log_every=1",
    f"train.steps={STEPS}",
    "routing.refresh_every=5",
)


def arguments(shards: Path, model: Path, out: Path, *sets: str) -> list[str]:
    pairs = [part for one in (*SMALL, *SETS, *sets) for part in ("--set", one)]
    return [
        "run",
        "--resume",
        "auto",
        "--shards",
        str(shards),
        "--model",
        str(model),
        "--out",
        str(out),
        *pairs,
    ]


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "speed"} for line in lines]


@pytest.fixture(scope="module")
def whole(shards_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("killed") / "whole"
    run(request_for(shards_path, model_path, out, *SETS))
    return out


CHECKPOINT, TRAIN = "trelm_train.checkpoints.checkpoint", "trelm_train.training.train"
DURABLE = "schemas.durable"
PLACES = (  # each run goes on where the one before was killed
    (TRAIN, "train_step", 4),  # before a step
    (CHECKPOINT, "_settle", 3),  # tensors written, no name yet
    (DURABLE, "publish", 1),  # the settings written again, but for their name
    (CHECKPOINT, "sync", 18),  # of five per checkpoint the third: some files are on the disk
    (TRAIN, "state_of", 2),  # about to save
)


@pytest.mark.parametrize("background", [False, True])
def test_killed_again_and_again(
    *, background: bool, whole: Path, shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sets = (f"train.async_checkpoint={str(background).lower()}",)
    partial = 0
    for place in PLACES:
        words = arguments(shards_path, model_path, out, *sets)
        process = forked.start(words, tmp_path / "output", killed_at=place)
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "output" / "stderr").read_text()
        partial += bool(list((out / "checkpoints").glob(".step-*.partial")))
    assert partial >= 2  # checkpoints were being written
    assert 0 < load_checkpoint(latest_checkpoint(out / "checkpoints") or out).state["step"] < STEPS
    run_or_resume(request_for(shards_path, model_path, out, *SETS, *sets))
    assert not list(out.rglob("*.part"))
    assert lines_of(out) == lines_of(whole)
    left, right = (
        load_checkpoint(latest_checkpoint(path / "checkpoints") or path) for path in (whole, out)
    )
    assert left.state["guard"] == right.state["guard"]
    assert (
        left.tensors.keys()
        == right.tensors.keys()
        == {"model", "optimiser", "cka", "sparse", "router"}
    )
    assert (left.path / "bank.safetensors").read_bytes() == (
        right.path / "bank.safetensors"
    ).read_bytes()
    for group, named in left.tensors.items():
        assert named.keys() == right.tensors[group].keys()
        for name, value in named.items():
            assert torch.equal(value, right.tensors[group][name]), f"{group}/{name}"


def test_resume_auto_starts_where_there_is_nothing(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    request = request_for(
        shards_path, model_path, tmp_path / "out", "train.steps=2", "train.validate=false"
    )
    assert run_or_resume(request)["steps"] == 2
    assert run_or_resume(request)["steps"] == 2  # done already: nothing is trained again


def test_resume_auto_keeps_what_was_chosen_automatically(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    automatic = ("routing.policy=auto", "routing.learning_rate_scale=0", "train.learning_rate=0")
    request = request_for(
        shards_path,
        model_path,
        tmp_path / "out",
        "train.steps=2",
        "train.validate=false",
        *automatic,
    )
    assert run_or_resume(request)["steps"] == 2
    written = (tmp_path / "out" / "config.toml").read_text()
    assert 'policy = "full"' in written, "a model of three layers is shallow"
    assert "learning_rate = 0.002" in written
    assert run_or_resume(request)["steps"] == 2
    assert (tmp_path / "out" / "config.toml").read_text() == written


def test_resume_auto_changes_nothing_that_another_program_holds(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    """Nor do several ranks write its settings at once: the first one does, when they have met."""
    out = tmp_path / "out"
    sets = ("train.steps=2", "train.validate=false")
    run_or_resume(request_for(shards_path, model_path, out, *sets))
    written = (out / "config.toml").read_bytes()
    (out / LOCK_NAME).write_text('{"program": "trelm-train", "pid": 1, "host": "elsewhere"}\n')
    with pytest.raises(LockedError, match="on elsewhere.* writes there"):
        run_or_resume(request_for(shards_path, model_path, out, *sets, "train.keep_checkpoints=5"))
    assert (out / "config.toml").read_bytes() == written


def test_resume_auto_refuses_other_settings(
    shards_path: Path, model_path: Path, tmp_path: Path
) -> None:
    from schemas.errors import ConfigError

    run_or_resume(
        request_for(
            shards_path, model_path, tmp_path / "out", "train.steps=2", "train.validate=false"
        )
    )
    with pytest.raises(ConfigError, match=r"other settings \(memory\.decay\)"):
        run_or_resume(
            request_for(shards_path, model_path, tmp_path / "out", "train.steps=2", "train.validate=false",
                        "memory.decay=0.3")
        )  # fmt: skip
    allowed = request_for(shards_path, model_path, tmp_path / "out", "train.steps=2", "train.validate=false",
                          "train.keep_checkpoints=5", "train.loggers=[]")  # fmt: skip
    assert run_or_resume(allowed)["steps"] == 2
    assert (
        "keep_checkpoints = 5" in (tmp_path / "out" / "config.toml").read_text()
    )  # and it counts from now on
    with pytest.raises(ConfigError, match=r"other settings \(--model\)"):
        run_or_resume(replace(allowed, model="another/model"))
